"""Being told to end. How a run then ends: test_endings.py."""

import signal
from collections.abc import Iterator

import pytest

from hct_lightning.runs import signals

NOTICES = (signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, *NOTICES)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_sigterm_is_raised_in_the_main_thread():
    signals.raise_when_terminated()
    with pytest.raises(signals.Terminated, match="SIGTERM"):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("number", NOTICES)
def test_slurms_notice_is_one_in_its_jobs_alone(monkeypatch, number):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    before = signal.getsignal(number)
    signals.raise_when_terminated()
    assert signal.getsignal(number) == before
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    signals.raise_when_terminated()
    with pytest.raises(signals.Preempted, match="Slurm gives notice"):
        signal.raise_signal(number)


def test_the_end_of_a_process_in_words():
    assert signals.in_words(-signal.SIGTERM) == "it was ended by SIGTERM"
    assert signals.in_words(-signal.SIGKILL) == "it was ended by SIGKILL; was the machine short of memory?"
    assert signals.in_words(3) == "it ended with status 3; its own error is above"
