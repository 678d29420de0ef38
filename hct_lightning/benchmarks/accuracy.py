"""What a model's answers on labelled images say of it, and of it beside another one."""

import math
from collections.abc import Sequence


def wilson(right: int, images: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of the accuracy `right / images`, at 95 % for z = 1.96.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    p = right / images
    centre = p + z * z / (2 * images)
    spread = z * math.sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    scale = 1 + z * z / images
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mcnemar(right: Sequence[bool], reference_right: Sequence[bool]) -> float:
    """The exact two-sided p-value that both are right equally often on the same images.

    Only the images count on which one of the two is right: under the hypothesis each is a fair coin.
    """
    pairs = list(zip(right, reference_right, strict=True))
    gained = sum(a and not b for a, b in pairs)
    lost = sum(b and not a for a, b in pairs)
    n, k = gained + lost, min(gained, lost)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * tail / 2**n)


def compare(
    answers: Sequence[int], reference: Sequence[int], labels: Sequence[int]
) -> dict[str, float]:
    """Accuracy with its 95 % interval, agreement with the reference, McNemar's p against it.

    Args:
        answers: class indices of the model.
        reference: of the model it is compared with.
        labels: the truth.
    """
    right = [a == label for a, label in zip(answers, labels, strict=True)]
    reference_right = [a == label for a, label in zip(reference, labels, strict=True)]
    low, high = wilson(sum(right), len(right))
    return {
        "accuracy": sum(right) / len(right),
        "low": low,
        "high": high,
        "agreement": sum(a == b for a, b in zip(answers, reference, strict=True)) / len(right),
        "mcnemar_p": mcnemar(right, reference_right),
    }
