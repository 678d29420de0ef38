"""The baselines of inference: HCT written plainly, served by plain PyTorch, with nothing of ours.

python -m hct_lightning.benchmarks.baselines.plain_inference FORM HEIGHT WIDTH [--traced] [--tuned] ...

Contiguous tensors, fp32, pixels made float and normalised, torch's default allocator. `--tuned` is the best
that settings alone make of it: channels_last, memory that glibc keeps, and bf16 autocast for `eager`.

Forms: `eager`; `static`, int8 by torch.ao's post-training quantization as the paper's; `dynamic`, int8 linear
layers. With `--image` the work is a file to its answer: Pillow, torchvision's crop and resize, the network.
"""

import argparse
import ctypes
import io
import time
import warnings

import torch
from torch import Tensor, nn

from hct_lightning.benchmarks.baselines.plain_hct import Attention, PlainHCT
from hct_lightning.benchmarks.harness.side import serve

FORMS = ("eager", "static", "dynamic")


class Plain(nn.Module):
    """b 3 h w uint8 -> b 4 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.network = PlainHCT()
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("height", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--traced", action="store_true")
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--image")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # torch.jit and torch.ao.quantization are deprecated
    if given.tuned and given.device == "cpu":
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    autocast = given.tuned and given.form == "eager"
    started = time.perf_counter()
    with torch.no_grad():
        model = build(given.form, traced=given.traced, tuned=given.tuned, device=given.device)
    load_s = time.perf_counter() - started
    size = (given.height, given.width)
    shape = (given.batch_size, 3, *size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    if given.tuned:
        images = images.contiguous(memory_format=torch.channels_last)
    if given.image:
        from PIL import Image
        from torchvision.transforms import v2

        Image.MAX_IMAGE_PIXELS = None
        twice = tuple(2 * side for side in size)
        bicubic = v2.InterpolationMode.BICUBIC
        prepare = v2.Compose([v2.PILToTensor(), v2.CenterCrop(twice), v2.Resize(size, bicubic)])

    def work() -> None:
        pixels = prepare(Image.open(given.image).convert("RGB"))[None] if given.image else images
        with torch.inference_mode(), torch.autocast(given.device, torch.bfloat16, enabled=autocast):
            model(pixels.to(given.device)).float().softmax(dim=1).cpu()

    precision = {"eager": "bf16" if autocast else "fp32"}.get(given.form, "int8")
    serve(
        work,
        precision=precision,
        load_s=load_s,
        size_bytes=size_bytes(model),
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
