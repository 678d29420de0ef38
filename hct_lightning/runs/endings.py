"""How a run ends: who says why, with which status and exit code, and what is printed.

Every rank that fails leaves its ending at once in the run's folder, a small file for the others:
`.ending-<attempt>-<rank>.json`. All ranks choose the same one as the ending of the run: the earliest of those
that are certainly a cause, else the earliest. An error of a collective, a plain RuntimeError or a SIGTERM may
be what the end of another rank led to, so a rank that has one first looks what the others say.
"""

import contextlib
import json
import logging
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any, NamedTuple, NoReturn

from hydra.errors import InstantiationException

from hct_lightning.machine import ranks
from hct_lightning.machine import slurm as job
from hct_lightning.runs import out_of_memory, signals
from hct_lightning.runs.files import write_whole
from hct_lightning.runs.printable import printable
from hct_lightning.runs.secrets import hide

log = logging.getLogger(__name__)

FAILED, INTERRUPTED, TERMINATED = 1, 128 + signal.SIGINT, signals.STATUS  # exit codes
PATIENCE_S = 5.0  # how long a rank looks for the cause of an error that may be a consequence
GRACE_S = 1.0  # how long a rank may take to end by itself when another one has said why
_RECORD_S = 10.0  # how long its main thread may take to record the end where rank 0 is gone
_LINGER_S = 10.0  # how long a rank that rank 0 started leaves it to rank 0 to say why, and to end it


class Ending(NamedTuple):
    """Why a rank ends.

    rank: whose end it is.
    code: exit code: `FAILED`, `INTERRUPTED` or `TERMINATED`.
    kind: the exception's type; empty for a rank that could say nothing.
    message: the exception's.
    certain: whether this can't be what the end of another rank led to.
    mendable: whether a user can mend it, so that the message alone is enough.
    time: seconds since the epoch.
    traceback: in full; empty for a rank that could say nothing.
    """

    rank: str
    code: int
    kind: str
    message: str
    certain: bool
    mendable: bool
    time: float
    traceback: str = ""

    @property
    def status(self) -> str:
        return "failed" if self.code == FAILED else "interrupted"

    @property
    def reason(self) -> str:
        return ": ".join(part for part in (self.kind, self.message) if part)


# Of this process, which has one run at a time.
_ending = threading.Event()  # its main thread has begun to end
_recorded = threading.Event()  # it has recorded that, where it does
_last_acts: list[Callable[[], Any]] = []  # to be done where a thread ends it


def begin(folder: Path) -> None:
    """Forgets what ranks of earlier attempts have left in the folder."""
    _ending.clear()
    _recorded.clear()
    _last_acts.clear()
    out_of_memory.forget()
    for path in folder.glob(".ending-*"):
        if not path.name.startswith(f".ending-{ranks.attempt()}-"):
            path.unlink(missing_ok=True)


def leave(error: BaseException, folder: Path) -> Ending:
    """Says to the other ranks, if there are any, that and why this one ends; what it said first counts."""
    _ending.set()
    if said := _read(folder).get(ranks.rank()):
        return said
    mine = _ending_of_this_rank(error)
    if ranks.is_child():
        threading.Thread(target=_end_after, args=(os.getppid(), mine, folder), daemon=True).start()
        signals.outlive_parent()
    return _write(mine, folder)


def _end_after(parent: int, mine: Ending, folder: Path) -> None:
    """Ends a rank after rank 0, which started it. It has the last word where rank 0 was aborted."""
    while os.getppid() == parent:
        time.sleep(0.05)
    _recorded.wait(_RECORD_S)
    if _first(mine, folder).rank == mine.rank:
        say(mine, folder, go_on=None)
    os._exit(mine.code)


def leave_for(rank: str, returncode: int, folder: Path) -> Ending:
    """Says it for a rank that has died, unless it has said so itself.

    One that aborted may not be the cause: NCCL's watchdog does that when another rank is gone.

    Returns:
        The ending of the run, as far as it is known.
    """
    message = f"rank {rank} has died: {signals.in_words(returncode)}"
    if returncode == -signal.SIGKILL:
        message = out_of_memory.with_advice(message)
    certain = returncode != -signal.SIGABRT
    its = _read(folder).get(rank) or _write(Ending(rank, FAILED, "", message, certain, True, time.time()), folder)
    return _first(its, folder)


