import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hct_lightning import runtime
from hct_lightning.data.images import UnreadableImageError
from hct_lightning.data.loading import Batch, Images, Loader, auto_workers, collate, worker_init


def noise(root: Path, count: int, size: tuple[int, int] = (40, 60), mode: str = "RGB") -> list[str]:
    rng = np.random.default_rng(0)
    paths = [str(root / f"{i}.png") for i in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).convert(mode).save(path)
    return paths


def dataset(paths: list[str], **options) -> Images:
    defaults = {"channels": 3, "size": (32, 32), "geometry": "cover", "max_pixels": 10**6}
    return Images(paths, list(range(len(paths))), **(defaults | options))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("size", [(40, 60), (32, 32), (31, 60), (20, 24)])  # read, resized, cropped
@pytest.mark.parametrize("geometry", ["cover", "paper"])
def test_collate_stacks_in_channels_last(tmp_path, geometry, size, count, channels):
    images = dataset(noise(tmp_path, count), channels=channels, size=size, geometry=geometry)
    samples = [images[i] for i in range(count)]
    batch = collate(samples)
    assert torch.equal(batch.images, torch.stack([sample.images for sample in samples]))
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.tolist() == batch.index.tolist() == list(range(count))
    assert batch.labels.dtype == batch.index.dtype == torch.int64


def test_collate_does_not_copy_a_single_large_image(tmp_path):
    sample = dataset(noise(tmp_path, 1), size=(40, 60))[0]
    assert collate([sample]).images.data_ptr() == sample.images.data_ptr()


def test_padding_shows_an_image_and_says_so(tmp_path):
    images = dataset(noise(tmp_path, 3))
    for i in range(3):
        padding = images[-1 - i]
        assert torch.equal(padding.images, images[i].images)
        assert padding.labels == i
        assert padding.index == -1 - i


def test_the_window_reaches_the_reader(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((32, 32), 500, np.uint16)).save(path)
    assert dataset([str(path)], window=(0, 1000))[0].images.unique().tolist() == [128]


def test_the_control_takes_the_detail_and_keeps_the_size(tmp_path):
    # Stripes of two pixels on a coarse ramp: what is fine goes, what is coarse stays.
    ramp = np.linspace(40, 215, 256)[None].repeat(256, 0)
    stripes = np.where(np.arange(256) // 2 % 2, 30, -30)[:, None]
    Image.fromarray((ramp + stripes).astype(np.uint8)).save(tmp_path / "a.png")
    options = {"channels": 1, "size": (256, 256)}
    full = dataset([str(tmp_path / "a.png")], **options)[0].images[0].float()
    control = dataset([str(tmp_path / "a.png")], reduce_to=32, **options)[0].images[0].float()
    assert control.shape == full.shape
    assert full.std(dim=0).mean() > 25
    assert control[8:-8].std(dim=0).mean() < 1
    assert (control - torch.from_numpy(ramp))[8:-8, 8:-8].abs().mean() < 2


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_every_batch_in_order_and_counts_the_wait(tmp_path, workers):
    loader = Loader(
        dataset(noise(tmp_path, 5)),
        batch_size=2,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=worker_init,
        persistent_workers=workers > 0,
    )
    assert len(loader) == 3
    waited = [loader.waited_s]
    for _ in range(2):
        start = time.perf_counter()
        batches = list(loader)
        elapsed = time.perf_counter() - start
        assert [batch.index.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
        assert all(isinstance(batch, Batch) for batch in batches)
        waited.append(loader.waited_s)
        assert 0 < waited[-1] - waited[-2] <= elapsed


class Slow(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Batch:
        time.sleep(0.05)
        return Batch(torch.zeros(1, 2, 2, dtype=torch.uint8), 0, index)


def test_the_wait_is_the_loaders_not_the_loops():
    loader = Loader(Slow(), collate_fn=collate)
    for _ in loader:
        time.sleep(0.2)  # training: not waiting for the loader
    assert 0.15 <= loader.waited_s < 0.6


def test_the_loader_has_no_state():
    loader = Loader(Slow(), collate_fn=collate)
    loader.load_state_dict(loader.state_dict())
    assert len(list(loader)) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_file_is_named(tmp_path, workers):
    paths = noise(tmp_path, 4)
    whole = Path(paths[2]).read_bytes()
    Path(paths[2]).write_bytes(whole[: len(whole) // 2])
    loader = Loader(dataset(paths), num_workers=workers, collate_fn=collate)
    with pytest.raises(UnreadableImageError) as raised:
        list(loader)
    message = str(raised.value)  # one line, from a worker too
    assert message.startswith(f"{paths[2]}: ")
    assert message.endswith("; remove or replace the file")
    assert "\n" not in message


def test_auto_workers():
    assert auto_workers(0) == 0
    assert auto_workers("3", ranks_here=4) == 3
    cpus = runtime.cpu_count()
    assert auto_workers("auto") == min(8, max(1, cpus - 1))
    assert auto_workers("auto", ranks_here=1000) == 1
