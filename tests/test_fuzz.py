"""Files of strangers, mutated: each gives an answer, or one line that names it; none runs code, hangs or crashes.

A child process takes the cases one after the other, and this one watches it. A case is known by its number alone.
"""

import copy
import json
import random
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from run_folders import add_artifact, add_explanations, add_measurements, add_predictions, write_run

from hct_lightning.cli.recompose import recompose
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.reading.image import read_image
from hct_lightning.data.store.store import Store
from hct_lightning.deploy import load_artifact
from hct_lightning.deploy.artifact import digest
from hct_lightning.report.write import write_report
from hct_lightning.runs.folder import Run
from hct_lightning.training.checkpoints import check_resumable, load_network
from hct_lightning.training.spec import NetworkSpec

HERE = Path(__file__).parent
OLD = HERE / "formats" / "2026-11"
DECODING = Decoding(channels=3, size=(128, 128), geometry="cover", max_pixels=2**24)
LONGEST_S = 20  # for a case; most take milliseconds
CANARY = "hct-fuzz-canary"
EVIL: tuple[Any, ...] = (
    None, True, -1, 0, 3, 2**31, 2**63, 1e308, float("nan"), "", "x", "../../x", "/etc/passwd", "/dev/zero", "a\nb",
    [], [[]], {}, {"_target_": "os.system"}, {"_target_": "builtins.open", "file": CANARY, "mode": "w"},
    "${oc.env:HOME}", "!!python/object/apply:os.system [x]", "safety.allow=[os]", "hydra/launcher=x", "-m", "<script>x</script>",
    f"+callbacks.x={{_target_: os.system, command: touch {CANARY}}}", [0] * 1000, "x" * 10_000,
)  # fmt: skip


