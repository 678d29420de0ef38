"""What attention gives, measured in a real validation and replaced in the next one."""

import copy
from collections.abc import Callable
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn

from hct_lightning.callbacks.constant_attention import ConstantAttention, Spread
from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.sources.folder import folder
from hct_lightning.models import HCT, FromPixels, PerformerAttention
from hct_lightning.models.hct import as_tokens
from hct_lightning.training.module import ImageClassifier


class OnlyAttention(nn.Module):
    """b 3 h w -> b 2 logits, of nothing but what attention gives; about half of random images are of each class."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = PerformerAttention(24)
        self.head = nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = as_tokens(nn.functional.avg_pool2d(x, 32)).repeat(1, 1, 8)
        score = self.head(self.attn(tokens).mean(dim=1))
        return torch.cat([score, -score], dim=1)


def on_pixels(network: nn.Module) -> FromPixels:
    return FromPixels(network, (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False)


@pytest.fixture
def network() -> FromPixels:
    """HCT with random weights; its attention is made strong enough for it to matter."""
    torch.manual_seed(0)
    network = on_pixels(HCT(num_classes=2))
    for module in network.modules():
        if isinstance(module, PerformerAttention):
            module.proj.weight.mul_(10)
    return network


@pytest.fixture
def data(images, data_options) -> ImageData:
    """Ten images to validate, of which one can't be read, in batches of three."""
    (images / "a" / "3.png").write_bytes(b"not an image")
    options = data_options("folder", root=str(images), resolution=[160, 224], batch_size=3, num_workers=0)
    return ImageData(folder, **(options | {"on_error": "skip", "valid_fraction": 0.5}))


@pytest.fixture
def validate(data, tmp_path) -> Callable[..., Tensor]:
    """Logits of the images that can be read, in order."""

    def run(network: nn.Module, *callbacks: ConstantAttention) -> Tensor:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = lightning.Trainer(
            default_root_dir=tmp_path, accelerator="cpu", logger=False, callbacks=list(callbacks), **quiet
        )
        module = ImageClassifier(network, classes=["a", "b"])
        trainer.validate(module, data, verbose=False)
        assert module.answers is not None
        return module.answers.logits

    return run


def images_of(data: ImageData) -> list[Tensor]:
    """1 c h w uint8, those that can be read."""
    images = data.dataset.images(data.dataset.catalogue.valid)
    found = [images[i] for i in range(len(images))]
    return [image[None] for image, _, index in found if index >= 0]


def given(network: FromPixels, images: list[Tensor]) -> dict[str, Tensor]:
    """What each attention gives for each image, images n c."""
    found: dict[str, list[Tensor]] = {}
    for name, module in network.network.named_modules():
        if isinstance(module, PerformerAttention):
            seen = found.setdefault(name, [])
            module.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(output))
    for image in images:
        network(image)
    return {name: torch.cat(seen).double() for name, seen in found.items()}


def with_constant(network: FromPixels, constants: dict[str, Tensor]) -> FromPixels:
    """Another network of the same weights, with these constants written into its attentions."""
    network = copy.deepcopy(network)
    for name, constant in constants.items():
        module: Any = network.network.get_submodule(name)
        module.proj.weight.zero_()
        module.proj.bias.copy_(constant)
    return network


def test_statistics_and_answers_are_those_of_all_outputs_at_once(network, data, validate):
    plain = copy.deepcopy(network)
    own = validate(plain)
    images = images_of(data)
    outputs = given(copy.deepcopy(plain), images)
    assert len(outputs) == 4
    assert len(own) == len(images) < len(data.dataset.catalogue.valid)
    attention = ConstantAttention(network)
    assert torch.equal(validate(network, attention), own)
    for name, found in attention.spread.items():
        every = outputs[name].flatten(0, 1)  # images and positions
        torch.testing.assert_close(found.constant, every.mean(dim=0), rtol=1e-4, atol=1e-4)
        total = every.var(dim=0, correction=0).sum().item()
        positions = sum(image.var(dim=0, correction=0).sum().item() for image in outputs[name]) / len(images)
        assert found.between_positions == pytest.approx(positions, rel=1e-4)
        assert found.between_images == pytest.approx(total - positions, rel=1e-3, abs=1e-6 * total)
        assert found.share_between_images == pytest.approx(1 - positions / total, abs=1e-4)
    again = validate(network, attention)
    slow = with_constant(plain, {name: found.constant for name, found in attention.spread.items()})
    torch.testing.assert_close(again, validate(slow), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(again, own, rtol=1e-2)


def test_a_network_without_use_for_attention_answers_as_before(network, data, validate):
    plain = with_constant(network, dict.fromkeys(given(copy.deepcopy(network), images_of(data)), torch.tensor(0.3)))
    attention = ConstantAttention(plain)
    own = validate(plain, attention)
    assert torch.equal(validate(plain, attention), own)
    assert {found.share_between_images for found in attention.spread.values()} == {None}


def test_a_network_that_has_only_attention_no_longer_tells_images_apart(data, validate):
    torch.manual_seed(0)
    network = on_pixels(OnlyAttention())
    scores = validate(network)[:, 0]
    network.network.head.bias.sub_(scores.mean())
    attention = ConstantAttention(network)
    own = validate(network, attention)
    assert set(own.argmax(dim=1).tolist()) == {0, 1}
    again = validate(network, attention)
    same = 1e-3 * own.std().item()  # rounding may depend on an image's place in its batch
    torch.testing.assert_close(again, again[:1].expand_as(again), rtol=0, atol=same)
    torch.testing.assert_close(again[0], own.mean(dim=0), rtol=0, atol=1e-5)


def test_images_of_any_size_weigh_the_same():
    """Two images whose positions differ by 1 and 3 about means of 0 and 4."""
    found = Spread.of(torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [3.0]]))
    assert found.constant.tolist() == [2]
    assert (found.between_images, found.between_positions) == (4, 2)
    assert found.share_between_images == pytest.approx(2 / 3)


def test_a_network_without_attention_is_refused():
    with pytest.raises(ValueError, match=r"validate\.constant_attention=true: HCT as it was trained has no linear att"):
        ConstantAttention(on_pixels(HCT(conv_stages=5)))
