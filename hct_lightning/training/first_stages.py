"""HCT's stem and first stages by an artifact of OpenVINO, in the place of the network's own: faster in int8.

What follows them, attention and all, stays the network's.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from hct_lightning.deploy.artifact import checked_file, read_description
from hct_lightning.models import FromPixels
from hct_lightning.models.streaming import InMemory, StreamedHCT

LEAST_DB = 3  # signal over difference of two maps of the same weights, one in int8; of others it is below 0
SIZE = (300, 413)  # px of the image on which they are compared: not the size that an artifact is made for


class FirstStages:
    """Gives what computes them, for so many callers at once.

    Args:
        folder: of the artifact.
        network: HCT on the CPU, in evaluation, with the weights that the artifact was made of.

    Attributes:
        sha256: of each of the artifact's files. (The model's own says nothing of the weights, which lie beside it.)

    Raises:
        ValueError: for an artifact of another kind, or of other weights.
        ImportError: when OpenVINO isn't installed.
    """

    def __init__(self, folder: Path, network: FromPixels) -> None:
        description = read_description(folder)
        made = f"{description['runtime']} in {description['precision']}"
        if made != "openvino in int8":
            raise ValueError(
                f"predict.first_stages={folder}: it is of {made}, which gains nothing; make export=[openvino_int8]"
            )
        self._file = checked_file(folder, description)
        self.sha256: dict[str, str] = dict(description["sha256"])
        self._loaded: dict[int, Callable[[Tensor], Tensor]] = {}
        self._compare(network, folder)

    def __call__(self, callers: int) -> Callable[[Tensor], Tensor]:
        """1 c h w uint8 -> 1 c' h' w', for any height and width."""
        from hct_lightning.deploy.runtimes.openvino import load_first_stages  # an extra

        if callers not in self._loaded:
            self._loaded[callers] = load_first_stages(self._file, callers)
        return self._loaded[callers]

    @torch.inference_mode()
    def _compare(self, network: FromPixels, folder: Path) -> None:
        generator = torch.Generator().manual_seed(0)
        channels = len(network.scale)
        pixels = torch.randint(0, 256, (1, channels, *SIZE), dtype=torch.uint8, generator=generator)
        exact = StreamedHCT(network).first_stages(InMemory(pixels[0]))
        try:
            given = self(1)(pixels)
        except RuntimeError:  # OpenVINO's
            given = exact[:0]
        if given.shape != exact.shape:
            raise ValueError(f"predict.first_stages={folder} takes one size, for its pixels are not normalised in int8")
        if (given - exact).norm() > 10 ** (-LEAST_DB / 20) * exact.norm():
            raise ValueError(f"predict.first_stages={folder}: this artifact was made of other weights; export it again")
