from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hct_lightning.data.catalogue import Split
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.readers import FileReader
from hct_lightning.report.predictions import read_predictions
from hct_lightning.training import answers as module
from hct_lightning.training.answers import write_answers, write_thumbnails
from hct_lightning.training.module import Answers


@pytest.fixture
def split(tmp_path) -> Split:
    """Four images, two a class; the last can't be read, nor is its name UTF-8."""
    paths = [str(tmp_path / f"{name}.png") for name in ("0", "1", "2", "\udcff")]
    for i, path in enumerate(paths[:3]):
        Image.new("L", (600, 300), 80 * i).save(path)
    Path(paths[3]).write_text("no image")
    return Split(paths, [0, 1, 0, 1])


@pytest.fixture
def said() -> Answers:
    """Of images 1 to 3: right, right, wrong."""
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0], [3.0, 0.0]])
    return Answers(torch.tensor([1, 2, 3]), logits, torch.tensor([1, 0, 1]))


def test_the_file_has_a_row_an_image(split, said, tmp_path):
    write_answers(tmp_path / "validate" / "best.csv", said, split, ("a", "b"))
    found = read_predictions(tmp_path / "validate" / "best.csv")
    assert found.paths == split.paths[1:]
    assert found.labels.tolist() == [1, 0, 1]
    assert found.accuracy == pytest.approx(2 / 3)
    np.testing.assert_array_equal(found.probabilities.astype(np.float32), said.logits.softmax(dim=1).numpy())


def test_what_a_table_says_is_not_taken_for_what_the_network_says(split, said, tmp_path):
    tags = {"class": list("wxyz"), "p_age": ["71", "72", "73", "74"], "book": list("klmn")}
    split = Split(split.paths, split.labels, tags)
    write_answers(tmp_path / "best.csv", said, split, ("a", "b"))
    found = read_predictions(tmp_path / "best.csv")
    assert found.classes == ["a", "b"]
    header, first = (tmp_path / "best.csv").read_text(errors="surrogateescape").splitlines()[:2]
    assert header == "path,label,class,p_a,p_b,tag_class,tag_p_age,book"
    assert first.endswith("x,72,l")


def test_thumbnails_are_replaced_and_what_cannot_be_read_is_left_out(split, said, tmp_path):
    file = tmp_path / "best.csv"
    reader = FileReader(Decoding(channels=1, size=(300, 600), geometry="cover", max_pixels=10**6))
    write_thumbnails(file, reader)  # there is no file yet
    write_answers(file, said, split, ("a", "b"))
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "7.jpg").touch()
    write_thumbnails(file, reader)
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"0.jpg", "1.jpg"}
    with Image.open(tmp_path / "best" / "1.jpg") as image:
        assert (image.mode, image.size) == ("RGB", (256, 128))


def test_too_many_probabilities_are_left_out(split, said, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "MOST", 5)
    with caplog.at_level("INFO"):
        write_answers(tmp_path / "best.csv", said, split, ("a", "b"))
    assert not (tmp_path / "best.csv").exists()
    assert "6 probabilities are too many" in caplog.text