def told(folder: Path) -> bool:
    """Whether any rank of this attempt has left an ending."""
    return bool(_read(folder))


def of_run(folder: Path, error: BaseException | None = None) -> Ending:
    """The ending of the run.

    Args:
        folder: of the run.
        error: what ends this rank; None when it would go on, but another rank has left an ending.
    """
    mine = leave(error, folder) if error else None
    looks_until = mine.time + PATIENCE_S if mine and mine.code == FAILED else 0
    while True:
        first = _first(mine, folder)
        if first.certain or len(_read(folder)) >= ranks.world() or time.time() > looks_until:
            return first
        time.sleep(0.1)


def _first(mine: Ending | None, folder: Path) -> Ending:
    """Of all endings the earliest that is certainly a cause, else the earliest."""
    endings = _read(folder) | ({mine.rank: mine} if mine else {})
    return min(endings.values(), key=lambda ending: (not ending.certain, ending.time))


def _ending_of_this_rank(error: BaseException) -> Ending:
    stop = next((e for e in _chain(error) if isinstance(e, KeyboardInterrupt) or is_termination(e)), None)
    if stop:
        code = TERMINATED if is_termination(stop) else INTERRUPTED
        return Ending(ranks.rank(), code, type(stop).__name__, str(stop), code == INTERRUPTED, True, time.time())
    text = hide("".join(traceback.format_exception(error)))
    if out_of_memory.shows_in(error):
        said = out_of_memory.with_advice(f"out of memory: {str(error).strip().partition(chr(10))[0]}")
        return Ending(ranks.rank(), FAILED, type(error).__name__, said, True, True, time.time(), text)
    mendable = isinstance(error, (ValueError, OSError, ImportError, InstantiationException)) or _is_misconfiguration(
        error
    )
    while isinstance(error, InstantiationException) and error.__cause__:
        error = error.__cause__  # what the constructor itself said
    # Gloo raises a plain RuntimeError, NCCL and the stores a DistError.
    distributed = type(error) is RuntimeError or any(base.__name__ == "DistError" for base in type(error).__mro__)
    said = hide(str(error))
    return Ending(ranks.rank(), FAILED, type(error).__name__, said, not distributed, mendable, time.time(), text)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, however far back.

    Lightning turns Ctrl-C into exit(1), and what it does on the way out may fail in turn.
    """
    found: list[BaseException] = [error]
    for e in found:
        found += [x for x in (e.__cause__, e.__context__) if x is not None and x not in found]
    yield from found


def is_termination(error: BaseException) -> bool:
    """Whether this is SIGTERM: ours, or Lightning's, known by name to spare the import."""
    return isinstance(error, signals.Terminated) or type(error).__name__ == "SIGTERMException"


def _is_misconfiguration(error: BaseException) -> bool:
    """Whether Lightning refuses an option: fewer batches than one, say. Known by name, too."""
    return type(error).__name__ == "MisconfigurationException"


def _file(folder: Path, name: str) -> Path:
    return folder / f".ending-{ranks.attempt()}-{name}"


def _write(ending: Ending, folder: Path) -> Ending:
    if ranks.world() > 1:
        with contextlib.suppress(OSError):  # a full disk must not hide the error that led here
            write_whole(_file(folder, f"{ending.rank}.json"), json.dumps(ending._asdict()))
    return ending


def _read(folder: Path) -> dict[str, Ending]:
    """What the ranks of this attempt have left so far, by rank."""
    if ranks.world() == 1:
        return {}
    files = folder.glob(_file(folder, "*.json").name)
    return {ending.rank: ending for ending in (Ending(**json.loads(file.read_text())) for file in files)}


