"""What the tiles of an image gave, kept in a file."""

import logging
import os

import pytest
import torch

from hct_lightning.training.kept_map import KeptMap

SHAPE = (1, 3, 4, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_is_there_again(tmp_path, dtype):
    kept = KeptMap(tmp_path / "map", {"image": "a"})
    assert kept.done == 0
    values = torch.arange(60).view(SHAPE).to(dtype)
    first = kept.map(SHAPE, dtype)
    assert first.is_contiguous(memory_format=torch.channels_last)
    first.copy_(values)
    kept.note(7)
    again = KeptMap(tmp_path / "map", {"image": "a"})
    assert again.done == 7
    assert torch.equal(again.map(SHAPE, dtype), values)
    assert KeptMap(tmp_path / "map", {"image": "b"}).done == 0
    again.remove()
    assert KeptMap(tmp_path / "map", {"image": "a"}).done == 0


def test_a_map_of_an_earlier_start_of_the_machine_does_not_count(tmp_path, monkeypatch):
    KeptMap(tmp_path / "map", {}).map(SHAPE, torch.float32)
    KeptMap(tmp_path / "map", {}).note(2)
    (tmp_path / "boot").write_text("another")
    monkeypatch.setattr("hct_lightning.training.kept_map.BOOT", tmp_path / "boot")
    assert KeptMap(tmp_path / "map", {}).done == 0


def test_a_changed_image_is_another_one(tmp_path):
    (tmp_path / "a.png").write_bytes(b"1")
    of_image = lambda tile: KeptMap.of_image(tmp_path / "out.csv", {"c": 1}, str(tmp_path / "a.png"), tile, rank=0)  # noqa: E731
    kept = of_image(512)
    kept.map(SHAPE, torch.float32)
    kept.note(3)
    assert kept.folder == tmp_path / "out.csv.tiles-0"
    assert of_image(512).done == 3
    assert of_image(256).done == 0
    os.utime(tmp_path / "a.png", (1, 1))
    assert of_image(512).done == 0


def test_a_full_disk_leaves_it_in_memory(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    kept = KeptMap(tmp_path / "map", {})
    with caplog.at_level(logging.INFO, "hct_lightning"):
        kept.map(SHAPE, torch.float32).fill_(1)
    kept.note(1)
    assert "is not kept" in caplog.text
    assert KeptMap(tmp_path / "map", {}).done == 0


def test_on_macos_which_can_not_ask_for_the_room(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    KeptMap(tmp_path / "map", {}).map(SHAPE, torch.float32)
    assert (tmp_path / "map" / "map.bin").stat().st_size == 240
