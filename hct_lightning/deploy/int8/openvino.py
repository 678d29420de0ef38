"""OpenVINO in int8 by NNCF, with bf16 for the rest: the fastest runtime on x86."""

import contextlib
import logging
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Set, Sized
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from hct_lightning.deploy import stem
from hct_lightning.deploy.artifact import Exported
from hct_lightning.deploy.extra import extra
from hct_lightning.deploy.int8.attention import linears_to_convolutions, share_products
from hct_lightning.deploy.int8.folding import (
    fold_batch_norm,
    fold_first_activation,
    fold_normalisation,
    fold_sums,
)
from hct_lightning.deploy.int8.layers import has_vnni, layers
from hct_lightning.deploy.int8.sensitivity import float_layers
from hct_lightning.deploy.program import MULTIPLE, program
from hct_lightning.deploy.runtimes import openvino
from hct_lightning.models.hct import HCT, ConvBlock
from hct_lightning.models.pixels import FromPixels

with extra("deploy"):
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet
    from openvino import Model, Node, opset13


def export(
    network: nn.Module,
    example: Tensor,
    folder: Path,
    *,
    dynamic: bool,
    calibration: Iterable[Tensor],
    percent: float,
) -> Exported:
    """Convolutions and linears in int8, ranges of activations seen in `calibration`.

    So are the sums of convolution blocks whose layers are, with those of the blocks before them in the stage. The
    attention's products, other sums and BatchNorms are not quantized: that would cost accuracy and save little time.

    Args:
        network: takes uint8 images.
        example: 1 c h w uint8.
        folder: where the files are written.
        dynamic: open height and width.
        calibration: uint8 images of the example's shape; gone through more than once.
        percent: share of the layers that become int8, the least sensitive ones.
    """
    network = fold_batch_norm(network)
    fold_first_activation(network)
    fold_sums(network)
    share_products(network)
    if torch.cpu.get_capabilities().get("avx2") and not has_vnni():
        linears_to_convolutions(network)
    zero_points = -cast(FromPixels, network).offset if fold_normalisation(network) else None
    exported = program(network, example, dynamic=dynamic).run_decompositions()
    chosen = layers(network).keys() - float_layers(network, calibration, percent)
    # An OpenVINO operation is named after the node that it comes from, and the node knows its module.
    module_of = {
        node.name: list(node.meta["nn_module_stack"].values())[-1][0]
        for node in exported.graph.nodes
        if node.meta.get("nn_module_stack")
    }
    model = openvino.convert(exported, example, dynamic=dynamic)
    openvino.name_first_stages(model, exported, network)
    sums, ignored = sums_and_ignored(model, module_of, blocks_of(network, chosen), chosen)
    # Without zero points where that is no loss: in HCT only what the attention's last layer takes has a sign, and there
    # a zero point costs time. Activations of other networks may be negative a little, as GELU's are.
    of_hct = isinstance(network, FromPixels) and isinstance(network.network, HCT)
    preset = nncf.QuantizationPreset.PERFORMANCE if of_hct else nncf.QuantizationPreset.MIXED
    count = len(calibration) if isinstance(calibration, Sized) else sum(1 for _ in calibration)
    nncf.set_log_level(logging.WARNING)  # else a line for every operation that is left alone
    with contextlib.redirect_stdout(sys.stderr):  # progress
        model = nncf.quantize(
            model,
            nncf.Dataset(calibration, lambda image: image.contiguous().numpy()),
            subset_size=count,
            preset=preset,
            ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
            # The default, the mean of the images' extremes, cuts off what many images have: it costs 2 to 17 dB.
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM
            ),
        )
    del cast(Any, model).rt_info["nncf"]  # what it was told: 15 kB of names
    add_in_int8(model, sums)
    if zero_points is not None:
        take_pixels(model, zero_points)
    if pool_in_int8(model):
        write_stem(model, folder / stem.FILE)
    openvino.save(model, folder)
    return Exported(
        "openvino",
        "int8",
        openvino.FILE,
        multiple=MULTIPLE,
        int8=count_int8(folder / openvino.FILE),
        layers=len(layers(network)),
    )


def sums_and_ignored(
    model: Model, module_of: Mapping[str, str], blocks: Set[str], chosen: Set[str]
) -> tuple[list[str], list[str]]:
    """The names of the sums of blocks, and of all that is not quantized.

    Args:
        model: as converted.
        module_of: the modules, by the names of the program's nodes.
        blocks: whose sums are to be in int8.
        chosen: the layers that are.
    """
    sums, ignored = [], []
    for operation in model.get_ordered_ops():
        name, kind = operation.get_friendly_name(), operation.get_type_name()
        module = module_of.get(name.split("/")[0])
        if kind == "Add" and module in blocks:
            sums.append(name)
        elif kind not in ("Convolution", "MatMul") or module not in chosen:
            ignored.append(name)
    return sums, ignored


def blocks_of(network: nn.Module, chosen: Set[str]) -> set[str]:
    """The names of the convolution blocks whose layers are all chosen, and those of the blocks before in their stage."""
    found, whole = set(), False
    for name, block in network.named_modules():
        if isinstance(block, ConvBlock):
            first = block.shortcut is not None
            whole = (first or whole) and chosen >= {f"{name}.{layer}" for layer in layers(block)}
            if whole:
                found.add(name)
    return found


