"""Commands of the program compose by default, and really run, small, with the slow tests."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from documentation import HCT, ROOT, RUNS, SMALL, assert_composes

from hct_lightning.cli.recompose import is_override, key_of, recompose


def arguments(command: str, run: Path) -> list[str]:
    """A command's arguments: earlier runs, sweeps and weights that it names are those of `run`."""
    text = re.sub(r"\b(RUN|OTHER)\b|multirun/\.\.\.", str(run), command)
    text = text.replace("weights.ckpt", str(run / "checkpoints" / "best.ckpt"))
    return shlex.split(text)[len(HCT) :]


@pytest.mark.parametrize("command", RUNS, ids=str)
def test_composes(command, tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("[]\n")
    assert_composes(recompose(arguments(command, tmp_path)))


# What makes a command one of seconds, beside SMALL.
SMALL_SCENES = ("data.scene_size=128", "data.train=24", "data.valid=10")
SMALL_FOUR = ("trainer.devices=2", "data.batch_size=1", "data.resolution=256")
SMALL_TASKS = {
    "benchmark=augment": (
        "benchmark.resolution=256",
        "benchmark.batch_size=2",
        "benchmark.rounds=1",
        "benchmark.warmup=1",
        "~benchmark.kinds",
        "+benchmark.kinds={tones: {contrast: 0.2}, mixup: {mixup: 0.2}}",
    ),
    "benchmark=data": ("benchmark.source_size=512", "benchmark.resolution=256", "benchmark.rounds=1"),
    "benchmark=serve": (
        "benchmark.resolution=128",
        "benchmark.images=4",
        "benchmark.clients=2",
        "benchmark.rounds=1",
        "benchmark.warmup=1",
    ),
    "benchmark=step": ("benchmark.resolution=256", "benchmark.rounds=1", "benchmark.warmup=1"),
    "benchmark=memory": (
        "benchmark.resolution=256",
        "benchmark.settings=[[256,1,32-true,low]]",
        "benchmark.rounds=1",
        "benchmark.warmup=1",
    ),
    "benchmark=gigapixel": (
        f"benchmark.photo={ROOT}/tests/photos/Plant/blue-periwinkle.jpg",
        "benchmark.resolution=256",
        "benchmark.file_resolution=512",
        "benchmark.huge_resolution=512",
        "benchmark.train_resolution=512",
        "benchmark.tile=256",
        "benchmark.rounds=1",
    ),
    "benchmark=memory_grid": ("benchmark.resolutions=[256]", "benchmark.batch_sizes=[1]", "benchmark.points=2"),
    "benchmark=scaling": (
        "benchmark.resolution=128",
        "benchmark.batch_size=2",
        "benchmark.rounds=1",
        "benchmark.epochs=2",
        "benchmark.steps=1",
    ),
    "benchmark=stragglers": (
        "benchmark.ranks=2",
        "benchmark.k=1",
        "benchmark.schemes=[k_async]",
        "benchmark.delays={distribution: fixed, mean_s: 0.05, slower: null}",
        "benchmark.steps=2",
        "benchmark.epochs=2",
        "benchmark.images=4",
    ),
    "benchmark=inference": (
        "benchmark.resolutions=[128]",
        "benchmark.batch_sizes=[1]",
        "benchmark.artifacts=[torchscript]",
        "benchmark.rounds=1",
        "benchmark.warmup=1",
    ),
    "task=explain": ("explain.tile=64",),
    "task=plan": ("plan.resolution=[256]", "plan.timed_at=[128,192]"),
}
OF_THE_DEMO = "data/scenes/v1-1024px-seed0/valid/dots/1000032.jpg,tests/photos/Plant/blue-periwinkle.jpg"
SHORTER = {
    "benchmark.file_resolution=4000": "benchmark.file_resolution=512",
    "benchmark.huge_resolution=10000": "benchmark.huge_resolution=512",
    "benchmark.train_resolution=2400": "benchmark.train_resolution=512",
    f"explain.input=[{OF_THE_DEMO}]": "explain.input=photo.jpg",
    "explain.resolution=2048": "explain.resolution=256",
    "plan.resolution=[2048,4000]": "plan.resolution=[256]",
    "plan.resolution=[24000]": "plan.resolution=[256]",
    "data.batch_size=16": "data.batch_size=4",
    "data.resolution=4000": "data.resolution=128",
    "data.resolution=[512,360],[1024,720],[2048,1440]": "data.resolution=[128,128],256",
    "data.resolution=[1024,720]": "data.resolution=256",
    "data.resolution=[512,360]": "data.resolution=128",
    "trainer.max_epochs=8": "trainer.max_epochs=1",
    "trainer.max_epochs=16": "trainer.max_epochs=1",
    "trainer.max_epochs=16,48": "trainer.max_epochs=1,2",
    "search.trials=60": "search.trials=1",
    "trainer.max_epochs=30": "trainer.max_epochs=1",
    "trainer.max_time=00:10:00:00": "trainer.max_time=00:00:00:03",
    "trainer.max_time=00:02:00:00": "trainer.max_time=00:00:00:03",
    "trainer.max_time=00:00:08:00": "trainer.max_time=00:00:00:03",
    "trainer.max_time=00:00:05:00": "trainer.max_time=00:00:00:03",
}


def small(args: list[str], folder: Path) -> list[str]:
    """The command with what makes it small; flags first, for Hydra takes none between overrides."""
    args = [SHORTER.get(arg, arg) for arg in args]
    given = {key_of(arg) for arg in args if is_override(arg)}
    if options := [options for name, options in SMALL_TASKS.items() if name in args]:
        added = options[0]
    elif "run" in given:
        added = ()  # the run is small already
    else:
        four = {"+experiment=ddp4", "+experiment=paper"} & set(args)
        added = (*SMALL[2:], *SMALL_FOUR) if four else SMALL
        added += () if "data.root" in given or "data=pages" in args else SMALL_SCENES
        added += (f"hydra.run.dir={folder}/run", f"hydra.sweep.dir={folder}/sweep")
        if "data=pairs" in args:
            added += ("data.scene_size=1024", "data.resolution=[128,1024]")  # the smallest that are drawn
        if "data.train_fraction" in given:
            added += ("data.batch_size=1", "data.resolution=256")  # which BatchNorm can take alone
        if "trainer.devices=4" in args:
            added += ("data.batch_size=2",)  # twelve images are to be a global batch
        if "+sweeps=baselines" in args:
            added += ("model=hct,mobilenetv4_conv_small", "seed=0", "trainer.max_time=00:00:00:03")
        if "+sweeps=search" in args:
            added += ("search.trials=1", "search.seeds=1", "~search.space.data.augment", "~search.space.callbacks")
    flags = [arg for arg in args if not is_override(arg)]
    return [*flags, *(a for a in added if key_of(a) not in given), *(a for a in args if is_override(a))]


def serves(args: list[str], folder: Path) -> None:
    """It says where it is, and ends in order."""
    with subprocess.Popen(
        [sys.executable, *HCT[1:], *args],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as server:
        first = server.stderr.readline()
        time.sleep(20)  # a server that can't begin ends before
        ended = server.poll()
        os.killpg(server.pid, signal.SIGINT)
        assert (ended, server.wait(60)) == (None, 0), first + server.stderr.read()
    assert "Ctrl-C ends it" in first


@pytest.mark.slow
@pytest.mark.timeout(900)  # a benchmark is many processes, and the first one builds the C++ program
@pytest.mark.parametrize("command", [command for command in RUNS if "+slurm=" not in command], ids=str)
def test_runs(command, home, trained, cli, tmp_path, request):
    """As it stands, but small. Submissions to Slurm: `tests/slurm`."""
    args = arguments(command, trained)
    if "task=serve" in args:
        serves(args, home)
        return
    for given in ("data.root=store", "data.root=pages-store", "data.root=s3://bucket/store"):
        if given in args:
            root = request.getfixturevalue("bucket" if "://" in given else "store")
            args[args.index(given)] = f"data.root={root}"
            args.append(f"data.cache={tmp_path}/cache")
    if (given := "predict.first_stages=openvino_int8") in args:
        args[args.index(given)] = f"predict.first_stages={request.getfixturevalue('openvino_int8')}"
    if "+experiment=needles" in args:
        ckpt = next(arg for arg in args if arg.startswith("ckpt="))
        args[args.index(ckpt)] = f"ckpt={request.getfixturevalue('needles')}"
    if "data=pages" in args:
        request.getfixturevalue("pages")
    if any(arg.startswith("validate.by=") for arg in args):
        args += ["data=csv", f"data.root={request.getfixturevalue('scenes_table')}"]
    cli(*small(args, tmp_path), cwd=home, timeout=600)
