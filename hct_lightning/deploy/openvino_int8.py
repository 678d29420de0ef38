"""OpenVINO in int8 by NNCF, with bf16 for the rest: the fastest arm on x86."""

import contextlib
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

import nncf
from torch import Tensor, nn

from hct_lightning.deploy import openvino
from hct_lightning.deploy.artifact import Exported
from hct_lightning.deploy.program import MULTIPLE, program
from hct_lightning.deploy.quantization import fold_batch_norm, layers


def export(
    network: nn.Module,
    example: Tensor,
    folder: Path,
    *,
    dynamic: bool,
    calibration: Iterable[Tensor],
    float_layers: Collection[str] = (),
) -> Exported:
    """Convolutions and linears in int8, ranges of activations seen in `calibration`.

    Sums, BatchNorms and the products of the attention are left alone: they would cost accuracy and
    save little.

    Args:
        network: takes uint8 images.
        example: 1 c h w uint8.
        folder: where the files are written.
        dynamic: open height and width.
        calibration: uint8 batches of the example's size.
        float_layers: names of layers that stay as they are.
    """
    network = fold_batch_norm(network)
    exported = program(network, example, dynamic=dynamic).run_decompositions()
    chosen = layers(network).keys() - set(float_layers)
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
    images = [image for batch in calibration for image in batch.split(1)]
    with contextlib.redirect_stdout(sys.stderr):  # progress
        model = nncf.quantize(
            model,
            nncf.Dataset(images, lambda image: image.contiguous().numpy()),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
        )
    openvino.save(model, folder)
    return Exported("openvino", "int8", openvino.FILE, multiple=MULTIPLE)
