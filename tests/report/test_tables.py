import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hct_lightning.report.tables import epoch_times_of, say_speed_up, time_table


def epoch(seconds: float, ranks: int = 1) -> dict:
    """An epoch of `seconds`, a tenth of it loading, at 8 images in all."""
    row = {"load_s": 0.1 * seconds, "train_s": 0.9 * seconds, "wait_s": 0.0, "run_s": seconds}
    return row | {"epoch": 0, "images_s": 8 / seconds, "ranks": [row] * ranks}


def shown(table) -> str:
    text = io.StringIO()
    Console(width=120, file=text).print(table)
    return text.getvalue()


def test_the_mean_over_epochs_and_each_rank():
    text = shown(time_table([epoch(1.0, ranks=2), epoch(3.0, ranks=2)], peak_gib=1.25))
    mean, first, second = (line for line in text.splitlines() if "rank" in line)
    assert "mean of 2 ranks" in mean
    assert [cell.strip() for cell in mean.split("│")[2:7]] == ["0.20 s", "1.80 s", "0.00 s", "2.00 s", "5.3"]
    assert "1.25 GiB" in mean
    assert "rank 0" in first
    assert "rank 1" in second
    assert not time_table([], None).row_count


def finished(folder: Path, **fields: Any) -> str:
    """The folder of a run on images of 32x48, three channels."""
    data = {"source": "x", "counts": {"train": {}}, "images": {"train": 8, "valid": 2}, "notes": []}
    data |= {"source_size": {"smallest": [9, 9], "largest": [9, 9]}, "decoding": {"size": [32, 48], "channels": 3}}
    record = {"status": "completed", "data": data}
    (folder / "run.json").write_text(json.dumps(record | {"epoch_times": [epoch(4.0)]} | fields))
    return str(folder)


def test_the_speed_up_is_per_image(tmp_path, caplog):
    against = finished(tmp_path)
    with caplog.at_level("INFO"):
        say_speed_up([epoch(2.0)], epoch_times_of(against, (32, 48), 3), against)
    assert "loading 2.00, training 2.00, running 2.00" in caplog.text


def test_what_can_not_be_compared_with_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"fit.against={tmp_path}/none: there is no run in"):
        epoch_times_of(f"{tmp_path}/none", (32, 48), 3)
    assert not (tmp_path / "none").exists()
    for fields in ({"epoch_times": []}, {"status": "failed"}):
        against = finished(tmp_path, **fields)
        with pytest.raises(ValueError, match="has no times; finish it first"):
            epoch_times_of(against, (32, 48), 3)
    against = finished(tmp_path)
    with pytest.raises(ValueError, match="its images have 32x48 pixels and 3 channels, these 64x64 and 1"):
        epoch_times_of(against, (64, 64), 1)
