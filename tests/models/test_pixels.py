import pytest
import torch
from torch import nn

from hct_lightning.models import HCT, FromPixels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def test_normalises_as_torchvision_does():
    from torchvision.transforms.v2 import functional as tv

    images = pixels(2, 3, 40, 50)
    expected = tv.normalize(tv.to_dtype(images, torch.float32, scale=True), MEAN, STD)
    torch.testing.assert_close(FromPixels(nn.Identity(), MEAN, STD)(images), expected, atol=2e-6, rtol=0)


def test_keeps_channels_last():
    images = pixels(2, 3, 40, 50).to(memory_format=torch.channels_last)
    out = FromPixels(nn.Identity(), MEAN, STD)(images)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_gives_the_precision_of_autocast_or_of_the_network():
    network = FromPixels(nn.Identity(), MEAN, STD)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(pixels(1, 3, 8, 8)).dtype == torch.bfloat16
    assert network.half()(pixels(1, 3, 8, 8)).dtype == torch.float16


def test_statistics_travel_with_the_weights():
    trained = FromPixels(HCT(in_chans=1), [0.2], [0.1])
    other = FromPixels(HCT(in_chans=1), [0.5], [0.5]).eval()
    other.load_state_dict(trained.state_dict())
    images = pixels(1, 1, 128, 128)
    torch.testing.assert_close(other.normalise(images, torch.float32), trained.normalise(images, torch.float32))


@pytest.mark.parametrize(("mean", "std", "message"), [((0.5,), (1, 1), "1 channels"), ((0.5,), (0,), "above 0")])
def test_refuses_bad_statistics(mean, std, message):
    with pytest.raises(ValueError, match=message):
        FromPixels(nn.Identity(), mean, std)
