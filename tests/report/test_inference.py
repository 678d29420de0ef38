from PIL import Image

from hct_lightning.report.inference import draw


def row(side: str, size: int) -> dict:
    return {"side": side, "size": size, "batch": 1, "device": "cpu", "p50_s": 0.1, "p99_s": 0.2}


def test_a_panel_for_each_shape(tmp_path):
    draw([row("plain eager", 128), row("ours", 128)], tmp_path / "one.png")
    draw([row("ours", 128), row("ours", 256)], tmp_path / "two.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.width == 2 * one.width
