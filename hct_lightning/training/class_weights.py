"""A weight for each class in the loss."""

from collections.abc import Sequence


def class_weights(option: str | Sequence[float] | None, counts: Sequence[int]) -> list[float] | None:
    """Weights with a mean of 1 over the training images, so that the learning rate keeps its meaning.

    Args:
        option: `loss.class_weights`: none, `balanced` (inverse frequency) or a list.
        counts: training images of each class.

    Raises:
        ValueError: for anything else, another number of weights than classes, negative ones, or none above 0.
    """
    if option is None:
        return None
    if option == "balanced":
        weights = [1 / count if count else 0.0 for count in counts]
    elif isinstance(option, Sequence) and all(isinstance(weight, int | float) for weight in option):
        weights = [float(weight) for weight in option]
    else:
        raise ValueError(f"loss.class_weights={option}: give balanced, or a list with a weight for each class")
    if len(weights) != len(counts):
        raise ValueError(f"loss.class_weights has {len(weights)} weights for {len(counts)} classes")
    mean = sum(w * n for w, n in zip(weights, counts, strict=True)) / sum(counts)
    if min(weights) < 0 or mean == 0:
        raise ValueError(f"loss.class_weights={weights}: give weights of at least 0, not all 0")
    return [weight / mean for weight in weights]
