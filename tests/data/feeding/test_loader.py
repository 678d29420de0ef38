import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import BatchSampler

from hct_lightning.data.feeding.images import Images
from hct_lightning.data.feeding.loader import Batch, Loader, auto_workers, batches_ahead
from hct_lightning.data.feeding.samplers import GlobalBatches
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.data.reading.readers import FileReader, NativeReader, Reader
from hct_lightning.machine import runtime


def noise(root: Path, count: int, size: tuple[int, int] = (40, 60), mode: str = "RGB") -> list[str]:
    rng = np.random.default_rng(0)
    paths = [str(root / f"{i}.png") for i in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).convert(mode).save(path)
    return paths


def dataset(paths: list[str], **options) -> Images:
    defaults = {"channels": 3, "size": (32, 32), "geometry": "cover", "max_pixels": 10**6}
    return Images(paths, list(range(len(paths))), FileReader(Decoding(**defaults | options)))


def batches(size: int, batch_size: int) -> BatchSampler:
    return BatchSampler(range(size), batch_size, drop_last=False)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("size", [(40, 60), (32, 32), (31, 60), (20, 24)])  # read, resized, cropped
@pytest.mark.parametrize("geometry", ["cover", "paper"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_the_images_in_channels_last(tmp_path, workers, geometry, size, count, channels):
    images = dataset(noise(tmp_path, count), channels=channels, size=size, geometry=geometry)
    [batch] = Loader(images, [list(range(count))], num_workers=workers)
    alone = [images.reader(path) for path in images.paths]
    assert torch.equal(batch.images, torch.stack(alone))
    assert all(torch.equal(images[i][0], alone[i]) for i in range(count))
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.tolist() == batch.index.tolist() == list(range(count))
    assert batch.labels.dtype == batch.index.dtype == torch.int64


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_loader_gives_every_batch_in_order_and_counts_the_wait(tmp_path, workers):
    loader = Loader(dataset(noise(tmp_path, 5)), batches(5, 2), num_workers=workers)
    assert len(loader) == 3
    waited = [loader.waited_s]
    for _ in range(2):
        start = time.perf_counter()
        seen = list(loader)
        elapsed = time.perf_counter() - start
        assert [batch.index.tolist() for batch in seen] == [[0, 1], [2, 3], [4]]
        assert all(isinstance(batch, Batch) for batch in seen)
        waited.append(loader.waited_s)
        assert 0 < waited[-1] - waited[-2] <= elapsed


class Slow(Reader):
    """Takes 50 ms; counts how many are being read and have been."""

    shape = (2, 2, 1)

    def __init__(self) -> None:
        self.now = self.most = self.done = 0

    def into(self, path: str, place: np.ndarray) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.05)
        place[:] = int(path)
        self.now -= 1
        self.done += 1


def slow(count: int) -> Images:
    return Images([str(i) for i in range(count)], [0] * count, Slow())


def test_the_wait_is_the_loaders_not_the_loops():
    loader = Loader(slow(3), batches(3, 1))
    for _ in loader:
        time.sleep(0.2)  # training: not waiting for the loader
    assert 0.15 <= loader.waited_s < 0.6


def test_what_is_read_ahead_is_not_waited_for():
    loader = Loader(slow(8), batches(8, 1), num_workers=1, prefetch_factor=1)
    for _ in loader:
        time.sleep(0.2)
    assert loader.waited_s < 0.35  # the first one: 0.05; without reading ahead 0.4


def test_as_many_are_read_at_once_as_there_are_workers_and_no_more_than_a_few_ahead():
    images = slow(40)
    reader = images.reader
    for n, batch in enumerate(Loader(images, batches(40, 2), num_workers=4, prefetch_factor=2)):
        assert batch.images[:, 0, 0, 0].tolist() == [2 * n, 2 * n + 1]
        assert reader.done + reader.now <= 2 * (n + 1) + 2 * (2 + 4 // 2)
    assert reader.most == 4


def test_a_loop_that_stops_early_leaves_no_thread_behind():
    before = set(threading.enumerate())
    iterator = iter(Loader(slow(20), batches(20, 1), num_workers=2))
    next(iterator)
    new = set(threading.enumerate()) - before
    assert new
    iterator.close()
    deadline = time.monotonic() + 5
    while new & set(threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not new & set(threading.enumerate())


def test_the_loader_has_no_state():
    loader = Loader(slow(3), batches(3, 1))
    loader.load_state_dict(loader.state_dict())
    assert len(list(loader)) == 3


def cut(path: str) -> None:
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_file_is_named(tmp_path, workers):
    paths = noise(tmp_path, 4)
    cut(paths[2])
    with pytest.raises(UnreadableImageError) as raised:
        list(Loader(dataset(paths), batches(4, 1), num_workers=workers))
    message = str(raised.value)
    assert message.startswith(f"{paths[2]}: ")
    assert message.endswith("; remove or replace the file")
    assert "\n" not in message


def test_auto_workers():
    assert auto_workers(0) == 0
    assert auto_workers("3", ranks_here=4) == 3
    for bad in (-1, 1.5, "some"):
        with pytest.raises(ValueError, match=rf"data\.num_workers={bad}: give auto, or 0 or more"):
            auto_workers(bad)
    cpus = runtime.cpu_count()
    assert auto_workers("auto") == min(8, max(1, cpus - 1))
    assert auto_workers("auto", ranks_here=1000) == 1


def test_the_next_epoch_is_read_while_the_loop_does_something_else():
    """As far as there is one, and from where training stands."""
    step = 0
    images = slow(8)
    order = GlobalBatches(8, 2, seed=0, step=lambda: step, last_step=lambda: 8)
    loader = Loader(images, order, num_workers=2, prefetch_factor=2)
    seen = []
    for epoch in range(2):
        for batch in loader:
            seen.append(batch.index.tolist())
            step += 1
        ahead = 8 + 3 * 2 if epoch == 0 else 16
        until = time.monotonic() + 10
        while images.reader.done < ahead and time.monotonic() < until:  # during validation
            time.sleep(0.01)
        time.sleep(0.15)
        assert images.reader.done == ahead
    assert seen == [i.tolist() for epoch in range(2) for i in order.order(epoch).reshape(4, 2)]
    before = loader.waited_s
    step = 3  # somewhere else: what was read does not count
    assert next(iter(loader)).index.tolist() == seen[3]
    assert loader.waited_s - before > 0.04
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_their_own_sizes_come_alone(tmp_path, workers):
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (130 + i, 150, 3), np.uint8)).save(path)
    reader = NativeReader(Decoding(channels=3, size=None, geometry="cover", max_pixels=10**6)).opening(131 * 150)
    images = Images(paths, [0, 1, 2], reader)
    got = list(Loader(images, [[0], [1], [2], [-1]], num_workers=workers))
    assert [batch.labels.tolist() for batch in got] == [[0], [1], [2], [0]]
    assert [batch.index.tolist() for batch in got] == [[0], [1], [2], [-1]]
    for i in (0, 1, 3):
        assert torch.equal(got[i].images[0], reader(paths[i % 3]))
    assert got[2].images.shape == (132, 150, 3)  # one that is read by region
    with pytest.raises(ValueError, match="2 images of their own sizes can't go"):
        next(iter(Loader(images, [[0, 1]], num_workers=workers)))


def test_large_images_of_their_own_sizes_are_not_read_far_ahead():
    how = Decoding(channels=3, size=None, geometry="cover", max_pixels=10**12)
    assert batches_ahead(NativeReader(how, (30_000, 30_000)), 1, 4, 2) == 1
    assert batches_ahead(NativeReader(how, (12_000, 12_000)), 1, 4, 2) == 2
    assert batches_ahead(NativeReader(how, (500, 500)), 1, 4, 2) == 6
    assert batches_ahead(NativeReader(how, (500, 500)), 1, 0, 2) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_passed_over_is_not_looked_at_and_the_rest_keeps_its_order(tmp_path, workers):
    """The first files are broken, and nobody is to hear of it."""
    paths = noise(tmp_path, 8)
    for broken in paths[:2]:
        Path(broken).write_bytes(b"")
    loader = Loader(dataset(paths), batches(8, 2), num_workers=workers)
    passed = iter([True, False, True, False])
    loader.skips = lambda: next(passed)
    first, *rest = list(loader)
    assert [batch.index.tolist() for batch in (first, *rest)] == [[], [2, 3], [], [6, 7]]
    assert first.images.shape == (0, 3, 1, 1)
