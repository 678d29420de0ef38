"""The baseline of reading: Pillow, centre crop, torchvision's resize on tensors, float, normalised."""

import torch
from PIL import Image
from torchvision.transforms import v2

from hct_lightning.benchmarks.harness.side import serve


def reading(path: str, source_size: int, resolution: int) -> None:
    Image.MAX_IMAGE_PIXELS = None
    pipeline = v2.Compose(
        [
            v2.PILToTensor(),
            v2.CenterCrop(source_size),
            v2.Resize(resolution, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )

    def read() -> None:
        pipeline(Image.open(path).convert("RGB"))

    serve(read)
