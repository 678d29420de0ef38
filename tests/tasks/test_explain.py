"""Explaining with a finished run, through the real command line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from PIL import Image

from hct_lightning.data.reading.geometry import apply
from hct_lightning.explain.attention import attention_map
from hct_lightning.explain.gradient import gradient_map
from hct_lightning.explain.maps import Map, rank_correlation
from hct_lightning.explain.occlusion import occlusion_map
from hct_lightning.tasks.explain import folders, main, show
from hct_lightning.training import large_images
from hct_lightning.training.checkpoints import load_network


@pytest.fixture(scope="module")
def explained(cli, trained, photos, tmp_path_factory) -> tuple[Path, str]:
    """Two photographs of one name and one that is no image, and standard output."""
    home = tmp_path_factory.mktemp("explain")
    for i, photo in enumerate(sorted(photos.rglob("*.jpg"))[:2]):
        (home / "images" / str(i)).mkdir(parents=True)
        with Image.open(photo) as image:
            image.resize((480, 320)).save(home / "images" / str(i) / "photo.png")
    (home / "images" / "broken.png").write_bytes(b"no image")
    command = ("task=explain", f"run={trained}", "explain.input=images", "data.on_error=skip", "explain.tile=32")
    shutil.copytree(trained, home / "again")
    fields = ("explain.receptive_field=true", "explain.against=again")
    done = cli(*command, *fields, f"explain.output={home}/out", cwd=home)
    return home / "out", done.stdout


def test_overlays_have_the_pixels_of_what_the_network_saw_of_the_original(explained):
    out, _ = explained
    record = json.loads((out / "explain.json").read_text())
    assert {row["path"] for row in record["images"] if "error" in row} == {"images/broken.png"}
    rows = [row for row in record["images"] if "maps" in row]
    assert len(rows) == 2
    for row in rows:
        assert row["size"] == [320, 320]  # the square of 480x320 that geometry=cover takes
        assert row["target"] == row["class"]
        assert set(row["maps"]) == {"gradient", "attention", "occlusion"}
        for about in row["maps"].values():
            with Image.open(out / about["png"]) as image:
                assert image.width == 320
                assert image.height > 320
            assert (out / about["jpg"]).exists()
            assert -1 <= about["correlation_with_random"] < 0.999


def test_the_files_hold_the_maps_of_the_library(explained, trained):
    out, _ = explained
    network, spec = load_network(trained / "checkpoints" / "best.ckpt")
    row = next(row for row in json.loads((out / "explain.json").read_text())["images"] if "maps" in row)
    with Image.open(out.parent / row["path"]) as image:
        original = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    pixels = apply(original, (128, 128), "cover")[None]
    target = spec.classes.index(row["class"])
    grey = (255 * torch.tensor(spec.mean)).round().byte()
    made = {
        "gradient": gradient_map(network, pixels, target, layer="stages.2"),
        "attention": attention_map(network, pixels, target),
        "occlusion": occlusion_map(network, pixels, target, grey=grey, tile=32, batch=1, track=lambda items, _: items),
    }
    for name, found in made.items():
        held = Map(torch.from_numpy(np.load((out / row["maps"][name]["png"]).with_suffix(".npy"))), "")
        assert held.values.shape == (4, 4)
        assert rank_correlation(held, found) > 0.9, name  # libvips shrinks with a difference of 1 or 2 of 255


def test_an_image_that_does_not_fit_has_its_places_in_full(trained, photos, tmp_path):
    """In process: what fits is decided by a limit that the process itself has nearly reached."""
    with Image.open(next(photos.rglob("*.jpg"))) as image:
        image.resize((1500, 1100)).save(tmp_path / "large.png")
    room = (large_images.resident_bytes() + 2e8) / 1e9
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        checkpoint = f"ckpt={trained}/checkpoints/best.ckpt"
        image = (f"explain.input={tmp_path}/large.png", "explain.resolution=native", f"explain.max_memory_gb={room}")
        cfg = compose("config", ["task=explain", checkpoint, *image, "explain.places=2"])
    main(cfg, tmp_path)
    (row,) = json.loads((tmp_path / "explain" / "explain.json").read_text())["images"]
    assert row["size"] == [1100, 1500]
    assert set(row["maps"]) == {"gradient", "attention"}
    about = row["maps"]["gradient"]
    first = about["places"][0]
    network, spec = load_network(trained / "checkpoints" / "best.ckpt")
    with Image.open(tmp_path / "large.png") as image:
        pixels = np.array(image)
    target = spec.classes.index(row["target"])
    exact = gradient_map(network, torch.from_numpy(pixels).permute(2, 0, 1)[None], target, layer="stages.2")
    held = np.load(tmp_path / "explain" / "large" / "gradient.npy")
    torch.testing.assert_close(torch.from_numpy(held), exact.values, rtol=1e-2, atol=1e-4)
    (top, bottom), (left, right) = first["rows"], first["columns"]
    with Image.open(tmp_path / "explain" / first["png"]) as image:
        assert image.width == right - left
        assert image.height > bottom - top
    hot = divmod(int(exact.values.argmax()), held.shape[1])
    assert top <= (hot[0] + 0.5) * 1100 / held.shape[0] < bottom
    assert left <= (hot[1] + 0.5) * 1500 / held.shape[1] < right


def test_the_receptive_field_before_and_after(explained):
    out, said = explained
    fields = json.loads((out / "explain.json").read_text())["receptive_field"]
    assert [(row["network"], row["weights"]) for row in fields] == [
        (name, state)
        for name in ("HCT, conv_stages=3", "HCT, conv_stages=3, again")
        for state in ("random weights", "trained")
    ]
    assert (out / "receptive_field.png").exists()
    assert "half of the gradient within" in said
    assert "broken.png" in said
    assert said.splitlines()[-1] == str(out)


def test_an_unreadable_image_is_named_and_what_was_done_is_kept(cli, trained, explained, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(explained[0].parent / "images" / "0", images / "a")
    (images / "b.png").write_bytes(b"no image")
    command = ("task=explain", f"run={trained}", "explain.method=gradient", "explain.sanity=false")
    done = cli(*command, f"explain.input={images}", f"explain.output={tmp_path}/out", cwd=tmp_path, status=1)
    assert "b.png: not an image" in done.stderr.splitlines()[-1]
    (row,) = json.loads((tmp_path / "out" / "explain.json").read_text())["images"]
    assert row["maps"]["gradient"]["correlation_with_random"] is None


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("explain.method=[lime]", "explain.method=lime: choose of gradient, attention, occlusion"),
        ("explain.target=1", "explain.target=1: the classes are dots, grid, rings, stripes"),
        (
            "explain.against=other",
            "explain.against=other: it compares receptive fields; add explain.receptive_field=true",
        ),
        ("explain.target=cat", "explain.target=cat: the classes are dots, grid, rings, stripes"),
        ("explain.tile=0.5", "explain.tile=0.5: give a positive number"),
        ("explain.method=[]", "leaves nothing to do"),
        ("explain.places=-1", "explain.places=-1: give a number"),
        ("explain.colours=jet", "explain.colours=jet: choose one of viridis"),
    ],
)
def test_bad_options_are_one_line(trained, photos, tmp_path, option, message):
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        checkpoint = f"ckpt={trained}/checkpoints/best.ckpt"
        cfg = compose("config", ["task=explain", checkpoint, f"explain.input={photos}", option])
    with pytest.raises(ValueError, match=re.escape(message)):
        main(cfg, tmp_path)


def test_images_of_one_name_have_folders_of_their_own():
    """And none is another's, the folder above, or the place of a file."""
    images = ["a/x.png", "b/x.jpg", "y.png", "x-2.png", "...png", "explain.json.png"]
    names = ["x", "x-2", "y", "x-2-2", "image", "explain.json-2"]
    assert list(folders(Path("out"), images)) == [Path("out", name) for name in names]


def test_names_are_shown_as_they_are(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    maps = {"gradient": {"png": "[a]/gradient.png", "correlation_with_random": None, "seconds": 1.0}}
    row = {"path": "[b].png", "class": "[c]", "probability": 0.5, "target": "[/d]", "maps": maps}
    show({"images": [row], "peak_memory_gib": 1.0}, tmp_path)
    out = capsys.readouterr().out
    assert all(name in out for name in ("[a]/gradient.png", "[b].png", "[c] 0.500", "[/d]"))
    assert "\\" not in out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_photograph_of_4000_px_takes_less_than_6_gib(cli, trained, photos, tmp_path):
    photo = next(photos.rglob("*.jpg"))
    command = ("task=explain", f"run={trained}", f"explain.input={photo}", "explain.resolution=4000")
    cli(
        *command,
        "explain.tile=2000",
        "explain.receptive_field=true",
        f"explain.output={tmp_path}/out",
        cwd=tmp_path,
        timeout=800,
    )
    record = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert record["images"][0]["maps"]["gradient"]["cells"] == [125, 125]
    assert record["peak_memory_gib"] < 6
