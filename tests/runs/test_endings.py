"""How runs end, with real processes: the cause is said last, recorded, and exited with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hct_lightning.machine import slurm as job
from hct_lightning.runs import endings, out_of_memory

# A run whose rank 0 starts the others as Lightning does. Each rank then executes its part.
RUN = """
import os, subprocess, sys, time
from pathlib import Path
from hct_lightning.machine import ranks
from hct_lightning.runs import endings
from hct_lightning.runs.folder import Run

folder, parts = Path(sys.argv[1]), sys.argv[2:]
with endings.in_order(folder, go_on=folder):
    if ranks.is_rank_zero():
        ranks.lead(folder)
    with Run(folder, writes=ranks.is_rank_zero()).recording():
        if len(parts) > 1 and ranks.is_rank_zero():
            os.environ |= {"WORLD_SIZE": str(len(parts)), "MASTER_ADDR": "localhost"}
            for rank in range(1, len(parts)):
                subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=os.environ | {"LOCAL_RANK": str(rank)})
        exec(parts[int(ranks.rank())])
"""
WAITS = "time.sleep(60)"
GLOO = """
import torch
def meet(then):
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=int(ranks.rank()), world_size=2)
    then()
    torch.distributed.all_reduce(torch.ones(1))
"""


def start(folder: Path, *parts: str, **environment: str) -> subprocess.Popen:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "HCT_ATTEMPT", "TORCHELASTIC"))}
    command = [sys.executable, "-c", RUN, str(folder), *parts]
    return subprocess.Popen(command, env=clean | environment, stderr=subprocess.PIPE, text=True)


def end(child: subprocess.Popen, folder: Path) -> tuple[int, list[str], dict]:
    """Exit code, what was said, and the record."""
    _, said = child.communicate(timeout=100)
    return child.returncode, said.splitlines(), json.loads((folder / "run.json").read_text())


@pytest.mark.slow
def test_a_web_servers_closed_connection_is_no_dead_rank(tmp_path):
    code, said, record = end(start(tmp_path, "raise RuntimeError('Connection closed by nccl.org')"), tmp_path)
    assert code == 1
    assert said[-1] == "error: RuntimeError: Connection closed by nccl.org"
    assert record["reason"] == "RuntimeError: Connection closed by nccl.org"
    assert not list(tmp_path.glob(".ending-*"))


@pytest.mark.parametrize("error", ["ValueError('mine')", "ConnectionResetError('connection closed')"])
def test_the_rank_that_fails_says_why_while_another_waits_for_ever(tmp_path, error):
    code, said, record = end(start(tmp_path, WAITS, f"raise {error}"), tmp_path)
    assert code == 1
    assert said[-1] == f"error: {error.split(chr(39))[1]}"
    assert record["status"] == "failed"
    assert record["reason"] == error.replace("('", ": ").replace("')", "")
    assert "error:" not in "".join(said[:-1])


@pytest.mark.slow
def test_an_option_that_lightning_refuses_is_said_in_its_words(tmp_path):
    """A real one: so small a share of the batches is none."""
    fails = """
