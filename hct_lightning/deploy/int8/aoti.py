"""AOTInductor in int8 by torchao's pt2e: calibrated (PTQ), or trained further with rounding in place (QAT)."""

import dataclasses
import logging
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hct_lightning.deploy.artifact import Exported
from hct_lightning.deploy.extra import extra
from hct_lightning.deploy.int8.folding import fold_batch_norm, fold_first_activation, fold_normalisation
from hct_lightning.deploy.int8.layers import has_vnni
from hct_lightning.deploy.int8.sensitivity import float_layers
from hct_lightning.deploy.program import MULTIPLE, program
from hct_lightning.deploy.quiet import quiet
from hct_lightning.deploy.runtimes import aoti

with extra("deploy"), quiet():
    from torchao.quantization.pt2e import (
        FakeQuantize,
        HistogramObserver,
        PerChannelMinMaxObserver,
        disable_fake_quant,
        disable_observer,
        enable_fake_quant,
    )
    from torchao.quantization.pt2e.quantize_pt2e import (
        convert_pt2e,
        prepare_pt2e,
        prepare_qat_pt2e,
    )

    # Importing the quantizer registers the fusions that lower its graphs to int8 kernels.
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        QuantizationConfig,
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

log = logging.getLogger(__name__)


@quiet()
def export(
    network: nn.Module,
    example: Tensor,
    folder: Path,
    *,
    dynamic: bool,
    calibration: Iterable[Tensor],
    percent: float,
    qat_steps: int,
    qat_lr: float,
    qat_batch: int,
) -> Exported:
    """Convolutions and linears in int8.

    QAT trains the rounded network to give the fp32 one's logits (distillation), so that it needs images
    and no labels. BatchNorm keeps its statistics, and the calibrated ranges stay.

    Args:
        network: takes uint8 images.
        example: 1 c h w uint8.
        folder: where `model.pt2` is written.
        dynamic: open height and width.
        calibration: uint8 batches of the example's size, on which ranges are measured and QAT trains.
        percent: share of the layers that become int8, the least sensitive ones.
        qat_steps: optimiser steps of QAT; 0 for none.
        qat_lr: learning rate of QAT.
        qat_batch: images per step of QAT.
    """
    example = example.contiguous(memory_format=torch.channels_last)
    quantizer = X86InductorQuantizer()
    quantizer.set_global(_configuration(qat=qat_steps > 0))
    for name in float_layers(network, calibration, percent):
        quantizer.set_module_name_qconfig(name, None)
    folded = fold_batch_norm(network)
    fold_first_activation(folded)
    if not qat_steps:  # whose learning rate is for weights that see normalised pixels
        fold_normalisation(folded)
    graph = program(folded, example, dynamic=dynamic).module()
    prepared = (prepare_qat_pt2e if qat_steps else prepare_pt2e)(graph, quantizer)
    prepared.apply(disable_fake_quant)  # measure the ranges of the fp32 network
    with torch.no_grad():
        for image in _singly(calibration):
            prepared(image)
    if qat_steps:
        prepared.apply(enable_fake_quant)
        prepared.apply(disable_observer)
        _distill(prepared, network, calibration, qat_steps, qat_lr, qat_batch)
    converted = convert_pt2e(prepared)
    aoti.compile_package(program(converted, example, dynamic=dynamic), folder)
    int8 = count_int8(folder / aoti.FILE)
    return Exported("aoti", "int8", aoti.FILE, multiple=MULTIPLE, int8=int8)


def _configuration(*, qat: bool) -> QuantizationConfig:
    """Ranges of activations by histogram and of weights by channel, in QAT as in calibration."""
    config = get_default_x86_inductor_quantization_config(is_qat=qat, reduce_range=not has_vnni())
    assert config.weight, "the default quantizes weights"
    assert config.input_activation, "the default quantizes activations"
    # The default's steps are 2**-12 at least, and weights of a stem that takes pixels of 0..255 need smaller ones.
    smallest = torch.finfo(torch.float32).eps
    if qat:
        # QAT's default takes the extremes as range. On HCT that costs 18 dB against a histogram.
        activations = FakeQuantize.with_args(observer=HistogramObserver, eps=2**-12)
        weights = FakeQuantize.with_args(observer=PerChannelMinMaxObserver, eps=smallest)
    else:
        activations = HistogramObserver.with_args(eps=2**-12)
        weights = PerChannelMinMaxObserver.with_args(eps=smallest)
    return dataclasses.replace(
        config,
        input_activation=dataclasses.replace(config.input_activation, observer_or_fake_quant_ctr=activations),
        weight=dataclasses.replace(config.weight, observer_or_fake_quant_ctr=weights),
    )


def count_int8(file: Path) -> dict[str, int]:
    """How many layers run in int8: the kernels that the package's code calls."""
    with zipfile.ZipFile(file) as package:
        code = [package.read(n).decode() for n in package.namelist() if n.endswith("wrapper.cpp")]
    called = re.findall(r"aoti_torch_cpu__q(conv|linear)\w*_pointwise\w*\(", "".join(code))
    return {"convolutions": called.count("conv"), "linears": called.count("linear")}


def _singly(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Batches of one image, which the graph takes."""
    for images in batches:
        yield from images.split(1)


def _endlessly(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    while True:
        yield from _singly(batches)


def _distill(
    student: nn.Module,
    teacher: nn.Module,
    calibration: Iterable[Tensor],
    steps: int,
    lr: float,
    batch: int,
) -> None:
    """Trains `student` in place towards the logits of `teacher`."""
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    images = _endlessly(calibration)
    for step in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for _ in range(batch):
            image = next(images)
            with torch.no_grad():
                wanted = teacher(image)
            loss = F.mse_loss(student(image), wanted) / batch
            loss.backward()
            total += loss.item()
        optimizer.step()
        schedule.step()
        if step % 10 == 9 or step == steps - 1:
            log.info("QAT step %d of %d: squared error of the logits %.2e", step + 1, steps, total)
