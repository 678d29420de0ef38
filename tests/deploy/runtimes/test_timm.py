"""What timm loads of the folder, by its own means. That it is served as an artifact: test_runtimes.py, too."""

import json

import pytest
import timm
import torch

from hct_lightning import load_artifact
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.deploy import export_artifact
from hct_lightning.deploy.artifact import digest
from hct_lightning.deploy.runtimes import timm as runtime
from hct_lightning.deploy.runtimes.timm import FILE
from hct_lightning.training.spec import NetworkSpec

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
HCT = {"_target_": "hct_lightning.models.HCT", "kernel": "softmax", "blocks": [1, 1, 2, 1, 1], "drop_rate": 0.2}
RESNET = {"_target_": "timm.create_model", "model_name": "resnet18"}


def exported(model, folder):
    """The artifact of a network with random weights and figures of its own, that network, and images."""
    torch.manual_seed(0)
    decoding = Decoding(channels=3, size=(128, 192), geometry="cover", max_pixels=2**20)
    spec = NetworkSpec(model=model, classes=("cat", "dog"), decoding=decoding, mean=MEAN, std=STD)
    network = spec.build()
    images = torch.randint(0, 256, (3, 3, 128, 192), dtype=torch.uint8)
    network(images)  # running statistics
    said = json.loads(json.dumps(spec.as_json()))
    return export_artifact("timm", runtime.export, network.eval(), folder, spec=said), network, images


@pytest.fixture(scope="module", params=[HCT, RESNET], ids=["hct", "resnet18"])
def made(request, tmp_path_factory):
    return exported(request.param, tmp_path_factory.mktemp("timm"))


def normalised(images):
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (MEAN, STD))
    return (images / 255 - mean) / std


@torch.inference_mode()
def test_its_logits_are_those_of_the_network(made):
    folder, network, images = made
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    torch.testing.assert_close(loaded(normalised(images)), network(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(load_artifact(folder).logits(images), network(images), rtol=1e-4, atol=1e-4)


def test_timm_knows_how_its_images_are_prepared(made):
    folder, _, _ = made
    config = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{folder}"))
    assert config["input_size"] == (3, 128, 192)
    assert (tuple(config["mean"]), tuple(config["std"])) == (MEAN, STD)
    assert config["crop_pct"] == 1
    about = json.loads((folder / "config.json").read_text())
    assert about["label_names"] == ["cat", "dog"]
    assert not {"license", "tag", "hf_hub_id", "url"} & about["pretrained_cfg"].keys(), "of other weights"


@torch.inference_mode()
def test_other_classes_other_channels_and_features(made):
    folder, network, images = made
    pixels = normalised(images)
    seven = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7).eval()
    assert seven(pixels).shape == (3, 7)
    alone = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    head = network.network.get_classifier()
    torch.testing.assert_close(head(alone(pixels)), network(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seven.forward_features(pixels), alone.forward_features(pixels))
    stages = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
    assert len(stages(pixels)) == 5
    grey = timm.create_model(f"local-dir:{folder}", pretrained=True, in_chans=1).eval()
    assert grey(pixels[:, :1]).shape == (3, 2)


def test_a_network_that_timm_does_not_know_is_refused(tmp_path):
    spec = {"model": {"_target_": "mine.Net"}, "classes": ["a", "b"], "decoding": {"channels": 3}}
    spec |= {"mean": MEAN, "std": STD}
    network = torch.nn.Module()
    network.network = torch.nn.Flatten()
    with pytest.raises(ValueError, match=r"timm does not know mine\.Net; leave timm out"):
        runtime.export(network, torch.zeros(1, 3, 8, 8), tmp_path, dynamic=False, spec=spec)


def test_options_of_a_stranger_take_no_hours(tmp_path):
    for options in ({"blocks": [1, 1, 10**9]}, {"_target_": "os.system"}):
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "hct", "model_args": options}))
        with pytest.raises(ValueError, match="plain values and no large numbers"):
            runtime.load(tmp_path / "model.safetensors", {}, None, 1)


# Of 12 MB of weights, with two gigabytes of positions of each pixel of a window to each other.
TABLES = {"model_args": {"window_size": 80, "embed_dim": 24, "img_size": 640}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 10**12}, None),  # the artifact says how many there are
        ({"architecture": "resnet50"}, r"said to have \d+ bytes of weights, the file has \d+"),
        ({"model_args": {"layers": [200, 200, 200, 200]}}, r"said to have \d+ bytes of weights"),
        ({"architecture": "swin_tiny_patch4_window7_224"} | TABLES, r"said to compute \d+ bytes of tables"),
    ],
)
def test_a_network_that_is_larger_than_its_weights_is_refused(tmp_path, change, message):
    folder, network, images = exported(RESNET, tmp_path)
    config, about = (json.loads((folder / name).read_text()) for name in ("config.json", "artifact.json"))
    (folder / "config.json").write_text(json.dumps(config | change))
    (folder / "artifact.json").write_text(json.dumps(about | {"sha256": {FILE: digest(folder / FILE)}}))
    if message is None:
        assert load_artifact(folder).logits(images).shape == network(images).shape
    else:
        with pytest.raises(ValueError, match=message):
            load_artifact(folder)