def mutate(value: Any, chance: random.Random) -> Any:
    """Plain containers with one place changed: another value, a key more, or one less."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(value)
    node, key = chance.choice(places)
    act = chance.randrange(4)
    if act == 0:
        del node[key]
    elif act == 1 and isinstance(node, dict):
        node[chance.choice(("unknown", "_target_", "_args_", "../x"))] = chance.choice(EVIL)
    else:
        node[key] = chance.choice(EVIL)
    return value


def spoil(file: Path, chance: random.Random) -> None:
    """Flips bits of a file, cuts it off, writes into it, or puts a link in its place."""
    data = bytearray(file.read_bytes())
    act = chance.randrange(8)
    if act == 0:
        data = data[: chance.randrange(len(data))]
    elif act == 1:
        at = chance.randrange(len(data))
        data[at : at + 8] = chance.randbytes(8)
    elif act == 2:
        file.unlink()
        file.symlink_to(chance.choice(("/dev/zero", "/dev/null", "/nowhere", "/etc/passwd", file.name)))
        return
    else:
        for _ in range(chance.choice((1, 1, 4, 64))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(data)


def checkpoint(folder: Path, chance: random.Random) -> Callable[[], Any]:
    file = folder / "run.ckpt"
    model = {"_target_": "timm.create_model", "model_name": "test_vit2"}
    spec = NetworkSpec(model=model, classes=("a", "b"), decoding=DECODING, mean=(0.5,) * 3, std=(0.5,) * 3)
    weights = {f"network.{key}": value for key, value in spec.build().state_dict().items()}
    saved = {"hyper_parameters": {"spec": spec.as_json()}, "epoch": 1, "global_step": 3, "loops": {"fit_loop": {}}}
    saved |= {"callbacks": {}, "optimizer_states": [{}], "lr_schedulers": [{}]}
    if chance.random() < 0.6:
        saved = mutate(saved, chance)
    torch.save(saved | {"state_dict": weights}, file)
    if chance.random() < 0.5:
        spoil(file, chance)

    def read() -> None:
        check_resumable(file)
        network, _ = load_network(file)
        with torch.inference_mode():
            assert network(torch.zeros(1, 3, 160, 160, dtype=torch.uint8)).shape[0] == 1

    return read


def store(folder: Path, chance: random.Random) -> Callable[[], Any]:
    root = Path(shutil.copytree(OLD / "store", folder / "store"))
    if chance.random() < 0.7:
        saved = json.loads((root / "store.json").read_text())
        (root / "store.json").write_text(json.dumps(mutate(saved, chance)))
    else:
        spoil(chance.choice(sorted(path for path in root.rglob("*") if path.is_file())), chance)

    def read() -> None:
        found = Store(root)
        reader = found.reader(found.decoding)
        for split in (found.catalogue().train, found.catalogue().valid):
            for path in split.paths:
                assert reader(path).dtype == torch.uint8

    return read


def artifact(folder: Path, chance: random.Random) -> Callable[[], Any]:
    root = Path(shutil.copytree(OLD / "run" / "artifacts" / "torchscript", folder / "artifact"))
    about = json.loads((root / "artifact.json").read_text())
    act = chance.randrange(3)
    if act == 0:
        about = mutate(about, chance)
    else:
        spoil(root / "model.ts", chance)
        if act == 1 and not (root / "model.ts").is_symlink():
            about["sha256"]["model.ts"] = digest(root / "model.ts")
    (root / "artifact.json").write_text(json.dumps(about))

    def read() -> None:
        load_artifact(root)

    return read


def run(folder: Path, chance: random.Random) -> Callable[[], Any]:
    """Not its checkpoint and artifacts: these are the cases above."""
    root = folder / "run"
    (root / ".hydra").mkdir(parents=True)
    overrides = ["data=folder", "data.root=/x", "data.resolution=512", "+experiment=mine", "optim.lr=0.1"]
    files = {root / ".hydra" / "overrides.yaml": overrides, root / "run.json": {"status": "failed", "id": "12345678"}}
    if chance.random() < 0.4:
        files[root / "multirun.yaml"] = {"hydra": {"overrides": {"hydra": [], "task": overrides}}}
    evil = chance.choice(list(files))
    for file, content in files.items():
        content = mutate(content, chance) if file == evil else content
        file.write_text(json.dumps(content) if file.suffix == ".json" else yaml.safe_dump(content))
    if chance.random() < 0.3:
        spoil(evil, chance)

    def read() -> None:
        args = recompose([f"run={root}"])
        assert all(arg.startswith(("-m", "+", "~")) or "=" in arg for arg in args), args
        assert not [arg for arg in args if "_target_: os" in arg and "safety" in arg]
        assert not [arg for arg in args[:-6] if arg.startswith(("hydra", "safety", "--"))], args
        assert isinstance(Run(root).record, dict)

    return read


def image(folder: Path, chance: random.Random) -> Callable[[], Any]:
    suffix = chance.choice((".png", ".jpg", ".webp", ".bmp", ".tif"))
    file = folder / f"image{suffix}"
    pixels = Image.frombytes("RGB", (64, 48), chance.randbytes(64 * 48 * 3))
    pixels.save(file, **({"compression": chance.choice(("raw", "tiff_lzw"))} if suffix == ".tif" else {}))
    spoil(file, chance)

    def read() -> None:
        assert read_image(str(file), DECODING).shape == (3, 128, 128)

    return read


def report(folder: Path, chance: random.Random) -> Callable[[], Any]:
    root = write_run(folder / "run", ranks=chance.choice((1, 2)))
    add_predictions(root)
    add_artifact(root, "openvino_int8")
    add_explanations(root)
    add_measurements(root)
    held = sorted(path for path in root.rglob("*") if path.is_file())
    file = chance.choice([*held, *(path for path in held if path.suffix in (".json", ".csv", ".txt"))])
    if file.suffix == ".json" and chance.random() < 0.8:
        file.write_text(json.dumps(mutate(json.loads(file.read_text()), chance)))
    elif file.suffix == ".csv" and chance.random() < 0.7:
        lines = file.read_text(errors="surrogateescape").splitlines()
        cells = [line.split(",") for line in lines]
        row = chance.choice(cells)
        row[chance.randrange(len(row))] = str(chance.choice(EVIL))
        file.write_text("\n".join(map(",".join, cells)), errors="surrogateescape")
    else:
        spoil(file, chance)

    def read() -> None:
        page = write_report([root], root, against=chance.choice((None, "paper"))).read_text()
        assert "<script" not in page

    return read


KINDS = (checkpoint, store, artifact, run, image, report)


def attempt(number: int, folder: Path) -> str:
    """What is wrong with how a case ended; empty when nothing is."""
    chance = random.Random(number)
    folder = folder / str(number)
    folder.mkdir()
    read = KINDS[number % len(KINDS)](folder, chance)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", RuntimeWarning)  # NumPy's, of what it can't compute
            read()
    except (ValueError, FileNotFoundError, OSError) as error:
        said = str(error)
        wrong = str(folder) not in said or "\n" in said or len(said) > 1200
        return f"{number}: {type(error).__name__}: {said}" if wrong else ""
    except Exception as error:
        return f"{number}: {type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_files_give_an_answer_or_a_line(count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = list(watched(count, tmp_path))
    assert not wrong, "\n".join(wrong[:20])
    assert not list(tmp_path.rglob(CANARY))


def watched(count: int, folder: Path) -> Iterator[str]:
    """What is wrong with each of the cases, which a child process goes through."""
    said, case = folder / "said", folder / "case"
    # Not forked: threads of libraries that tests before have used would be missing there, and waited for.
    begin = (
        f"import sys; sys.path[:0] = [{str(HERE)!r}]; import test_fuzz; test_fuzz.go_through({count}, {str(folder)!r})"
    )
    child = subprocess.Popen([sys.executable, "-c", begin])
    number, since = "", time.monotonic()
    while (status := child.poll()) is None:
        time.sleep(0.02)
        now = case.read_text() if case.exists() else ""
        if now != number:
            number, since = now, time.monotonic()
        elif number and time.monotonic() - since > LONGEST_S:
            child.kill()
            child.wait()
    if status:
        yield f"case {number} ended with {status}"
    if said.exists():
        yield from said.read_text().splitlines()


def go_through(count: int, place: str) -> None:
    folder = Path(place)
    for number in range(count):
        (folder / "case").write_text(str(number))
        if wrong := attempt(number, folder):
            with (folder / "said").open("a") as lines:
                lines.write(f"{wrong!r}\n")
        shutil.rmtree(folder / str(number), ignore_errors=True)
