import csv

import pytest

from hct_lightning.callbacks.skipped_images import SkippedImages


def test_unreadable_files_are_listed_with_the_reason(fit, images, tmp_path):
    broken = [images / "a" / f"{i}.png" for i in range(10)][3:5]
    for file in broken:
        file.write_bytes(b"not an image")
    fit(SkippedImages(), data={"on_error": "skip"})
    with (tmp_path / "skipped.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "reason"]
    assert [path for path, _ in rows] == [str(file) for file in broken]
    assert all(reason.startswith(path) for path, reason in rows)


@pytest.mark.parametrize("on_error", ["skip", "raise"])
def test_without_any_there_is_no_list(fit, tmp_path, on_error):
    fit(SkippedImages(), data={"on_error": on_error})
    assert not (tmp_path / "skipped.csv").exists()