import lightning, torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader
trainer = lightning.Trainer(accelerator="cpu", limit_train_batches=0.05, logger=False, enable_checkpointing=False)
trainer.fit(BoringModel(), DataLoader(torch.zeros(3, 32)))
"""
    code, said, record = end(start(tmp_path, fails), tmp_path)
    assert code == 1
    assert said[-1].startswith("error: You requested to check 0.05 of the `train_dataloader`")
    assert record["reason"].startswith("MisconfigurationException: ")


def test_a_rank_that_aborts_is_not_the_cause(tmp_path):
    """As NCCL's watchdog aborts ranks, rank 0 too, when another one is gone."""
    fails = "raise ValueError('the cause')"
    for i, parts in enumerate(
        [
            ("time.sleep(3); os.abort()", fails),
            ("time.sleep(60)", "time.sleep(1); os.abort()", fails),
        ]
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        _, said, record = end(start(folder, *parts), folder)
        assert said[-1] == "error: the cause"
        assert record["reason"] == "ValueError: the cause"
        assert record["status"] == "failed"


def test_rank_zero_aborts_before_it_can_say_what_another_rank_said(tmp_path):
    aborts = """
while not endings.told(folder):
    time.sleep(0.01)
os.abort()
"""
    code, said, record = end(start(tmp_path, aborts, "raise ValueError('the cause')"), tmp_path)
    assert code == -signal.SIGABRT
    assert said[-1] == "error: the cause"
    assert record["reason"] == "ValueError: the cause"


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_the_other_rank_of_a_collective_is_not_the_cause(tmp_path, failing):
    """A plain RuntimeError, which is what gloo raises on the other rank."""
    parts = [GLOO + "meet(lambda: None)"] * 2
    parts[failing] = GLOO + "def fail(): raise RuntimeError('shapes do not match')\nmeet(fail)"
    code, said, record = end(start(tmp_path, *parts), tmp_path)
    assert code == 1
    assert said[-1] == "error: RuntimeError: shapes do not match"
    assert any("def fail()" in line or "in fail" in line for line in said)  # the traceback of that rank
    assert record["reason"] == "RuntimeError: shapes do not match"


@pytest.mark.slow
def test_an_earlier_attempts_ending_is_not_believed(tmp_path):
    end(start(tmp_path, WAITS, "raise ValueError('old')"), tmp_path)
    assert list(tmp_path.glob(".ending-*-1.json"))
    _, said, record = end(start(tmp_path, WAITS, "raise RuntimeError('new')"), tmp_path)
    assert said[-1] == "error: RuntimeError: new"
    assert record["reason"] == "RuntimeError: new"
    code, _, record = end(start(tmp_path, "time.sleep(2)", "time.sleep(1)"), tmp_path)
    assert (code, record["status"], record["reason"]) == (0, "completed", None)
    assert not list(tmp_path.glob(".ending-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("saved", [True, False])
def test_signals(tmp_path, number, code, saved):
    if saved:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "last.ckpt").touch()
    child = start(tmp_path, WAITS)
    while not (tmp_path / "run.json").exists() or "running" not in (tmp_path / "run.json").read_text():
        time.sleep(0.05)
    time.sleep(0.2)
    child.send_signal(number)
    exited, said, record = end(child, tmp_path)
    assert exited == code
    hint = f"; go on with: python -m hct_lightning run={tmp_path}"
    assert said[-1] == "interrupted" + (
        hint if saved else " before the first checkpoint: there is nothing to go on with"
    )
    assert record["status"] == "interrupted"


def test_a_rank_that_is_told_to_end_because_another_failed_is_not_interrupted(tmp_path):
    """As torchrun and srun do it."""
    told = "import signal\nwhile not endings.told(folder): time.sleep(0.01)\nsignal.raise_signal(signal.SIGTERM)"
    code, said, record = end(start(tmp_path, told, "raise ValueError('the cause')"), tmp_path)
    assert code == 1
    assert said[-1] == "error: the cause"
    assert record["status"] == "failed"


def caught(function) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError


@pytest.mark.parametrize("links", [0, 1, 2])
def test_ctrl_c_is_found_however_far_back(tmp_path, links, monkeypatch):
    """Lightning exits with 1 upon Ctrl-C, and its teardown may fail upon that."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def chain(n: int) -> None:
        if n == 0:
            raise KeyboardInterrupt
        try:
            chain(n - 1)
        finally:
            raise SystemExit(1) if n == 1 else OSError("the pipe is gone")

    ending = endings.of_run(tmp_path, caught(lambda: chain(links)))
    assert (ending.code, ending.status, ending.reason) == (130, "interrupted", "KeyboardInterrupt")


@pytest.mark.parametrize("ask", [job.requeue, job.is_preempted])
def test_without_scontrol_it_is_said_what_is_missing(monkeypatch, ask):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(OSError, match="there is no scontrol here; in a container"):
        ask()


def test_a_job_without_scontrol_ends_with_one_line(tmp_path):
    preempted = "from hct_lightning.runs import signals\nraise signals.Preempted"
    code, said, _ = end(start(tmp_path, preempted, SLURM_JOB_ID="7", PATH="/nowhere"), tmp_path)
    assert code == 143
    assert said[-1].startswith("error: the job is not put back into the queue: there is no scontrol here")
    assert len(said) == 2  # and how to go on


@pytest.mark.parametrize(
    "torch_says", ["torch.empty(2**60, dtype=torch.uint8)", "raise torch.OutOfMemoryError('CUDA: tried')"]
)
def test_out_of_memory_ends_with_what_helps(tmp_path, torch_says):
    advice = "from hct_lightning.runs import out_of_memory; out_of_memory.advise('use micro_batches=4')"
    code, said, record = end(start(tmp_path, f"import torch; {advice}; {torch_says}"), tmp_path)
    assert code == 1
    assert said[-1].startswith("error: out of memory: ")
    assert said[-1].endswith("; use micro_batches=4")
    assert record["reason"].endswith(said[-1].removeprefix("error: "))


def test_a_rank_that_is_killed_ends_with_what_helps(tmp_path):
    endings.begin(tmp_path)
    out_of_memory.advise("use memory=low")
    ending = endings.leave_for("1", -signal.SIGKILL, tmp_path)
    endings.begin(tmp_path)
    assert (
        ending.message == "rank 1 has died: it was ended by SIGKILL; was the machine short of memory?; use memory=low"
    )
    assert not endings.leave_for("1", -signal.SIGSEGV, tmp_path).message.endswith("memory=low")