def add_in_int8(model: Model, sums: Collection[str]) -> None:
    """Lets OpenVINO compute sums of convolution blocks in their convolutions, and keep those that are added to as bytes.

    NNCF has rounded both addends. One that a convolution gives rounded is enough for OpenVINO: where that is the
    shortcut's, the branch keeps all its bits. So it does where the sum itself is not rounded: then OpenVINO is to add
    in an operator of its own, for a convolution would give it in fp32. A sum that the next block adds to is rounded for
    that alone; now the next block's BatchNorm takes it rounded, too.

    Args:
        model: quantized.
        sums: names of the additions, shortcut + branch; with one, all before it in the stage.
    """
    for operation in model.get_ordered_ops():
        if operation.get_friendly_name() not in sums:
            continue
        shortcut, branch = (operation.input_value(i).get_node() for i in (0, 1))
        if {shortcut.get_type_name(), branch.get_type_name()} != {"FakeQuantize"}:
            continue
        added = shortcut.input_value(0)
        to_sum = added.get_node().get_friendly_name() in sums
        if not (to_sum and _is_rounded(operation)):
            operation.input(1).replace_source_output(branch.input_value(0))
        for user in added.get_target_inputs() if to_sum else ():
            if user.get_node().get_friendly_name() != shortcut.get_friendly_name():
                user.replace_source_output(shortcut.output(0))


def _is_rounded(node: Node) -> bool:
    """Whether it is rounded at once, or behind a ReLU."""
    users = [user.get_node() for user in node.output(0).get_target_inputs()]
    kinds = {user.get_type_name() for user in users}
    return "FakeQuantize" in kinds or (kinds == {"Relu"} and _is_rounded(users[0]))


def take_pixels(model: Model, zero_points: Tensor) -> None:
    """Lets the first convolution, where it is int8, compute on the pixels as they are.

    Its weights are scaled for pixels already (`fold_normalisation`), so what has to be subtracted from them are whole numbers,
    the zero points, which OpenVINO does inside of the convolution.
    """
    convolution = _first(model, "Convolution")
    if not convolution or convolution.input_value(0).get_node().get_type_name() != "FakeQuantize":
        return
    pixels = opset13.convert(model.input(), "f32")
    low = np.zeros(1, np.float32)
    shift = zero_points.view(1, -1, 1, 1).numpy()
    quantized = opset13.fake_quantize(pixels, low, low + 255, low - shift, low + 255 - shift, 256)
    convolution.input(0).replace_source_output(quantized.output(0))


def pool_in_int8(model: Model) -> bool:
    """Rounds before the max-pool and not after it, where nothing is between: the two commute. Whether it is done."""
    pool = _first(model, "MaxPool")
    users = [user.get_node() for user in pool.output(0).get_target_inputs()] if pool else []
    if not pool or [user.get_type_name() for user in users] != ["FakeQuantize"]:
        return False
    quantize = users[0]
    following = list(quantize.output(0).get_target_inputs())
    quantize.input(0).replace_source_output(pool.input_value(0))
    pool.input(0).replace_source_output(quantize.output(0))
    for user in following:
        user.replace_source_output(pool.output(0))
    return True


def write_stem(model: Model, file: Path) -> None:
    """Writes the stem for `deploy/stem.py` where it is int8 as a whole, and names the map behind its max-pool."""
    kinds = ["MaxPool", "FakeQuantize", "Relu", "Add", "Convolution", "FakeQuantize", "Convert", "Parameter"]
    chain = [_first(model, "MaxPool")]
    while chain[-1] and len(chain) < len(kinds) and chain[-1].get_input_size():
        chain.append(chain[-1].input_value(0).get_node())
    if [node and node.get_type_name() for node in chain] != kinds:
        return
    pool, rounding, _, bias, convolution, pixels = cast("list[Node]", chain)[:6]
    scaled = convolution.input_value(1).get_node()  # of a conversion of int8
    weight = _values(scaled.input_value(0).get_node())
    if weight.dtype != np.int8 or weight.shape[0] != stem.OUT or weight.shape[1] not in stem.CHANNELS:
        return
    step = _values(rounding, 4) / 255  # from zero, for it comes after ReLU
    scale, shift = (values.ravel() / step.item() for values in (_values(scaled, 1), _values(bias, 1)))
    file.write_bytes(stem.pack(weight, scale, shift, -_values(pixels, 3).ravel()))
    pool.output(0).get_tensor().add_names({openvino.STEM})


def _values(node: Node, operand: int = 0) -> np.ndarray:
    constant: Any = node.input_value(operand).get_node()
    return constant.get_data()


def _first(model: Model, kind: str) -> Node | None:
    return next((node for node in model.get_ordered_ops() if node.get_type_name() == kind), None)


def count_int8(file: Path) -> dict[str, int]:
    """How many layers run in int8, as the compiled model reports."""
    compiled = openvino.compile_model(file, "int8")
    found = Counter()
    for operation in compiled.get_runtime_model().get_ops():
        about = operation.get_rt_info()
        if about["runtimePrecision"].astype(str) in ("i8", "u8"):
            found[about["layerType"].astype(str)] += 1
    return {"convolutions": found["Convolution"], "linears": found["FullyConnected"]}
