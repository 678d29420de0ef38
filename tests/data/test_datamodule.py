import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hct_lightning.data.catalogue import Catalogue
from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.data.sources.csv import table
from hct_lightning.data.sources.folder import folder
from hct_lightning.models import HCT, FromPixels
from hct_lightning.training.module import ImageClassifier

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*srun. command is available"),
]


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 40)) -> None:
    """An image that is darker to the right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(255, 0, size[1]).astype(np.uint8)[None].repeat(size[0], 0)
    Image.fromarray(ramp).convert(mode).save(path)


@pytest.fixture
def root(tmp_path) -> Path:
    """10 images of each of two classes: 8 train, 2 validate."""
    for name in "ab":
        for i in range(10):
            save(tmp_path / name / f"{i}.png")
    return tmp_path


@pytest.fixture
def image_data(data_options) -> Callable[..., ImageData]:
    """A data module of the images below a root, small."""

    def build(root: Path, source: Callable[..., Catalogue] = folder, **options) -> ImageData:
        small = data_options("folder", root=str(root), resolution=32, batch_size=4, num_workers=0)
        return ImageData(source, **(small | options))

    return build


@pytest.fixture
def prepared(image_data) -> Callable[..., ImageData]:
    """The same, set up."""

    def build(root: Path, **options) -> ImageData:
        data = image_data(root, **options)
        data.setup()
        return data

    return build


class Watch(lightning.LightningModule):
    """Learns nothing; keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.trained, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.trained.append((self.trainer.current_epoch, batch))
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(data: ImageData, module: lightning.LightningModule | None = None, epochs: int = 1) -> Watch:
    module = module or Watch()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=data)
    return module


# What the data are


