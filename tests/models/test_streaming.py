"""The logits of an image read tile by tile are those of the image whole."""

import numpy as np
import pytest
import torch

from hct_lightning.models import HCT, FromPixels, streaming
from hct_lightning.models import pixels as pixels_module
from hct_lightning.models.streaming import StreamedHCT, StreamsLargeImages
from hct_lightning.training.kept_map import KeptMap


class Array:
    """An image in memory; counts what is read of it."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.shape, self.most = pixels, pixels.shape, 0

    def read(self, y0, y1, x0, x1):
        assert 0 <= y0 < y1 <= self.shape[0]
        assert 0 <= x0 < x1 <= self.shape[1]
        self.most = max(self.most, (y1 - y0) * (x1 - x0))
        return self.pixels[y0:y1, x0:x1]


def network(channels=3, **options):
    """With statistics, weights and biases that all matter."""
    torch.manual_seed(0)
    made = FromPixels(HCT(in_chans=channels, **options), [0.3] * channels, [0.2] * channels)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.normal_(module.bias)
    made(torch.randint(0, 256, (4, channels, 256, 192), dtype=torch.uint8))
    return made.eval()


def image(h, w, channels=3):
    """Noise of several scales: every pixel matters, and regions differ."""
    rng = np.random.default_rng(h * 10000 + w)
    coarse = np.kron(rng.integers(0, 128, (h // 50 + 1, w // 50 + 1, channels)), np.ones((50, 50, 1)))[:h, :w]
    return (coarse + rng.integers(0, 128, (h, w, channels))).astype(np.uint8)


def whole(made, pixels):
    with torch.inference_mode():
        return made(torch.from_numpy(pixels).permute(2, 0, 1)[None])


@pytest.mark.parametrize("kernel", ["relu", "softmax"])
@pytest.mark.parametrize("conv_stages", [2, 3, 4, 5])
def test_same_logits(monkeypatch, conv_stages, kernel):
    monkeypatch.setattr(streaming, "VALUES_AT_ONCE", 2560)
    made = network(conv_stages=conv_stages, kernel=kernel)
    for (h, w), tile in (((531, 777), 128), ((777, 531), 96), ((640, 512), 224)):
        pixels = image(h, w)
        torch.testing.assert_close(StreamedHCT(made, tile=tile)(Array(pixels)), whole(made, pixels), rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", [{"channels": 1}, {"first_stride": 1}, {"blocks": (1, 2, 1, 3, 1)}])
def test_other_networks(monkeypatch, options):
    monkeypatch.setattr(streaming, "VALUES_AT_ONCE", 6400)
    made = network(**options)
    pixels = image(603, 409, options.get("channels", 3))
    torch.testing.assert_close(StreamedHCT(made, tile=160)(Array(pixels)), whole(made, pixels), rtol=0, atol=1e-4)


def test_every_size_and_every_tile(monkeypatch):
    """Each remainder of the stride, and tiles of one output upwards."""
    made = network(blocks=(1, 1, 1, 1, 1))
    for h in range(128, 161):
        pixels = image(h, 297 - h)
        given = StreamedHCT(made, tile=32 * (1 + h % 5))(Array(pixels))
        torch.testing.assert_close(given, whole(made, pixels), rtol=0, atol=1e-4)


def test_reads_no_more_than_a_tile_and_its_margin():
    made, source = network(), Array(image(1000, 1200))
    done = []
    StreamedHCT(made, tile=256)(source, lambda *numbers: done.append(numbers))
    assert source.most <= (256 + 416) ** 2
    assert done == [(i, 20) for i in range(1, 21)]


def test_under_autocast():
    made, pixels = network(), image(400, 500)
    with torch.autocast("cpu", torch.bfloat16):
        given, expected = StreamedHCT(made, tile=128)(Array(pixels)), whole(made, pixels)
    torch.testing.assert_close(given, expected, rtol=0.05, atol=0.1)


def test_says_what_it_can_not_stream():
    with pytest.raises(ValueError, match="Identity can't be streamed"):
        StreamedHCT(FromPixels(torch.nn.Identity(), [0], [1]).eval())
    with pytest.raises(ValueError, match="call eval"):
        StreamedHCT(network().train())
    with pytest.raises(ValueError, match="100x300 is too small"):
        StreamedHCT(network())(Array(image(100, 300)))


@pytest.mark.parametrize(("kernel", "conv_stages"), [("relu", 3), ("softmax", 3), ("relu", 5)])
@pytest.mark.parametrize("recompute", [False, True])
def test_same_gradients(kernel, conv_stages, recompute, monkeypatch):
    """Of every parameter, those of the whole image with the statistics of the first stages frozen."""
    monkeypatch.setattr(pixels_module, "TOKENS_AT_ONCE", 25)  # fewer than any map here has
    pixels = torch.from_numpy(np.stack([image(420, 300), image(420, 300)[::-1]])).permute(0, 3, 1, 2)

    def step(tile):
        made = network(kernel=kernel, conv_stages=conv_stages, drop_rate=0.0)
        made.set_grad_checkpointing(recompute)
        made.set_streaming(tile)
        made.train()
        for stage in made.network.stages[:3]:
            stage.eval()
        loss = torch.nn.functional.cross_entropy(made(pixels), torch.tensor([0, 2]))
        loss.backward()
        return loss.detach(), {name: p.grad for name, p in made.named_parameters()}, dict(made.named_buffers())

    (loss, gradients, buffers), (exact_loss, exact, exact_buffers) = step(160), step(None)
    torch.testing.assert_close(loss, exact_loss, rtol=0, atol=1e-4)
    for name, gradient in exact.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-4, msg=name)
    for name, buffer in exact_buffers.items():
        torch.testing.assert_close(buffers[name], buffer, rtol=1e-4, atol=1e-5, msg=name)


def test_frozen_weights_need_no_gradient():
    made = network()
    made.set_streaming(160)
    made.train()
    made.network.stages[0].requires_grad_(False)
    made(torch.from_numpy(image(300, 200)).permute(2, 0, 1)[None]).sum().backward()
    assert made.network.stages[0][0].conv1.weight.grad is None
    assert made.network.stem.conv.weight.grad is not None


@pytest.mark.parametrize("workers", [1, 2])
def test_uniform_tiles_are_skipped_exactly(workers):
    made, pixels = network(), image(700, 900)
    pixels[100:600, 150:800] = (200, 30, 77)
    sizes, threads = [], torch.get_num_threads()
    made.network.stages[0].register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[-1]))
    given = StreamedHCT(made, tile=64, workers=workers, background=0)(Array(pixels))
    assert torch.get_num_threads() == threads
    torch.testing.assert_close(given, whole(made, pixels), rtol=0, atol=1e-4)
    assert len([size for size in sizes if size < max(sizes)]) > 4


def test_nearly_uniform_tiles_are_skipped_where_that_is_asked_for():
    made = network()
    pixels = (240 + np.random.default_rng(0).integers(0, 6, (600, 600, 3))).astype(np.uint8)
    sizes = []
    made.network.stages[0].register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[-1]))
    exact = StreamedHCT(made, tile=64)(Array(pixels))
    most = max(sizes)
    sizes.clear()
    StreamedHCT(made, tile=64, background=4)(Array(pixels))
    assert max(sizes) == most
    sizes.clear()
    near = StreamedHCT(made, tile=64, background=5)(Array(pixels))
    small = [size for size in sizes if size < most]
    assert len(small) > 4
    torch.testing.assert_close(near, exact, rtol=0, atol=0.3)


def test_goes_on_with_what_tiles_gave(tmp_path):
    """Killed after the seventh tile, it reads none of the six that it need not read again."""
    made, pixels = network(), image(500, 600)

    def stop(done, total):
        if done == 7:
            raise KeyboardInterrupt

    keep = lambda: KeptMap(tmp_path / "map", {"image": "a"})  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        StreamedHCT(made, tile=128)(Array(pixels), stop, keep())
    done = []
    kept = keep()
    given = StreamedHCT(made, tile=128)(Array(pixels), lambda *numbers: done.append(numbers), kept)
    assert done == [(i, 20) for i in range(7, 21)]
    torch.testing.assert_close(given, whole(made, pixels), rtol=0, atol=1e-4)
    kept.remove()
    assert not (tmp_path / "map").exists()


def test_large_images_stream_and_others_do_not():
    made, streamed = network(), []

    def stream(source):
        streamed.append(source.shape)
        return StreamedHCT(made, tile=128)(source)

    both = StreamsLargeImages(made, 300 * 300, stream).eval()
    with torch.inference_mode():
        for (h, w), streams in (((300, 300), False), ((301, 300), True)):
            pixels = image(h, w)
            tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].expand(2, -1, -1, -1)
            torch.testing.assert_close(both(tensor), whole(made, pixels).expand(2, -1), rtol=0, atol=1e-4)
            assert streamed == ([pixels.shape] * 2 if streams else [])
        torch.testing.assert_close(both(Array(pixels)), whole(made, pixels), rtol=0, atol=1e-4)


def test_trains_on_a_source_as_on_the_image():
    """With several tiles at once, too: they are added up in their order."""
    pixels = image(420, 300)

    def step(images, workers):
        made = network(drop_rate=0.0)
        made.set_streaming(128, workers)
        made.train()
        made(images).square().sum().backward()
        return {name: p.grad for name, p in made.named_parameters()}

    expected = step(torch.from_numpy(pixels).permute(2, 0, 1)[None], 1)
    for name, gradient in step(Array(pixels), 3).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4, msg=name)
    with pytest.raises(ValueError, match="takes memory=stream"):
        network()(Array(pixels))
    made = network()
    made.set_streaming(128)
    made.network.stages[1].train()
    with pytest.raises(ValueError, match="can't be measured tile by tile"):
        made(Array(pixels))
    with pytest.raises(ValueError, match="100x300 is too small"):
        step(Array(image(100, 300)), 1)
