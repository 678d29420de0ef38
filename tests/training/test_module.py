"""Loss and metrics, in real short loops."""

from collections.abc import Sequence

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import binary_auroc

from hct_lightning.data.feeding.loader import Batch
from hct_lightning.data.reading.image import UnreadableImageError
from hct_lightning.training.module import ImageClassifier

CLASSES = ("a", "b", "c")


def classifier(**options) -> ImageClassifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    defaults = {"optimizer": torch.optim.SGD, "schedule": lambda step, **_: 1.0, "lr": 0.5, "classes": CLASSES}
    return ImageClassifier(network, **(defaults | options))


def batch(*labels: int, index: Sequence[int] | None = None) -> Batch:
    images = torch.rand(len(labels), 3, 2, 2, generator=torch.Generator().manual_seed(sum(labels)))
    return Batch(images, torch.tensor(labels), torch.tensor(index or range(len(labels))))


def loader(*batches: Batch) -> DataLoader:
    return DataLoader(batches, batch_size=None)


def trainer(**options) -> lightning.Trainer:
    quiet = {f"enable_{name}": False for name in ("checkpointing", "progress_bar", "model_summary")}
    return lightning.Trainer(accelerator="cpu", logger=False, max_epochs=1, **quiet, **options)


def test_micro_batches_of_any_size_make_the_step_of_their_global_batch():
    """Weighted classes, smoothed labels, two micro-batches of two images and of one."""
    weights = [0.5, 1.0, 2.0]
    module = classifier(images_per_backward=1.5, class_weights=weights, label_smoothing=0.1, global_batch=32)
    parts = [batch(0, 2), batch(1)]
    images, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    linear = nn.Linear(12, 3)
    linear.load_state_dict(module.network[1].state_dict())
    logits = linear(images.flatten(1))
    loss = F.cross_entropy(logits, labels, torch.tensor(weights), label_smoothing=0.1, reduction="sum") / 3
    loss.backward()
    run = trainer(accumulate_grad_batches=2)
    run.fit(module, loader(*parts), loader(*parts))
    assert run.global_step == 1
    rate = 0.5 * 32 / 16  # grows with the global batch
    torch.testing.assert_close(module.network[1].weight, linear.weight - rate * linear.weight.grad)


@pytest.mark.parametrize("share", [2, -0.1, None])
def test_labels_are_smoothed_by_a_share(share):
    with pytest.raises(ValueError, match=rf"^loss\.label_smoothing={share}: give a share of 0 to 1"):
        classifier(label_smoothing=share)


def test_several_crops_of_an_image_weigh_as_much_as_one():
    def trained(seen: Batch) -> torch.Tensor:
        module = classifier(images_per_backward=1.5)
        trainer().fit(module, loader(seen), loader(batch(0, 1, 2)))
        return module.network[1].weight

    one = batch(0, 2)
    crops = one._replace(images=one.images.repeat(3, 1, 1, 1), labels=one.labels.repeat(3))
    torch.testing.assert_close(trained(crops), trained(one))


def test_padding_is_not_counted_and_figures_are_those_of_all_images():
    module = classifier()
    batches = batch(0, 2, 1, index=[0, 2, 1]), batch(1, 1, index=[3, -1])
    [found] = trainer().validate(module, loader(*batches), verbose=False)
    images = torch.cat([batches[0].images, batches[1].images[:1]])
    labels = torch.tensor([0, 2, 1, 1])
    with torch.inference_mode():
        logits = module.cpu()(images)
    right = logits.argmax(1) == labels
    assert module.confusion.sum() == 4
    assert module.answers.index.tolist() == [0, 1, 2, 3]
    assert module.answers.labels.tolist() == [0, 1, 2, 1]
    assert found["val/accuracy"] == pytest.approx(right.float().mean())
    assert found["val/loss"] == pytest.approx(F.cross_entropy(logits, labels))
    by_class = [right[labels == i].float().mean() for i in range(3)]
    assert found["val/balanced_accuracy"] == pytest.approx(sum(by_class) / 3)


# Which a run says nothing of, either: see training/trainer.py.
NO_SAMPLES = pytest.mark.filterwarnings("ignore:No (positive|negative) samples in targets")


@NO_SAMPLES
def test_a_class_without_validation_images_does_not_count():
    module = classifier()
    given = batch(0, 2, 0, 2, index=[0, 1, 2, 3])
    [found] = trainer().validate(module, loader(given), verbose=False)
    with torch.inference_mode():
        logits = module.cpu()(given.images)
    right = logits.argmax(1) == given.labels
    by_class = [right[given.labels == i].float().mean() for i in (0, 2)]
    assert found["val/balanced_accuracy"] == pytest.approx(sum(by_class) / 2)
    shares = logits.softmax(1)
    by_class = [binary_auroc(shares[:, i], given.labels == i) for i in (0, 2)]
    assert found["val/auroc"] == pytest.approx(sum(by_class) / 2)


@NO_SAMPLES
def test_where_all_are_of_one_class_there_is_no_auroc():
    [found] = trainer().validate(classifier(), loader(batch(1, 1, index=[0, 1])), verbose=False)
    assert "val/auroc" not in found
    assert 0 <= found["val/balanced_accuracy"] <= 1


def test_without_any_image_that_can_be_read_it_says_so():
    with pytest.raises(ValueError, match=r"none of the validation images can be read; skipped\.csv"):
        trainer().validate(classifier(), loader(batch(1, 1, index=[-1, -1])), verbose=False)


def test_loss_options_are_the_configurations_and_no_state_of_a_checkpoint():
    before = classifier(class_weights=[1.0, 1.0, 5.0], label_smoothing=0.3)
    now = classifier(class_weights=[3.0, 1.0, 1.0], label_smoothing=0.1)
    now.load_state_dict(before.state_dict())
    assert now.class_weights.tolist() == [3.0, 1.0, 1.0]
    assert set(before.hparams) == {"spec"}


@pytest.mark.parametrize("index", [3, -4])
def test_an_image_whose_regions_can_not_be_read_is_not_counted_where_it_is_skipped(index):
    """One that only pads, too."""
    damaged = UnreadableImageError("x.tif: damaged")

    class Broken(nn.Module):
        def forward(self, images):
            raise damaged

    class Image:
        def __init__(self, skips):
            self.skips = skips

    def refuse(error):
        raise error

    noted = []
    module = classifier()
    module.network = Broken()
    seen = Batch(Image(noted.append), torch.tensor([1]), torch.tensor([index]))
    module.validation_step(seen, 0)
    assert noted == [damaged]
    assert module._answers[0].index.tolist() == [-4]
    assert module.predict_step(seen, 0).shape == (1, 3)
    module.head = nn.Linear(2, 3)
    loss = module.training_step(seen, 0)
    loss.backward()  # no gradient, and yet one of every weight, for which other ranks wait
    assert loss == 0
    assert not any(weight.grad.any() for weight in module.parameters())
    with pytest.raises(UnreadableImageError, match=r"x\.tif: damaged"):
        module.validation_step(seen._replace(images=Image(refuse)), 0)
    with pytest.raises(UnreadableImageError, match=r"x\.tif: damaged"):
        module.training_step(seen._replace(images=Image(refuse)), 0)
