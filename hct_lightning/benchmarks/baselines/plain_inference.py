"""The baselines of inference: HCT written plainly, served by plain PyTorch, with nothing of ours.

Contiguous tensors, fp32, pixels made float and normalised, torch's default allocator. `tuned` is the best
that settings alone make of it: channels_last, memory that glibc keeps, and bf16 autocast for `eager`, fp16 on cards
that only emulate bf16, and fp32 on CPUs that do.

Forms: `eager`; `static`, int8 by torch.ao's post-training quantization as the paper's; `dynamic`, int8 linear layers.
"""

import contextlib
import ctypes
import io
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from hct_lightning.benchmarks.baselines.plain_hct import Attention, PlainHCT
from hct_lightning.benchmarks.baselines.plain_training import half_precision, peak_memory_gib
from hct_lightning.benchmarks.harness.side import serve


class Plain(nn.Module):
    """b 3 h w uint8 -> b 4 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.network = PlainHCT()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network((pixels.float() / 255 - self.mean) / self.std)


def static_int8(model: nn.Module) -> nn.Module:
    """Convolutions and linear layers in int8, calibrated; attention's sums stay fp32."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.fx.custom_config import PrepareCustomConfig
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    images = torch.randint(0, 256, (1, 3, 512, 512), dtype=torch.uint8)
    whole = PrepareCustomConfig().set_non_traceable_module_classes([Attention])
    mapping = get_default_qconfig_mapping("x86")
    prepared = prepare_fx(model, mapping, (images,), prepare_custom_config=whole)
    prepared(images)
    return convert_fx(prepared)


def build(form: str, *, traced: bool, tuned: bool, device: str) -> nn.Module:
    """The model, ready; `traced` ones are frozen TorchScript."""
    torch.manual_seed(0)
    model = Plain()
    model(torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8))  # running statistics
    model.eval()
    if form == "static":
        model = static_int8(model)
    elif form == "dynamic":
        model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    if tuned:
        model.to(memory_format=torch.channels_last)
    model.to(device)
    if traced:
        example = torch.randint(0, 256, (1, 3, 512, 512), dtype=torch.uint8, device=device)
        model = torch.jit.freeze(torch.jit.trace(model, example, check_trace=False))
    return model


def size_bytes(model: nn.Module) -> int:
    """As saved: the TorchScript file, or the state_dict."""
    buffer = io.BytesIO()
    if isinstance(model, torch.jit.ScriptModule):
        torch.jit.save(model, buffer)
    else:
        torch.save(model.state_dict(), buffer)
    return buffer.tell()


def file_reader(size: tuple[int, int]) -> Callable[[str], Tensor]:
    """From a file of twice `size` (height, width) to pixels, 1 3 h w uint8: Pillow, torchvision's crop and resize."""
    from PIL import Image
    from torchvision.transforms import v2

    Image.MAX_IMAGE_PIXELS = None
    twice = tuple(2 * side for side in size)
    prepare = v2.Compose([v2.PILToTensor(), v2.CenterCrop(twice), v2.Resize(size, v2.InterpolationMode.BICUBIC)])
    return lambda path: prepare(Image.open(path).convert("RGB"))[None]


def inference(
    form: str,
    height: int,
    width: int,
    batch_size: int,
    device: str,
    traced: bool = False,
    tuned: bool = False,
    image: str | None = None,
) -> None:
    """A side; with `image` its work is a file to its answer."""
    warnings.simplefilter("ignore")  # torch.jit and torch.ao.quantization are deprecated
    if tuned and device == "cpu":
        with contextlib.suppress(OSError):  # off glibc
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-4, 0)  # M_MMAP_MAX
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    half = half_precision(device) if tuned and form == "eager" else None
    started = time.perf_counter()
    with torch.no_grad():
        model = build(form, traced=traced, tuned=tuned, device=device)
    load_s = time.perf_counter() - started
    images = torch.randint(0, 256, (batch_size, 3, height, width), dtype=torch.uint8)
    if tuned:
        images = images.contiguous(memory_format=torch.channels_last)
    if device == "cuda":
        images = images.pin_memory()
    read = partial(file_reader((height, width)), image) if image else lambda: images

    def work() -> None:
        pixels = read()
        with torch.inference_mode(), torch.autocast(device, half, enabled=half is not None):
            model(pixels.to(device, non_blocking=True)).float().softmax(dim=1).cpu()

    eager = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "fp32"}[half]
    facts = {"precision": eager if form == "eager" else "int8", "size_bytes": size_bytes(model)}
    serve(work, peak=partial(peak_memory_gib, device), load_s=load_s, threads=torch.get_num_threads(), **facts)