@contextlib.contextmanager
def in_order(folder: Path, *, go_on: Path | None) -> Iterator[None]:
    """Around all that this process does: signals end it, and however it ends, that is said and exited with.

    Args:
        folder: of the run.
        go_on: the folder to give as `run=` to go on with what was interrupted; None when nothing is to go on.
    """
    signals.raise_when_terminated()
    if not ranks.is_rank_zero() and not job.is_rank():
        signals.end_with_parent()
    try:
        yield
    except BaseException as error:
        ending = of_run(folder, error)
        if isinstance(error, SystemExit) and ending.kind == "SystemExit":
            raise  # it has said itself why
        mine = ending.rank == ranks.rank()
        if ranks.is_child():
            time.sleep(_LINGER_S)  # if it went first, NCCL would abort rank 0
        if ranks.is_rank_zero() or mine or job.is_rank():
            say(ending, folder, go_on=go_on)
        if ending.code == TERMINATED and job.inside():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _requeue(ending, noticed=isinstance(error, signals.Preempted))
        _exit(ending.code)


def say(ending: Ending, folder: Path, *, go_on: Path | None) -> None:
    """On standard error, the cause last. Once for a run, but in each log where ranks have their own."""
    if ending.code != FAILED:
        if ranks.is_rank_zero():
            hint = ""
            if go_on == folder and not (folder / "checkpoints" / "last.ckpt").exists():
                hint = " before the first checkpoint: there is nothing to go on with"
            elif go_on:
                hint = f"; go on with: {shlex.join(['python', '-m', 'hct_lightning', f'run={go_on}'])}"
            print(f"interrupted{hint}", file=sys.stderr, flush=True)
        return
    if ranks.world() > 1:
        said = _file(folder, "said")
        if said.exists() and not job.is_rank():
            return
        with contextlib.suppress(OSError):
            said.touch()
    lines = [f"error: {ending.message if ending.mendable and ending.message else ending.reason}"]
    if ending.traceback:
        log.debug("rank %s: %s", ending.rank, ending.traceback)
        logged = log.isEnabledFor(logging.DEBUG)  # on rank 0
        whole = not (ending.mendable and logged) or os.environ.get("HYDRA_FULL_ERROR") == "1"
        lines.insert(0, ending.traceback.rstrip() if whole else f"(the traceback is in {folder / 'run.log'})")
    print(*map(printable, lines), sep="\n", file=sys.stderr, flush=True)


def at_once(ending: Ending, folder: Path, *, go_on: Path | None) -> NoReturn:
    """Ends this process from a thread: its main thread waits for a rank that is gone."""
    for act in _last_acts:
        with contextlib.suppress(Exception):
            act()
    say(ending, folder, go_on=go_on)
    if ending.code == TERMINATED and job.inside():
        _requeue(ending)
    os._exit(ending.code)


def before_at_once(act: Callable[[], Any]) -> None:
    """What is to be done before `at_once`: what the main thread would do."""
    _last_acts.append(act)


def ends_by_itself(within_s: float) -> bool:
    """Whether the main thread has begun to end, or does so in this time."""
    return _ending.wait(within_s)


def recorded() -> None:
    """The main thread has recorded the end of the run, or left that to another rank."""
    _recorded.set()


def completed() -> None:
    """From here on the end of another rank is no reason to end this one."""
    _ending.set()


def _requeue(ending: Ending, *, noticed: bool = False) -> None:
    """Puts a job of which Slurm wants the nodes, or whose time is up, back into the queue.

    Then Slurm ends all its processes. Returns when there is nothing to put back.
    """
    noticed = noticed or ending.kind == signals.Preempted.__name__
    if not ranks.is_rank_zero():
        time.sleep(20)  # rank 0 does it and ends them all, unless it hangs
    try:
        if not (noticed or (ranks.is_rank_zero() and job.is_preempted())):
            return
        job.requeue()
    except (OSError, TimeoutExpired) as refusal:
        print(f"error: the job is not put back into the queue: {refusal}", file=sys.stderr)
        return
    time.sleep(600)


def _exit(code: int) -> NoReturn:
    """Ends this process; a rank that srun or rank 0 started at once, and with its own status.

    Submitit and Hydra would make a result of its exception and end with 0, and an interpreter that
    shuts down may wait for threads and other ranks; srun ends those when this one has ended.
    """
    if not (job.is_rank() or ranks.is_child()):
        sys.exit(code)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
