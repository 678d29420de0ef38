"""A checkpoint gives its network back, and runs nothing that is in it."""

import zipfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.models import HCT, FromPixels
from hct_lightning.models.original import original_key
from hct_lightning.training.checkpoints import (
    begin_network,
    check_resumable,
    load_checkpoint,
    load_network,
    load_weights,
)
from hct_lightning.training.spec import NetworkSpec


def spec_of(target: str = "hct_lightning.models.HCT", classes: tuple[str, ...] = ("a", "b", "c")) -> NetworkSpec:
    decoding = Decoding(channels=1, size=(128, 128), geometry="cover", max_pixels=10**6)
    return NetworkSpec(model={"_target_": target}, classes=classes, decoding=decoding, mean=(0.4,), std=(0.2,))


def save(path: Path, network: FromPixels, spec: NetworkSpec) -> Path:
    weights = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"hyper_parameters": {"spec": spec.as_json()}, "state_dict": weights, "global_step": 7}, path)
    return path


def load(network: FromPixels, path: Path, *, classes: int) -> None:
    """Starts a network from a checkpoint of ours."""
    load_weights(network, *load_checkpoint(path), path, classes=classes)


def test_the_network_comes_back_with_its_description(tmp_path):
    spec = spec_of()
    network = spec.build()
    path = save(tmp_path / "a.ckpt", network, spec)
    checkpoint, described = load_checkpoint(path)
    assert (checkpoint["global_step"], described) == (7, spec)
    again, _ = load_network(path)
    assert not again.training
    images = torch.randint(0, 256, (2, 1, 128, 128), dtype=torch.uint8)
    assert torch.equal(again(images), network.eval()(images))


def test_what_is_no_checkpoint_or_names_what_is_not_allowed_is_refused(tmp_path):
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    for name in ("text", "other"):
        with pytest.raises(ValueError, match=rf"{name}\.ckpt is not a checkpoint.*") as refused:
            load_checkpoint(tmp_path / f"{name}.ckpt")
        assert "\n" not in str(refused.value)
        with pytest.raises(ValueError, match=rf"{name}\.ckpt "):
            check_resumable(tmp_path / f"{name}.ckpt")
    with pytest.raises(ValueError, match=r"text\.ckpt is not a checkpoint"):
        begin_network(spec_of(), tmp_path / "text.ckpt", goes_on=False, given={})
    with pytest.raises(ValueError, match=r"a\.ckpt is damaged: it has no loops"):
        check_resumable(save(tmp_path / "a.ckpt", spec_of().build(), spec_of()))
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "absent.ckpt")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"_target_": "os.system"}, r"its network is os\.system"),
        ({"_target_": "lightning.fabric.utilities.cloud_io._load", "path_or_url": "x"}, "its network is lightning"),
        ({"_target_": "hct_lightning.app.main"}, "its network is hct_lightning"),
        ({"_target_": {"_target_": "os.system"}}, "its network is {'_target_'"),
        ({"blocks": {"_target_": "timm.create_model", "model_name": "resnet18"}}, "the option '_target_'"),
        ({"_args_": [3]}, "_args_"),
        ({"_partial_": True}, "_partial_"),
        ({"kernel": "${oc.env:HOME}"}, "oc.env"),
        ({"blocks": [10**9] * 5}, "1000000000"),
        ({"blocks": [50] * 5}, "bytes of weights, the file has"),
        ({"colour": "red"}, "colour"),
        ({"first_stride": 3}, "first_stride=3"),
    ],
)
def test_a_network_that_is_more_than_one_of_ours_is_refused(tmp_path, model, message):
    spec = spec_of()
    evil = replace(spec, model={**spec.model, **model})
    path = save(tmp_path / "evil.ckpt", spec.build(), evil)
    with pytest.raises(ValueError, match=rf"evil\.ckpt.*{message}") as refused:
        load_network(path)
    assert "\n" not in str(refused.value)


def test_weights_are_the_checkpoints_own_and_not_fetched(tmp_path):
    """What `timm.create_model` would unpickle, or download, is left out."""
    decoding = spec_of().decoding
    model = {"_target_": "timm.create_model", "model_name": "test_vit2"}
    spec = NetworkSpec(model=model, classes=("a", "b"), decoding=decoding, mean=(0.5,), std=(0.5,))
    evil = replace(spec, model={**model, "checkpoint_path": str(tmp_path / "x.pth"), "pretrained": True})
    _, found = load_network(save(tmp_path / "a.ckpt", spec.build(), evil))
    assert found.model == model


def test_weights_start_another_network_of_the_same_shape(tmp_path):
    spec = spec_of()
    trained, fresh = spec.build(), spec.build()
    path = save(tmp_path / "a.ckpt", trained, spec)
    load(fresh, path, classes=3)
    assert all(torch.equal(fresh.state_dict()[key], value) for key, value in trained.state_dict().items())
    wider = replace(spec, model={**spec.model, "blocks": [2, 2, 2, 2, 3]})
    with pytest.raises(ValueError, match=r"a\.ckpt does not fit this network: (?s:.)*Missing key"):
        load(wider.build(), path, classes=3)


