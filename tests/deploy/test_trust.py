"""Model files that are programs: none that could do more than compute is run, unless it is trusted."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from hct_lightning.deploy import export_artifact, load_artifact, trust
from hct_lightning.deploy.artifact import digest
from hct_lightning.deploy.runtimes import torchscript


def test_torchscript_of_this_users_own_may_name_more(tmp_path, about, network, monkeypatch, caplog):
    """An artifact of an own network needs no word on the machine where it was made; elsewhere it does."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with caplog.at_level("WARNING"):
        made = export_artifact("own", torchscript.export, Own(network), tmp_path, **about)
    assert "this artifact runs elsewhere only where it is trusted" in caplog.text
    assert "its program names torch.special_i0e" in caplog.text
    load_artifact(made)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(
        ValueError,
        match=r"own/model\.ts is refused: its program names torch\.special_i0e, which no known network needs; export it "
        r"again here, or if you trust who made it, use predict\.trust=true, serve\.trust=true or load_artifact\(\.\.\., trust=True\)$",
    ):
        load_artifact(made)
    load_artifact(made, trust=True)


def test_torchscript_of_known_operators_runs_on_other_machines(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert not trust.is_own(digest(folder / "model.ts"))
    load_artifact(folder)


def test_a_home_that_is_read_only_ends_no_export(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    trust.remember("0" * 64)
    assert "can't be written, so this artifact has to be trusted as a stranger's" in caplog.text
    assert not trust.is_own("0" * 64)


def test_a_user_without_a_home_has_no_artifacts_of_their_own(monkeypatch, caplog):
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    trust.remember("0" * 64)
    assert (
        "has to be trusted as a stranger's: Could not determine home directory. Give one by XDG_STATE_HOME"
        in caplog.text
    )
    assert not trust.is_own("0" * 64)


class Own(torch.nn.Module):
    """A network with an operator that is rare."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.special.i0e(self.network(images))


def test_machine_code_has_to_be_ones_own_or_trusted(folder, tmp_path, monkeypatch):
    """What is no package stands for one: whether it is run is decided before it is opened."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    other = shutil.copytree(folder, tmp_path / "other")
    description = json.loads((other / "artifact.json").read_text())
    (other / "artifact.json").write_text(json.dumps(description | {"runtime": "aoti"}))
    with pytest.raises(ValueError, match=r"model\.ts is machine code that you have not compiled here"):
        load_artifact(other)
    with pytest.raises(ValueError, match="can't be loaded"):
        load_artifact(other, trust=True)
    trust.remember(digest(other / "model.ts"))
    with pytest.raises(ValueError, match="can't be loaded"):
        load_artifact(other)


@pytest.mark.parametrize(
    ("options", "special"),
    [
        ({"blocks": [1, 2, (3, 4.5)], "kernel": "softmax", "drop": None, "deep": {"a": True}}, None),
        ({"blocks": [1, 1, 10**9]}, "1000000000"),
        ({"scale": float("nan")}, "nan"),
        ({"deep": [{"_target_": "os.system"}]}, "_target_"),
        ({"deep": {3: 1}}, "3"),
        ({"name": "${oc.env:HOME}"}, "${oc.env:HOME}"),
        ({"blocks": {1, 2}}, "{1, 2}"),
    ],
)
def test_a_networks_options_are_plain(options, special):
    assert trust.first_special(options) == special


def test_what_would_fill_the_memory_is_refused(tmp_path):
    file = tmp_path / "a.ckpt"
    torch.save({"x": torch.zeros(1000)}, file)
    trust.refuse_inflated(file)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/1", bytes(10**6))
    with pytest.raises(zipfile.BadZipFile, match=r"its parts are said to have 100\d{4} bytes, it has \d{4}$"):
        trust.refuse_inflated(file)
    trust.refuse_inflated(file, compressed=10**6)
