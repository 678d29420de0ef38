"""What was written in November 2026, before `Decoding` and `NetworkSpec`, is read as it was meant.

`2026-11/` holds a store (JPEG, `srgb`), a run on it with a small network of timm, and what its checkpoint answered.
"""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hct_lightning import load_artifact
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.readers import FileReader
from hct_lightning.data.store.store import Store
from hct_lightning.deploy.artifact import read_description
from hct_lightning.training.checkpoints import load_network

BEFORE = Path(__file__).parent / "2026-11"
RUN = BEFORE / "run"
MEANT = Decoding(channels=3, size=(128, 128), geometry="cover", max_pixels=2**30)


@pytest.fixture(scope="module")
def answers() -> dict[str, list[float]]:
    """Probabilities by file, as the version of then gave them."""
    with (RUN / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["path"]: [float(row[key]) for key in row if key.startswith("p_")] for row in rows}


def images(answers: dict[str, list[float]], decoding: Decoding) -> torch.Tensor:
    read = FileReader(decoding)
    return torch.stack([read(str(BEFORE / path)) for path in answers])


def test_the_store():
    store = Store(BEFORE / "store")
    assert store.decoding == replace(MEANT, srgb=True)
    assert (store.recipe.format, store.recipe.quality) == ("jpeg", 80)
    reader = store.reader(store.decoding)
    for path in store.catalogue().train.paths:
        assert torch.equal(reader(path), FileReader(MEANT)(path))


def test_the_checkpoint(answers):
    network, spec = load_network(RUN / "checkpoints" / "best.ckpt")
    assert spec.decoding == MEANT
    assert spec.classes == ("dots", "grid", "rings", "stripes")
    with torch.inference_mode():
        found = network(images(answers, spec.decoding)).softmax(dim=1)
    torch.testing.assert_close(found, torch.tensor(list(answers.values())), rtol=0, atol=1e-5)


def test_the_artifact(answers):
    folder = RUN / "artifacts" / "torchscript"
    decoding = Decoding.from_json(read_description(folder)["decoding"])
    assert decoding == MEANT
    found = load_artifact(folder)(images(answers, decoding))
    torch.testing.assert_close(found, torch.tensor(list(answers.values())), rtol=0, atol=1e-5)


def test_the_run_goes_on(cli, tmp_path):
    run = shutil.copytree(RUN, tmp_path / "run")
    shutil.copy(run / "checkpoints" / "best.ckpt", run / "checkpoints" / "last.ckpt")
    done = cli(f"run={run}", f"data.root={BEFORE}/store", "trainer.max_epochs=2", "export=[]", cwd=tmp_path)
    assert "resuming from" in done.stderr
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert {row["epoch"] for row in rows} == {"1"}
    _, spec = load_network(run / "checkpoints" / "last.ckpt")
    assert spec.decoding.srgb, "what the store was read with is now said"


def test_the_run_is_validated_on_its_store_and_the_difference_is_said(cli, tmp_path):
    run = shutil.copytree(RUN, tmp_path / "run")
    done = cli("task=validate", f"run={run}", f"data.root={BEFORE}/store", cwd=tmp_path)
    assert "the data is read with data.srgb=true, the checkpoint says false" in done.stderr
    again = cli("task=validate", f"run={run}", f"data.root={BEFORE}/store", "data.srgb=true", cwd=tmp_path)
    assert "the checkpoint says" not in again.stderr
