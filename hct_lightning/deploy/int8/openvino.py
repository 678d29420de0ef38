"""OpenVINO in int8 by NNCF, with bf16 for the rest: the fastest runtime on x86."""

import contextlib
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Sized
from pathlib import Path

from torch import Tensor, nn

from hct_lightning.deploy.artifact import Exported
from hct_lightning.deploy.extra import extra
from hct_lightning.deploy.int8.folding import fold_batch_norm
from hct_lightning.deploy.int8.layers import layers
from hct_lightning.deploy.int8.sensitivity import float_layers
from hct_lightning.deploy.program import MULTIPLE, program
from hct_lightning.deploy.runtimes import openvino

with extra("deploy"):
    import nncf


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

    Sums, BatchNorms and the products of the attention are not quantized: that would cost accuracy and
    save little time.

    Args:
        network: takes uint8 images.
        example: 1 c h w uint8.
        folder: where the files are written.
        dynamic: open height and width.
        calibration: uint8 images of the example's shape; gone through more than once.
        percent: share of the layers that become int8, the least sensitive ones.
    """
    network = fold_batch_norm(network)
    exported = program(network, example, dynamic=dynamic).run_decompositions()
    chosen = layers(network).keys() - float_layers(network, calibration, percent)
    # An OpenVINO operation is named after the node that it comes from, and the node knows its module.
    module_of = {
        node.name: list(node.meta["nn_module_stack"].values())[-1][0]
        for node in exported.graph.nodes
        if node.meta.get("nn_module_stack")
    }
    model = openvino.convert(exported)
    ignored = []
    for operation in model.get_ordered_ops():
        name = operation.get_friendly_name()
        is_layer = operation.get_type_name() in ("Convolution", "MatMul")
        if not (is_layer and module_of.get(name.split("/")[0]) in chosen):
            ignored.append(name)
    count = len(calibration) if isinstance(calibration, Sized) else sum(1 for _ in calibration)
    nncf.set_log_level(logging.WARNING)  # else a line for every operation that is left alone
    with contextlib.redirect_stdout(sys.stderr):  # progress
        model = nncf.quantize(
            model,
            nncf.Dataset(calibration, lambda image: image.contiguous().numpy()),
            subset_size=count,
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
        )
    openvino.save(model, folder)
    return Exported(
        "openvino",
        "int8",
        openvino.FILE,
        multiple=MULTIPLE,
        int8=count_int8(folder / openvino.FILE),
    )


def count_int8(file: Path) -> dict[str, int]:
    """How many layers run in int8, as the compiled model reports."""
    compiled = openvino.compile_model(file, "int8")
    found = Counter()
    for operation in compiled.get_runtime_model().get_ops():
        about = operation.get_rt_info()
        if about["runtimePrecision"].astype(str) in ("i8", "u8"):
            found[about["layerType"].astype(str)] += 1
    return {"convolutions": found["Convolution"], "linears": found["FullyConnected"]}