# HCT; one whose classifier has layers of its own; one with two classifiers.
@pytest.mark.parametrize("name", [None, "efficientvit_b0", "levit_128s"])
@pytest.mark.parametrize(("before", "now"), [(3, 2), (0, 2), (3, 0)])
def test_for_another_number_of_classes_the_classifier_alone_begins_anew(tmp_path, caplog, name, before, now):
    spec = spec_of()
    model = {"_target_": "timm.create_model", "model_name": name} if name else spec.model
    old, new = (replace(spec, model=model, classes=tuple("abc"[:n])) for n in (before, now))
    trained, fresh = old.build(), new.build()
    path = save(tmp_path / "a.ckpt", trained, old)
    before_loading = {key: value.clone() for key, value in fresh.state_dict().items()}
    with caplog.at_level("INFO"):
        load(fresh, path, classes=now)
    assert f"the classifier begins anew: {path} has {before} classes" in caplog.text
    loaded, theirs = fresh.state_dict(), trained.state_dict()
    same = {key for key in loaded if key in theirs and torch.equal(loaded[key], theirs[key])}
    own = {key for key in loaded if torch.equal(loaded[key], before_loading[key])}
    anew = loaded.keys() - same
    assert anew <= own
    assert bool(anew) == bool(now)
    assert all(key not in theirs or theirs[key].shape != loaded[key].shape for key in anew)
    assert any(key.endswith("weight") for key in same - own)


def test_what_has_no_classes_yet_is_trained_first(tmp_path):
    spec = spec_of(classes=())
    path = save(tmp_path / "a.ckpt", spec.build(), spec)
    with pytest.raises(ValueError, match=r"a\.ckpt is of task=pretrain, and has no classes yet; train it first: ckpt="):
        load_network(path)


def test_weights_of_the_original_layout_are_for_hct_alone(tmp_path):
    published = tmp_path / "hct.pt"
    weights = HCT().state_dict()
    saved = {"state_dict": {original_key(key, 3): value for key, value in weights.items()}}
    network = FromPixels(HCT(), (0.5,) * 3, (0.2,) * 3)
    load_weights(network, saved, None, published, classes=2)
    assert torch.equal(network.network.stem.conv.weight, weights["stem.conv.weight"])
    with pytest.raises(ValueError, match=r"hct\.pt holds no weights of Identity"):
        load_weights(FromPixels(torch.nn.Identity(), (0.5,), (0.5,)), saved, None, published, classes=2)


def test_weights_come_with_their_normalisation_unless_another_is_asked_for(tmp_path, caplog):
    trained = spec_of()
    path = save(tmp_path / "a.ckpt", trained.build(), trained)
    data = replace(trained, mean=(0.7,), std=(0.1,))
    images = torch.randint(0, 256, (1, 1, 128, 128), dtype=torch.uint8)

    def begun(goes_on: bool = False, **given: object) -> tuple[FromPixels, NetworkSpec]:
        return begin_network(data, path, goes_on=goes_on, given=given)

    for goes_on in (False, True):
        with caplog.at_level("INFO"):
            network, spec = begun(goes_on)
        assert (spec.mean, spec.std) == (trained.mean, trained.std)
        assert torch.equal(network.eval()(images), load_network(path)[0](images))
        assert "mean (0.4,) and deviation (0.2,) are those of" in caplog.text
    network, spec = begun(mean=[0.7])
    assert (spec.mean, spec.std) == (data.mean, data.std)
    assert torch.equal(network.scale, data.build().scale)
    assert torch.equal(network.network.stem.conv.weight, load_network(path)[0].network.stem.conv.weight)
    with pytest.raises(ValueError, match=r"data\.mean=\[0\.7\]: the network was trained with \[0\.4\], and keeps it"):
        begun(goes_on=True, mean=[0.7])


def test_a_run_begins_from_published_weights(tmp_path):
    spec = replace(spec_of(), mean=(0.5,) * 3, std=(0.2,) * 3)
    spec = replace(spec, decoding=replace(spec.decoding, channels=3), classes=tuple("abcd"))
    weights = HCT().state_dict()
    torch.save({original_key(key, 3): value for key, value in weights.items()}, tmp_path / "hct.pt")
    network, found = begin_network(spec, tmp_path / "hct.pt", goes_on=False, given={})
    assert found == spec
    assert torch.equal(network.network.stem.conv.weight, weights["stem.conv.weight"])


def test_a_file_is_read_once(tmp_path, monkeypatch):
    """It may be large, and its check sums take as long as itself."""
    path = save(tmp_path / "a.ckpt", spec_of().build(), spec_of())
    read = []
    load, testzip = torch.load, zipfile.ZipFile.testzip
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: read.append("load") or load(*args, **kwargs))
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: read.append("testzip") or testzip(self))
    begin_network(spec_of(), path, goes_on=False, given={})
    assert read == ["testzip", "load"]


@pytest.mark.parametrize("error", [MemoryError("no more"), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
@pytest.mark.parametrize("where", [(torch, "load"), (NetworkSpec, "build")])
def test_memory_that_is_short_is_no_damage_of_the_file(tmp_path, monkeypatch, error, where):
    path = save(tmp_path / "a.ckpt", spec_of().build(), spec_of())
    monkeypatch.setattr(*where, Mock(side_effect=error))
    with pytest.raises(type(error), match=f"^{error}$"):
        load_network(path)


def test_a_run_keeps_its_classes(tmp_path):
    path = save(tmp_path / "a.ckpt", spec_of().build(), spec_of())
    other = spec_of(classes=("x", "y", "z"))
    assert begin_network(other, path, goes_on=False, given={})[1].classes == other.classes
    with pytest.raises(ValueError, match="the checkpoint was trained on a, b, c"):
        begin_network(other, path, goes_on=True, given={})
