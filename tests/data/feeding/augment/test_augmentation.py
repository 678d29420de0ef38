"""Augmentation: what it does, and that nothing but (seed, epoch, index) decides it."""

import tracemalloc
import weakref
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hct_lightning.data.feeding.augment import device, host
from hct_lightning.data.feeding.augment.augmentation import Augmentation, ways_for
from hct_lightning.data.feeding.loader import Batch
from hct_lightning.data.reading.regions import Regions

EVERYTHING = {
    "flip": 0.5,
    "vertical_flip": 0.5,
    "quarter_turns": 0.5,
    "jitter": 5,
    "brightness": 0.3,
    "contrast": 0.3,
    "colour": 0.1,
    "rotation": 5.0,
    "scale": 0.2,
    "blur": 0.5,
    "noise": 5.0,
    "jpeg": 0.5,
    "erase": 0.5,
}


def batch_of(indices: list[int], height: int = 24, width: int = 24) -> Batch:
    """The image of an index is always the same noise; its class is index % 3."""
    images = [
        torch.from_numpy(np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)).permute(2, 0, 1)
        for i in indices
    ]
    images = torch.stack(images).contiguous(memory_format=torch.channels_last)
    return Batch(images, torch.tensor([i % 3 for i in indices]), torch.tensor(indices))


def changed(indices: list[int], *, seed: int = 0, epoch: int = 0, **options) -> Batch:
    return Augmentation(**options)(batch_of(indices), seed=seed, epoch=epoch, classes=3)


def test_an_image_is_changed_alike_in_whatever_batch_it_stands():
    together = changed(list(range(12)), **EVERYTHING)
    assert not torch.equal(together.images, batch_of(list(range(12))).images)
    for parts in ([[3], [7, 0]], [[11, 10, 9, 8]]):
        for part in parts:
            assert torch.equal(changed(part, **EVERYTHING).images, together.images[part])
    for other in ({"seed": 1}, {"epoch": 1}):
        assert not torch.equal(changed(list(range(12)), **EVERYTHING, **other).images, together.images)


def test_moves_do_not_shift_what_else_is_drawn():
    """Of images of one colour moves show nothing, so all else has to be as without them."""
    found = []
    for jitter in (0, 9):
        batch = batch_of([1, 2])._replace(images=torch.full((2, 3, 160, 160), 100, dtype=torch.uint8))
        augmentation = Augmentation(jitter=jitter, brightness=0.5, contrast=0.5, noise=5)
        found.append(augmentation(batch, seed=0, epoch=0, classes=3).images)
    assert torch.equal(*found)