def test_channels_are_those_of_most_images(root, prepared):
    paths = sorted(root.rglob("*.png"))
    for path in paths:
        save(path, "L")
    grey = prepared(root).dataset
    assert grey.decoding.channels == 1
    assert grey.mean == pytest.approx([sum(IMAGENET_MEAN) / 3])
    assert grey.images(grey.catalogue.train)[0][0].shape == (1, 32, 32)
    save(paths[0], "RGB")
    assert prepared(root).dataset.decoding.channels == 1
    for path in paths[:-1]:
        save(path, "RGB")
    mixed = prepared(root).dataset
    assert mixed.decoding.channels == 3
    assert (mixed.mean, mixed.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert {mixed.images(mixed.catalogue.train)[i][0].shape for i in range(16)} == {(3, 32, 32)}


def test_channels_and_statistics_are_options(root, prepared):
    data = prepared(root, channels=1, mean=[0.5], std=[0.25])
    assert (data.dataset.decoding.channels, data.dataset.mean, data.dataset.std) == (1, (0.5,), (0.25,))
    with pytest.raises(ValueError, match=r"data\.mean has 1 values for 3 channels"):
        prepared(root, mean=[0.5])
    with pytest.raises(ValueError, match=r"data\.std has 3 values for 1 channels"):
        prepared(root, channels=1, std=IMAGENET_STD)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size=0: give a whole number of at least 1"),
        ({"batch_size": "auto"}, r"data\.batch_size=auto: give a whole number"),
        ({"channels": "rgb"}, r"data\.channels=rgb: give 1 \(grey\)"),
        ({"mean": 0.5}, r"data\.mean=0\.5: give a list"),
        ({"augment": None}, r"data\.augment=None: give options by their names"),
        ({"train_fraction": "20%"}, r"data\.train_fraction=20%: give a fraction"),
        ({"max_pixels": 1e9}, r"data\.max_pixels=1000000000\.0: give a whole number of pixels"),
        ({"reduce_to": 0}, r"data\.reduce_to=0: give a whole number of pixels"),
        ({"window": 100}, r"data\.window=100: give \[low, high\]"),
        ({"window": ["a", "b"]}, r"data\.window=\['a', 'b'\]: give \[low, high\]"),
        ({"window": [[0, 1], 2]}, r"data\.window=.*: give \[low, high\]"),
        ({"channels": 0}, r"data\.channels=0: give 1 \(grey\), 3 \(RGB\)"),
        ({"statistics": "mine"}, r"data\.statistics=mine: choose imagenet or data"),
        ({"on_error": "ignore"}, r"data\.on_error=ignore: choose raise or skip"),
        ({"limit": 0}, r"data\.limit=0: give a whole number of at least 1, or null"),
        ({"limit_valid": -1}, r"data\.limit_valid=-1: give a whole number of at least 1, or null"),
        ({"window": [255, 0]}, r"data\.window=\[255, 0\]: give \[low, high\]"),
        ({"window": [1]}, r"data\.window=\[1\]: give \[low, high\]"),
        ({"resolution": 0}, r"resolution=0: give one positive number"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_read(options, message, image_data):
    with pytest.raises(ValueError, match=message):
        image_data(Path("absent"), **options)


def test_a_folder_may_have_a_number_for_its_name(root, image_data):
    """Hydra gives 2024 as one."""
    asked = []
    data = image_data(2024, lambda **options: asked.append(options) or folder(**options | {"root": str(root)}))
    data.setup()
    assert asked[0]["root"] == "2024"


def test_the_source_gets_its_options_and_is_asked_once(root, image_data):
    asked = []

    def source(**options):
        asked.append(options)
        return folder(**options)

    data = image_data(root, source, valid_fraction=0.5)
    data.setup()
    data.setup("fit")
    assert asked == [{"root": str(root), "valid_fraction": 0.5, "split_seed": 0}]
    assert Counter(data.dataset.catalogue.valid.labels) == {0: 5, 1: 5}
    assert data.dataset.classes == ("a", "b")


@pytest.mark.parametrize("limit", [2, 3, 4, 7])
def test_limit_keeps_the_classes_balanced(root, limit, prepared):
    data = prepared(root, limit=limit)
    for split, whole in ((data.dataset.catalogue.train, 16), (data.dataset.catalogue.valid, 4)):
        assert len(split) == len(set(split.paths)) == min(limit, whole)
        counts = Counter(split.labels)
        assert abs(counts[0] - counts[1]) <= 1
        assert all(Path(p).parent.name == "ab"[y] for p, y in zip(split.paths, split.labels, strict=True))


def test_a_limit_of_validation_images_leaves_those_of_training(root, prepared):
    catalogue = prepared(root, limit_valid=2).dataset.catalogue
    assert (len(catalogue.train), catalogue.valid.labels) == (16, [0, 1])


def test_the_summary_says_what_there_is(root, prepared):
    save(root / "a" / "0.png", size=(64, 100))
    save(root / "c" / "0.png")
    summary = prepared(root, resolution=[48, 32], reduce_to=8).dataset.summary()
    assert summary["source"] == f"folder {root}"
    assert summary["counts"] == {
        "train": {"a": 8, "b": 8, "c": 1},
        "valid": {"a": 2, "b": 2, "c": 0},
    }
    assert summary["images"] == {"train": 17, "valid": 4}
    assert summary["source_size"] == {"smallest": (40, 40), "largest": (64, 100)}
    assert summary["decoding"] == {
        "version": 1,
        "channels": 3,
        "size": [48, 32],
        "geometry": "cover",
        "max_pixels": 2**30,
        "window": None,
        "srgb": False,
        "breast": False,
        "reduce_to": 8,
    }
    assert "c has one image" in summary["notes"][0]
    json.dumps(summary)


def test_too_few_classes_or_images_are_refused(root, image_data):
    for path in (root / "b").iterdir():
        path.unlink()
    (root / "b").rmdir()
    with pytest.raises(ValueError, match=r"folder .* has one class, a; it takes two"):
        image_data(root).dataset.check_classes()
    lines = ["path,label,split", "a/0.png,x,train", "a/1.png,y,train"]
    (root / "data.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"table .*data\.csv has no validation images; add some"):
        image_data(root / "data.csv", table).setup()
    save(root / "b" / "0.png")
    with pytest.raises(ValueError, match=r"9 training images are fewer than one global batch of 16"):
        fit(image_data(root, batch_size=16))


# What a run sees


def test_training_and_validation_see_what_they_should(root, image_data):
    data = image_data(root, batch_size=3)
    seen = fit(data, epochs=2)
    for epoch in (0, 1):
        batches = [batch for at, batch in seen.trained if at == epoch]
        index = torch.cat([batch.index for batch in batches])
        assert [len(batch.index) for batch in batches] == [3] * 5  # 16 images: the last is dropped
        assert len(set(index.tolist())) == 15
        assert index.tolist() == data.order.order(epoch)[:15].tolist()
        labels = torch.tensor(data.dataset.catalogue.train.labels)
        assert torch.equal(torch.cat([batch.labels for batch in batches]), labels[index])
    for batch in seen.validated:
        assert batch.images.shape[1:] == (3, 32, 32)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.cat([batch.index for batch in seen.validated]).tolist() == [0, 1, 2, 3] * 2


def test_a_step_is_as_large_as_planned_and_else_a_batch(root, image_data):
    data = image_data(root, batch_size=3)
    assert [len(batch.index) for _, batch in fit(data).trained] == [3] * 5
    assert data.global_batch == 3
    data = image_data(root, batch_size=3)
    data.trains_with(8, 4, lambda: 2)
    assert [len(batch.index) for _, batch in fit(data).trained] == [2] * 8
    assert (data.global_batch, data.total_steps()) == (8, 2)


def flipped(batch) -> dict[int, bool]:
    """By index: whether the image, once darker to the right, is now darker to the left."""
    darker_left = batch.images[:, 0, :, 0] < batch.images[:, 0, :, -1]
    assert torch.equal(darker_left.all(1), darker_left.any(1))
    return dict(zip(batch.index.tolist(), darker_left[:, 0].tolist(), strict=True))


@pytest.fixture
def flips(root, image_data) -> Callable[..., list[dict[int, bool]]]:
    """By epoch, what `flipped` finds in training."""

    def run(epochs: int = 4, **options) -> list[dict[int, bool]]:
        seen = fit(image_data(root, **options), epochs=epochs)
        assert not any(any(flipped(batch).values()) for batch in seen.validated)
        by_epoch = [{} for _ in range(epochs)]
        for epoch, batch in seen.trained:
            by_epoch[epoch] |= flipped(batch)
        return by_epoch

    return run


def test_flips_come_from_seed_epoch_and_index(flips):
    first = flips()
    assert first == flips(batch_size=2)  # not from the batch that an image is in
    assert first == flips(num_workers=1)
    assert first != flips(seed=1)
    assert len({tuple(sorted(epoch.items())) for epoch in first}) == 4
    assert 20 <= sum(sum(epoch.values()) for epoch in first) <= 44  # of 64
    # Derived once more, from their definition.
    assert first == [{i: np.random.default_rng((0, epoch, i)).random() < 0.5 for i in range(16)} for epoch in range(4)]


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_the_probability_of_a_flip_is_an_option(flips, flip):
    assert {flag for epoch in flips(2, flip=flip) for flag in epoch.values()} == {flip == 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_reaches_the_user(root, workers, image_data):
    broken = sorted((root / "a").iterdir())[-1]
    broken.write_bytes(broken.read_bytes()[:-40])  # the header is fine: only reading tells
    with pytest.raises(UnreadableImageError) as raised:
        fit(image_data(root, num_workers=workers))
    assert str(raised.value).startswith(f"{broken}: ")


def test_a_file_that_is_no_image_is_named_before_training(root, prepared):
    (root / "a" / "5.png").write_text("<html>404</html>")
    with pytest.raises(UnreadableImageError, match=r"/a/5\.png: not an image"):
        prepared(root)
    with pytest.raises(UnreadableImageError, match=r"data\.max_pixels=100"):
        prepared(root, max_pixels=100)


@pytest.mark.filterwarnings("ignore:No (positive|negative) samples")  # one validates, a Building
def test_hct_trains_on_photographs(photos, image_data):
    data = image_data(photos, resolution=[128, 160], batch_size=2, max_pixels=2**24)
    data.setup()
    module = ImageClassifier(
        FromPixels(HCT(num_classes=4), data.dataset.mean, data.dataset.std),
        classes=data.dataset.classes,
        optimizer=torch.optim.SGD,
        schedule=lambda step, **_: 1.0,
        lr=1e-3,
    )
    fit(data, module)
    assert module.trainer.global_step == 2
    assert module.trainer.callback_metrics["train/loss_epoch"].isfinite()
    assert module.confusion.sum() == 1
    assert module.confusion[1].sum() == 1


def test_images_for_calibration_and_evaluation(root, prepared):
    """Training images as they are, mixed and the same each time; validation images with labels."""
    for i, name in enumerate("ab"):
        for file in (root / name).iterdir():
            value = 100 * i + int(file.stem)  # every image its own grey
            Image.fromarray(np.full((40, 40), value, np.uint8)).convert("RGB").save(file)
    data = prepared(root)
    shown = torch.cat(list(data.calibration(6)))
    assert shown.dtype == torch.uint8
    assert shown.shape == (6, 3, 32, 32)
    greys = shown[:, 0, 0, 0].tolist()
    assert len(set(greys)) == 6
    assert sum(grey >= 100 for grey in greys) == 3
    assert greys != sorted(greys)
    assert torch.equal(torch.cat(list(data.calibration(6))), shown)
    assert len(torch.cat(list(data.calibration(99)))) == 16

    batches = list(data.evaluation(99))
    valid = torch.cat([batch.images for batch in batches])[:, 0, 0, 0]
    assert not set(valid.tolist()) & {g for b in data.calibration(99) for g in b[:, 0, 0, 0].tolist()}
    assert torch.equal(torch.cat([batch.labels for batch in batches]), (valid >= 100).long())


def test_images_for_calibration_are_read_as_they_are_asked_for(root, prepared):
    """At 4000 px 64 of them would be 3 GB."""
    data = prepared(root, num_workers=1, prefetch_factor=2, valid_fraction=0.5)
    for images in (data.calibration(10), data.evaluation(10)):
        batches = iter(images)
        next(batches)
        for file in root.rglob("*.png"):
            file.rename(file.with_suffix(".gone"))
        with pytest.raises(UnreadableImageError, match="there is no such file"):
            list(batches)
        for file in root.rglob("*.gone"):
            file.rename(file.with_suffix(".png"))


def test_more_batches_than_an_epoch_has_come_in_an_order_of_their_own(root, image_data):
    data = image_data(root, batch_size=2, num_workers=1)
    module = fit(data)
    data.trainer = module.trainer
    size = len(data.dataset.catalogue.train)
    more = data.more_batches()
    epochs = [[i for _ in range(size // 2) for i in next(more).index.tolist()] for _ in range(3)]
    data.teardown("fit")
    assert all(len(set(epoch)) == len(epoch) == size // 2 * 2 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
