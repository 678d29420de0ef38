"""TorchScript in int8. What its artifacts answer: tests/deploy/runtimes."""

import pytest
import timm.layers
import torch

from hct_lightning.deploy.int8.layers import has_vnni_for_eager, sqnr_db
from hct_lightning.deploy.int8.torchscript import STEM, export_dynamic, export_static, quantized
from hct_lightning.deploy.runtimes import torchscript
from hct_lightning.models import FromPixels


def test_static_and_dynamic_round_their_layers_alone(network, images, tmp_path):
    with torch.inference_mode():
        exact = network(images[0])
    answers = {}
    for name, export, options in (
        ("static", export_static, {"calibration": images, "percent": 100}),
        ("dynamic", export_dynamic, {}),
    ):
        (tmp_path / name).mkdir()
        made = export(network, images[0], tmp_path / name, dynamic=False, **options)
        assert (made.runtime, made.precision, made.batch) == ("torchscript", "int8", None)
        assert made.int8 == {"convolutions": 22 if name == "static" else 0, "linears": 17}
        answers[name] = sqnr_db(exact, torchscript.read(tmp_path / name / made.file)(images[0]))
    assert answers["dynamic"] > answers["static"] > 10
    assert network(images[0]).equal(exact), "the network itself is left as it is"


def test_layers_that_torch_does_not_know(small, images, tmp_path):
    """timm derives its own from torch's. Its linear is the same; other layers stay as they are."""
    small.head = timm.layers.Linear(32, 4)
    small.second = timm.layers.Conv2dSame(16, 32, 3, 2)
    exact = small(images[0])
    made = export_static(small, images[0], tmp_path, dynamic=False, calibration=images, percent=100)
    assert made.int8 == {"convolutions": 1, "linears": 1}
    answer = torchscript.read(tmp_path / torchscript.FILE, trusted=True)(images[0])
    assert sqnr_db(exact, answer) > 10


def test_other_percentages_are_refused(network, images, tmp_path):
    with pytest.raises(ValueError, match="0 to 100"):
        export_static(network, images[0], tmp_path, dynamic=False, calibration=images, percent=101)


def test_images_are_streamed_and_the_answers_are_the_same(small, streamed, tmp_path):
    answers = {}
    for name, calibration in (("listed", streamed.images), ("streamed", streamed)):
        (tmp_path / name).mkdir()
        export_static(small, streamed.images[0], tmp_path / name, dynamic=False, calibration=calibration, percent=100)
        answers[name] = torchscript.read(tmp_path / name / torchscript.FILE)(streamed.images[1])
    assert answers["streamed"].equal(answers["listed"])
    assert streamed.most <= 2


def test_any_size_and_batch_and_order_in_memory(network, images, tmp_path):
    """The border is made, and the maxima are taken, by the size of what comes."""
    export_static(network, images[0], tmp_path, dynamic=True, calibration=images, percent=100)
    served = torchscript.read(tmp_path / torchscript.FILE)
    x = torch.cat([images[0].repeat(1, 1, 2, 1)[..., :201, :133], images[1].repeat(1, 1, 2, 1)[..., :201, :133]])
    with torch.inference_mode():
        answers = served(x)
        assert sqnr_db(network(x), answers) > 10
        assert served(x.contiguous(memory_format=torch.channels_last)).equal(answers)
        torch.testing.assert_close(served(x[1:]), answers[1:])


@pytest.mark.skipif(not has_vnni_for_eager(), reason="without VNNI the stem takes normalised pixels")
def test_rounding_of_the_stem_shifts_no_channel(network, images):
    """What a weight is off by is not to be multiplied by the mean of the pixels."""
    network = FromPixels(network.network, [128 / 255] * 3, [0.29] * 3).eval()  # of such images
    block, maps = network.network.stages[0][0], []
    made = quantized(network, {STEM}, images)
    made.network.stem.register_forward_hook(lambda _, inputs, output: maps.append(output))
    with torch.inference_mode():
        made(images[0])
        exact = block.act1(block.bn1(network.network.stem(network.normalise(images[0], torch.float32))))
    shifts = (maps[0] - exact).mean(dim=(0, 2, 3)) / exact.std()
    assert shifts.abs().max() < 0.005


def test_a_stem_that_stays_float(network, images, tmp_path):
    from hct_lightning.deploy.int8.sensitivity import sensitivity

    assert "network.stem.conv" in sensitivity(network, images)
    made = export_static(network, images[0], tmp_path, dynamic=False, calibration=images, percent=0)
    assert made.int8 == {"convolutions": 0, "linears": 0}
    with torch.inference_mode():
        answer = torchscript.read(tmp_path / made.file)(images[0])
        torch.testing.assert_close(answer, network(images[0]), rtol=1e-3, atol=1e-3)