@pytest.fixture
def threads():
    """Sets PyTorch's threads, for this test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_several_at_a_time_are_changed_alike(threads):
    found = []
    for number in (1, 4, 9):
        threads(number)
        found.append(changed(list(range(7)), **EVERYTHING).images)
        assert torch.get_num_threads() == number
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_fails_in_a_thread_ends_it(threads, monkeypatch):
    def fail(self, image, place, rng):
        raise MemoryError

    threads(4)
    monkeypatch.setattr(Augmentation, "_change", fail)
    with pytest.raises(MemoryError):
        changed([0, 1, 2], flip=0.5)
    assert torch.get_num_threads() == 4


def test_options_do_not_shift_one_another():
    """Whether an image is flipped does not hang on what else is done to it."""
    alone = changed(list(range(32)), flip=0.5).images
    with_turns = changed(list(range(32)), flip=0.5, quarter_turns=1e-9, jitter=0).images
    assert torch.equal(alone, with_turns)


@pytest.mark.parametrize(
    ("options", "undo"),
    [
        ({"flip": 1}, lambda x: x.flip(-1)),
        ({"vertical_flip": 1}, lambda x: x.flip(-2)),
    ],
)
def test_flips(options, undo):
    assert torch.equal(undo(changed([0, 1], **options).images), batch_of([0, 1]).images)


def test_quarter_turns_are_all_three_and_keep_the_shape():
    images, originals = changed(list(range(30)), quarter_turns=1).images, batch_of(list(range(30)))
    turns = [
        next(k for k in (1, 2, 3) if torch.equal(image, original.rot90(k, (1, 2))))
        for image, original in zip(images, originals.images, strict=True)
    ]
    assert set(turns) == {1, 2, 3}
    oblong = batch_of([0, 1, 2], 10, 20)
    want = oblong.images.rot90(2, (2, 3))
    assert torch.equal(Augmentation(quarter_turns=1)(oblong, seed=0, epoch=0, classes=3).images, want)


def test_jitter_moves_the_crop_at_full_resolution_and_mirrors_its_ends():
    moved, original = changed([5], jitter=6).images[0], batch_of([5]).images[0]
    padded = F.pad(original[None].float(), (6, 6, 6, 6), mode="reflect")[0].byte()  # the slow twin
    places = [(y, x) for y in range(13) for x in range(13) if torch.equal(padded[:, y : y + 24, x : x + 24], moved)]
    assert len(places) == 1
    assert len({tuple(changed([i], jitter=6).images.flatten()[:9].tolist()) for i in range(8)}) == 8


def test_brightness_and_contrast_stay_within_their_factors():
    grey = Batch(torch.full((40, 3, 4, 4), 100, dtype=torch.uint8), torch.zeros(40), torch.arange(40))
    seen = Augmentation(brightness=0.2)(grey, seed=0, epoch=0, classes=3).images[:, 0, 0, 0]
    assert seen.min() >= 80
    assert seen.max() <= 120
    assert seen.unique().numel() > 15
    spread = changed(list(range(20)), contrast=0.5).images.float().std(dim=(1, 2, 3))
    ratio = spread / batch_of(list(range(20))).images.float().std(dim=(1, 2, 3))
    assert 0.4 < ratio.min() < 0.8
    assert 1.05 < ratio.max() < 1.5


def test_crops_grow_to_whole_images_and_have_the_area_of_the_image_together():
    augmentation = Augmentation(crop=0.5, crop_until=0.8)
    assert augmentation.crops((2048, 1440), 0.0) == (3, (1024, 736))
    counts, sizes = zip(*(augmentation.crops((2048, 2048), progress / 100) for progress in range(101)), strict=True)
    assert counts[0] == 4
    assert counts[-1] == 1
    assert sorted(counts, reverse=True) == list(counts)
    assert sorted(sizes) == list(sizes)
    assert sizes[0] == (1024, 1024)
    assert sizes[80:] == ((2048, 2048),) * 21
    assert all(count * height * width <= 2048**2 for count, (height, width) in zip(counts, sizes, strict=True))
    assert augmentation.crops((100, 90), 0.0) == (1, (100, 90))  # a network can't take less


def test_crops_need_not_become_whole():
    augmentation = Augmentation(crop=0.5, crop_end=0.7)
    assert augmentation.crops((2048, 1440), 0.0) == (3, (1024, 736))
    assert augmentation.crops((2048, 1440), 1.0) == (2, (1440, 1024))
    assert Augmentation(crop=0.8, crop_end=0.7).crops((1000, 1000), 1.0) == (1, (800, 800))
    assert not Augmentation(crop=1.0, crop_end=0.7).active
    grow = [
        Augmentation(**how).grows for how in ({"crop": 0.5}, {"crop": 0.5, "crop_end": 0.5}, {"crop_size": 256}, {})
    ]
    assert grow == [True, False, False, False]


def test_crops_of_one_size_and_no_more_than_are_asked_for():
    assert Augmentation(crop_size=256).crops((2048, 1440), 0.5) == (45, (256, 256))
    assert Augmentation(crop_size=256, crops=4, crop=0.5).crops((2048, 1440), 0.0) == (4, (256, 256))
    assert Augmentation(crop_size=256, crops=4).crops((300, 200), 0.0) == (1, (256, 200))
    assert Augmentation(crop=0.5, crops=2).crops((2048, 2048), 0.0) == (2, (1024, 1024))
    found = Augmentation(crop_size=128, crops=3)(batch_of([5, 6], 256, 256), seed=0, epoch=0, classes=3)
    assert found.images.shape == (6, 3, 128, 128)
    assert found.labels.tolist() == [2, 0] * 3
    assert not Augmentation(crops=3).active
    for option, value in (("crop_size", 100), ("crops", 0), ("crop_size", 200.5), ("crops", 1.5)):
        with pytest.raises(ValueError, match=rf"data\.augment\.{option}={value}: give a whole number, (128|1) to"):
            Augmentation(**{option: value})


def test_several_crops_of_each_image_are_parts_of_it_with_its_label():
    original = batch_of([4, 9, 11], 300, 300)
    cut = Augmentation(crop=0.43)(batch_of([4, 9, 11], 300, 300), seed=0, epoch=0, classes=3)
    assert cut.images.shape == (12, 3, 160, 160) or cut.images.shape == (9, 3, 160, 160)
    count = len(cut.images) // 3
    assert cut.index.tolist() == [4, 9, 11]
    assert cut.labels.tolist() == original.labels.tolist() * count
    assert cut.images.is_contiguous(memory_format=torch.channels_last)
    windows = original.images.unfold(2, 160, 1).unfold(3, 160, 1)
    for n, crop in enumerate(cut.images):
        corners = windows[n % 3, 0, :, :, 0, :5].eq(crop[0, 0, :5]).all(-1).nonzero()
        assert len(corners) == 1
        assert torch.equal(windows[n % 3, :, *corners[0].tolist()], crop)
    assert not torch.equal(cut.images[0], cut.images[3])


def test_what_looks_closer_keeps_the_size_and_differs_by_image():
    options = {"scale": 0.3, "aspect": 0.1, "rotation": 10, "resample": 1.0}
    seen, original = changed([5, 6], **options), batch_of([5, 6])
    assert seen.images.shape == original.images.shape
    assert not torch.equal(seen.images, original.images)
    assert torch.equal(changed([6], **options).images[0], seen.images[1])
    assert seen.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["blur", "jpeg", "erase", "resample"])
def test_probabilities(name):
    change = partial(changed, rotation=5 if name == "resample" else 0)
    differ = (change(list(range(60)), **{name: 0.4}).images != batch_of(list(range(60))).images).flatten(1).any(1)
    assert 12 <= differ.sum() <= 36
    assert (change(list(range(20)), **{name: 1.0}).images != batch_of(list(range(20))).images).flatten(1).any(1).all()


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_by_opencv_as_by_pytorch(channels, monkeypatch):
    """Which of the two does it is no other augmentation."""
    noise = batch_of([1, 2, 3], 160, 160).images[:, :1].float().repeat(1, channels, 1, 1)
    smooth = F.avg_pool2d(noise, 5, 1, 2).mul(4).sub(380).clamp(0, 255).byte()
    options = EVERYTHING | {"jpeg": 0.0, "crop": 0.85, "resample": 1.0, "aspect": 0.1, "blur": 1.0}
    found = []
    for ways in (host, device):
        monkeypatch.setattr("hct_lightning.data.feeding.augment.augmentation.ways_for", lambda image, ways=ways: ways)
        batch = Batch(smooth.clone(memory_format=torch.channels_last), torch.zeros(3).long(), torch.arange(3))
        found.append(Augmentation(**options)(batch, seed=0, epoch=0, classes=3).images.int())
    apart = (found[0] - found[1]).abs()
    assert apart.max() <= 3  # a value of the table, further apart, and the noise
    assert (apart > 0).float().mean() < 0.02


def test_an_older_opencv_that_another_package_brought_is_not_used(monkeypatch):
    image = torch.zeros(4, 4, 3, dtype=torch.uint8)
    assert ways_for(image) is host
    monkeypatch.setattr(host, "FINE", False)
    assert ways_for(image) is device


def test_more_channels_than_opencv_takes():
    images = torch.randint(0, 256, (2, 130, 16, 16), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    batch = Batch(images.clone(memory_format=torch.preserve_format), torch.zeros(2), torch.arange(2))
    changed = Augmentation(blur=1.0, contrast=0.3, noise=5, rotation=5)(batch, seed=0, epoch=0, classes=3).images
    assert changed.shape == images.shape
    assert not torch.equal(changed, images)


def test_mixing_stops_before_the_end():
    augmentation = Augmentation(mixup=1.0, mix_until=0.5)
    assert augmentation(batch_of([1, 2]), seed=0, epoch=0, classes=3, progress=0.4).labels.ndim == 2
    assert augmentation(batch_of([1, 2]), seed=0, epoch=0, classes=3, progress=0.5).labels.ndim == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.5}, r"data\.flip=1\.5: give 0 to 1"),
        ({"contrast": -1}, r"data\.augment\.contrast=-1: give 0 to 1"),
        ({"jitter": -3}, r"data\.augment\.jitter=-3: give a whole number, 0 to inf"),
        ({"jitter": 0.05}, r"data\.augment\.jitter=0\.05: give a whole number"),
        ({"crop": 0}, r"data\.augment\.crop=0: give 0\.1 to 1"),
        ({"rotation": 90}, r"data\.augment\.rotation=90: give 0 to 45"),
    ],
)
def test_a_value_out_of_range_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": 1.0},
        {"brightness": 0.5, "contrast": 0.5},
        {"mixup": 1.0},
        {"cutmix": 1.0},
        {"scale": 0.3, "rotation": 10, "resample": 1.0},
        {"blur": 1.0},
        {"noise": 9.0},
        {"jpeg": 1.0},
        {"jitter": 9},
    ],
)
@pytest.mark.parametrize("images", [1, 6])
def test_what_it_takes_beside_the_batch_is_known(options, images, monkeypatch, threads):
    class Peak(TorchDispatchMode):
        """The most bytes of new storages that are alive at once."""

        alive = most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            old = {tensor.untyped_storage()._cdata for tensor in tree_leaves(args) if isinstance(tensor, torch.Tensor)}
            for tensor in tree_leaves(out):
                if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in old:
                    self.alive += storage.nbytes()
                    self.most = max(self.most, self.alive)
                    weakref.finalize(storage, self.forget, storage.nbytes())
            return out

        def forget(self, size: int) -> None:
            self.alive -= size

    batch, augmentation = batch_of(list(range(images)), 96, 96), Augmentation(**options)
    augment, image_bytes = partial(augmentation, batch, seed=0, epoch=0, classes=3), 3 * 96 * 96
    expected = augmentation.extra_bytes(images, image_bytes=image_bytes)
    threads(1)
    with Peak() as on_host:
        augment()
    tracemalloc.start()  # which sees what OpenCV makes as NumPy's
    augment()
    by_opencv = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert on_host.most + by_opencv <= 1.05 * expected + 16_384
    monkeypatch.setattr("hct_lightning.data.feeding.augment.augmentation.ways_for", lambda image: device)
    with Peak() as on_device:
        augment()
    assert on_device.most <= 1.05 * expected + 4096
    assert expected <= 1.5 * on_device.most + 2 * image_bytes
    monkeypatch.undo()
    threads(4)
    tracemalloc.start()
    augment()
    by_opencv = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert by_opencv <= 1.05 * augmentation.extra_bytes(images, image_bytes=image_bytes, workers=4) + 65_536


@pytest.mark.parametrize("width", [24, 30])
def test_an_image_that_is_read_by_region_is_turned_as_the_whole_is(width):
    augment = Augmentation(flip=0.5, vertical_flip=0.5, quarter_turns=0.7)
    augment.check_regions()
    for i in range(12):
        batch = batch_of([i], 24, width)
        large = batch._replace(images=Regions(batch.images[0].permute(1, 2, 0).numpy().copy(), 3, None))
        options = {"seed": 0, "epoch": 1, "classes": 3}
        whole, turned = augment(batch, **options).images[0], augment(large, **options).images
        assert torch.equal(torch.from_numpy(turned.read(2, 20, 3, 21)).permute(2, 0, 1), whole[:, 2:20, 3:21])


def test_what_needs_the_whole_image_is_refused():
    with pytest.raises(ValueError, match=r"data\.augment\.contrast=0\.2 changes whole images"):
        Augmentation(flip=0.5, contrast=0.2).check_regions()
