"""HCT's stem in one pass over the pixels, against the network's own in double."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hct_lightning.models import HCT, FromPixels
from hct_lightning.training.fast_stem import compiled, fast_stem, with_fast_stem
from hct_lightning.training.step import TrainingStep

pytestmark = pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith(("AVX", "AMX")), reason="it takes AVX2"
)
CHECKED = ("test_schema", "test_autograd_registration", "test_faketensor")  # of an operator, by torch
SIZES = ((128, 128), (129, 130), (131, 191), (300, 257))


def images(batch: int, channels: int, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(0, 256, (batch, *size, channels), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)


def statistics(channels: int) -> tuple[Tensor, Tensor]:
    return torch.linspace(0.01, 0.02, channels), torch.linspace(-2.1, -1.7, channels)


def weights(channels: int) -> Tensor:
    return torch.randn(16, channels, 7, 7, generator=torch.Generator().manual_seed(7)) / 10


def published(pixels: Tensor, weight: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """The stem as torch has it, in the precision of the weights."""
    x = pixels.to(weight.dtype) * scale.view(-1, 1, 1) + offset.view(-1, 1, 1)
    return F.max_pool2d(F.conv2d(x, weight, stride=2, padding=3), 3, stride=2)


def both(pixels: Tensor, zero: int | None = None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Map and gradient of the weights, of which those of an output may be zero, by us and by torch in double."""
    found = []
    for stem, dtype in ((fast_stem, torch.float32), (published, torch.float64)):
        weight = weights(pixels.shape[1]).to(dtype)
        if zero is not None:
            weight[zero] = 0
        weight.requires_grad_()
        made = stem(pixels, weight, *(value.to(dtype) for value in statistics(pixels.shape[1])))
        factors = torch.randn(made.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
        found.append((made.detach(), torch.autograd.grad((made * factors).sum(), weight)[0]))
    return found[0], found[1]


@pytest.fixture(scope="module", autouse=True)
def library():
    assert compiled(), "there is no C++ compiler: apt-get install g++"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_map_and_gradient_are_those_of_the_published_stem(channels, size):
    (made, gradient), (wanted, wanted_gradient) = both(images(2, channels, size))
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(made.double(), wanted, rtol=0, atol=1e-5)
    assert (gradient - wanted_gradient).norm() < 1e-5 * wanted_gradient.norm()


def test_of_equal_values_the_first_has_the_gradient():
    (made, gradient), (_, wanted) = both(images(1, 1, (200, 200)), zero=5)
    assert not made[:, 5].any()
    assert (gradient - wanted)[5].norm() < 1e-5 * wanted[5].norm()


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_the_bits_are_the_same_for_any_number_of_threads(threads):
    pixels = images(3, 3, (301, 290))
    (alone, gradient_alone), _ = both(pixels)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        (made, gradient), _ = both(pixels)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(made, alone)
    assert torch.equal(gradient, gradient_alone)


def test_images_may_lie_in_memory_in_any_order():
    pixels = images(2, 3, (150, 160))
    options = weights(3), *statistics(3)
    assert torch.equal(fast_stem(pixels.contiguous(), *options), fast_stem(pixels, *options))
    wider = F.pad(pixels, (5, 0))
    assert torch.equal(fast_stem(wider[..., 5:], *options), fast_stem(pixels, *options))


def test_what_is_no_number_stays_so():
    weight = weights(1)
    weight[:8, 0, 3, 3], weight[8:, 0, 3, 3] = float("inf"), -float("inf")  # times zero it is no number
    pixels, values = images(1, 1, (128, 128)) // 64, (torch.ones(1), torch.zeros(1))
    pixels[..., 40:] += 1
    made, wanted = fast_stem(pixels, weight, *values), published(pixels, weight, *values)
    assert 0.1 < wanted.isnan().float().mean() < 0.9
    assert torch.equal(made.isnan(), wanted.isnan())


@pytest.mark.parametrize(
    ("pixels", "channels", "message"),
    [
        (torch.zeros(1, 3, 128, 128), 3, "images are torch.float32"),
        (torch.zeros(1, 2, 128, 128, dtype=torch.uint8), 2, "give uint8 b c h w"),
        (torch.zeros(1, 3, 128, 128, dtype=torch.uint8), 1, "scale and offset are torch.float32"),
        (torch.zeros(1, 1, 100, 128, dtype=torch.uint8), 1, "an image of 100x128 is too small"),
    ],
)
def test_what_it_does_not_take_is_refused(pixels, channels, message):
    with pytest.raises(ValueError, match=message):
        fast_stem(pixels, weights(channels), *statistics(channels))
    with pytest.raises(ValueError, match=r"weight is torch\.float64"):
        fast_stem(images(1, 1, (128, 128)), weights(1).double(), *statistics(1))


def test_it_is_an_operator_as_torch_asks():
    weight = weights(3).requires_grad_()
    for pixels in (images(1, 3, (128, 140)), images(2, 3, (131, 129)).contiguous()):
        torch.library.opcheck(torch.ops.hct.stem.default, (pixels, weight, *statistics(3)), test_utils=CHECKED)


@pytest.mark.parametrize("memory", ["speed", "low"])
def test_a_network_trains_with_it_as_with_its_own_stem(memory):
    torch.manual_seed(0)
    own = FromPixels(HCT(drop_rate=0.0), (0.4,) * 3, (0.2,) * 3).to(memory_format=torch.channels_last)
    if memory == "low":
        own.set_grad_checkpointing()
    fast = with_fast_stem(copy.deepcopy(own), "cpu")
    assert fast.fast_stem
    pixels, labels = images(4, 3, (160, 192)), torch.tensor([0, 1, 2, 3])
    gradients = []
    for network in (own, fast):
        TrainingStep(network, torch.optim.SGD(network.parameters(), lr=1e-3))(pixels, labels)
        gradients.append([parameter.grad for parameter in network.parameters()])
    for mine, theirs in zip(*gradients, strict=True):
        assert (mine - theirs).norm() <= 1e-3 * theirs.norm() + 1e-7


def test_in_double_in_bf16_on_other_devices_and_for_other_networks_it_stays_out_of_the_way():
    def refuse(*_, **__):
        raise AssertionError("it computes in fp32 on the CPU")

    pixels = images(1, 3, (128, 128))
    network = FromPixels(HCT(), (0.4,) * 3, (0.2,) * 3).eval()
    network.fast_stem = refuse
    assert network.double()(pixels).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        network.float()(pixels)
    with pytest.raises(AssertionError, match="in fp32"):
        network(pixels)
    for other, kind in (
        (FromPixels(HCT(), (0.4,) * 3, (0.2,) * 3), "cuda"),
        (FromPixels(HCT(in_chans=4), (0.4,) * 4, (0.2,) * 4), "cpu"),
        (FromPixels(torch.nn.Flatten(), (0.4,) * 3, (0.2,) * 3), "cpu"),
    ):
        assert with_fast_stem(other, kind).fast_stem is None
