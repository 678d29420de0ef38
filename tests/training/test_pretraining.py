"""What is learned without labels, in real short loops."""

import lightning
import pytest
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader

from hct_lightning.data.feeding.loader import Batch
from hct_lightning.models import HCT, FromPixels
from hct_lightning.training.batch_norm import norms_of
from hct_lightning.training.muon import Muon
from hct_lightning.training.pretraining import MaskedImages


def stripes(*indices: int, side: int = 256) -> Batch:
    """Grey images of stripes, each with a period of its own."""
    images = [(torch.arange(side) % (6 + i) * 40).to(torch.uint8).repeat(1, side, 1) for i in indices]
    return Batch(torch.stack(images), torch.zeros(len(indices), dtype=torch.long), torch.tensor(indices))


def module(**options) -> MaskedImages:
    torch.manual_seed(0)
    network = FromPixels(HCT(in_chans=1, num_classes=0), (0.4,), (0.2,)).to(memory_format=torch.channels_last)
    defaults = {"hidden": 0.5, "block": 16, "optimizer": Muon, "schedule": lambda step, **_: 1.0, "lr": 2e-3}
    return MaskedImages(network, **(defaults | options))


def trainer(**options) -> lightning.Trainer:
    quiet = {f"enable_{name}": False for name in ("checkpointing", "progress_bar", "model_summary")}
    return lightning.Trainer(accelerator="cpu", logger=False, **quiet, **options)


def loader(*batches: Batch) -> DataLoader:
    return DataLoader(batches, batch_size=None)


@pytest.mark.slow
def test_hidden_stripes_are_learned_from_those_around_them():
    losses = {}
    for epochs in (1, 16):
        run = trainer(max_epochs=epochs)
        run.fit(module(lr=0.02), loader(*[stripes(0, 1, 2, 3)] * 2), loader(stripes(0, 1)))
        losses[epochs] = run.callback_metrics["val/loss"]
    assert losses[16] < 0.6 * losses[1]


def test_what_is_validated_depends_on_the_images_alone_and_changes_nothing():
    learner = module()
    state = {key: value.clone() for key, value in learner.state_dict().items()}
    together, apart, padded = (
        trainer().validate(learner, loader(*batches), verbose=False)[0]["val/loss"]
        for batches in (
            [stripes(1), stripes(2)],
            [stripes(2), stripes(1)],
            [stripes(1), stripes(2), stripes(2)._replace(index=torch.tensor([-1]))],
        )
    )
    assert together == pytest.approx(apart)
    assert together == pytest.approx(padded)
    assert all(torch.equal(value, state[key]) for key, value in learner.state_dict().items())
    assert all(layer.momentum == 0.1 for layer in norms_of(learner))


def test_pixels_beyond_the_last_whole_block_are_left_out():
    learner = module()
    ragged = stripes(1, 2, side=269)
    found = learner._errors(ragged.images, torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0)))
    whole = ragged.images[:, :, :256, :256]
    assert torch.equal(found, learner._errors(whole, torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0))))


def test_pictures_show_images_hidden_blocks_and_what_is_said_there():
    learner, images = module(), stripes(1, 2).images
    original, hidden, filled = learner.pictures(images)
    assert torch.equal(original, images)
    changed = hidden != original
    assert changed.float().mean() == 0.5
    assert torch.equal(filled[~changed], original[~changed])
    assert not torch.equal(filled, hidden)
    assert torch.equal(learner.pictures(images), torch.stack([original, hidden, filled]))


def test_its_weights_are_those_of_the_network_and_the_decoder():
    names = {key.split(".")[0] for key in module().state_dict()}
    assert names == {"network", "decoder"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0.0}, r"pretrain\.hidden=0\.0: give a share between 0 and 1"),
        ({"hidden": 1}, r"pretrain\.hidden=1: give a share"),
        ({"block": 12}, r"pretrain\.block=12: give a multiple of 8 pixels"),
        ({"block": 0}, r"pretrain\.block=0: give a multiple of 8 pixels"),
    ],
)
def test_values_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        module(**options)


def test_images_too_small_end_training_with_what_helps_and_are_left_out_of_validation():
    learner = module()
    with pytest.raises(ValueError, match=r"1 image\(s\) of 128x128 pixels at a time are too small.*crop_size"):
        trainer(max_epochs=1).fit(learner, loader(stripes(1, side=128)), loader(stripes(1)))
    with pytest.raises(ValueError, match=r"2 image\(s\) of 256x256 pixels at a time are too small for blocks of 256"):
        trainer(max_epochs=1).fit(module(block=256), loader(stripes(1, 2)), loader(stripes(1)))
    learner = module()
    with_small, without = (
        trainer().validate(learner, loader(*batches), verbose=False)
        for batches in ([stripes(1), stripes(2, side=128)], [stripes(1)])
    )
    assert with_small == without


def test_networks_that_take_one_size_alone_are_refused():
    network = FromPixels(timm.create_model("vit_tiny_patch16_224", num_classes=0), (0.4,) * 3, (0.2,) * 3)
    with pytest.raises(ValueError, match=r"VisionTransformer can't be pre-trained, HCT can: .*doesn't match model"):
        MaskedImages(network, hidden=0.6, block=16)


def test_networks_that_stream_or_have_no_maps_are_refused():
    network = FromPixels(HCT(num_classes=0), (0.4,) * 3, (0.2,) * 3)
    network.set_streaming()
    with pytest.raises(ValueError, match="memory=stream is not for task=pretrain"):
        MaskedImages(network, hidden=0.6, block=16)
    with pytest.raises(ValueError, match="Flatten does not say what its stages are"):
        MaskedImages(FromPixels(nn.Flatten(), (0.4,), (0.2,)), hidden=0.6, block=16)
