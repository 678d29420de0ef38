"""Checkpoints in the layout of the published HCT."""

from collections.abc import Mapping

from torch import Tensor

from hct_lightning.models.hct import HCT, ConvBlock

# (ours, published), applied in this order to the part of a key behind "stages.<stage>.<block>."
_BLOCK_NAMES = (
    ("shortcut.", "downsample.0."),
    ("conv.", "conv2."),
    ("attn.projection", "performer_attention.fast_attention.projection_matrix"),
    ("attn.proj.", "performer_attention.to_out."),
    ("attn.", "performer_attention.to_"),
)


def original_key(key: str, conv_stages: int) -> str:
    """The published name of one of our `state_dict` keys."""
    if not key.startswith("stages."):
        for ours, published in (
            ("stem.conv.", "conv_stages.first_conv."),
            ("norm.", "final_bn."),
            ("head.", "classifier."),
        ):
            if key.startswith(ours):
                return published + key.removeprefix(ours)
        raise AssertionError(key)
    _, stage, block, rest = key.split(".", 3)
    for ours, published in _BLOCK_NAMES:
        if rest.startswith(ours):
            rest = published + rest.removeprefix(ours)
            break
    if int(stage) < conv_stages:
        return f"conv_stages.layer_list.{stage}.{block}.{rest}"
    return f"ac_stages.layer_list.{int(stage) - conv_stages}.{block}.{rest}"


def load_original_state_dict(model: HCT, state_dict: Mapping[str, Tensor]) -> None:
    """Loads weights published in the original's layout into `model`, in place.

    Args:
        model: an `HCT` with the same options as the checkpoint.
        state_dict: the published keys; a "module." prefix, as DDP leaves it, is taken off.

    Raises:
        ValueError: naming every key that is missing, surplus or of another shape.
    """
    given = {key.removeprefix("module."): value for key, value in state_dict.items()}
    conv_stages = sum(isinstance(next(stage.children()), ConvBlock) for stage in model.stages)
    wanted = {original_key(key, conv_stages): (key, t) for key, t in model.state_dict().items()}
    problems = [f"missing: {key}" for key in wanted.keys() - given.keys()]
    problems += [f"surplus: {key}" for key in given.keys() - wanted.keys()]
    problems += [
        f"misshapen: {key} is {tuple(given[key].shape)}, the model has {tuple(tensor.shape)}"
        for key, (_, tensor) in wanted.items()
        if key in given and given[key].shape != tensor.shape
    ]
    if problems:
        raise ValueError(
            "the checkpoint does not fit this HCT; build it with the checkpoint's options "
            "(in_chans, num_classes, conv_stages, blocks):\n  " + "\n  ".join(sorted(problems))
        )
    model.load_state_dict({key: given[published] for published, (key, _) in wanted.items()})
