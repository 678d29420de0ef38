import logging
import os
import pty
import re
import sys

import pytest

from hct_lightning.callbacks.progress import Bars, PlainProgress, progress_bar


def test_a_line_an_epoch_with_what_was_logged(fit, caplog):
    with caplog.at_level(logging.INFO, "hct_lightning"):
        fit(PlainProgress(), max_epochs=2, enable_progress_bar=True)
    number = r"\d\.\d{4}"
    lines = [re.sub(number, "N", line) for line in caplog.messages if line.startswith("epoch")]
    assert lines == [f"epoch {i}/2: train/loss_epoch N, val/accuracy N" for i in (1, 2)]


def test_long_epochs_say_how_far_they_are(fit, caplog):
    with caplog.at_level(logging.INFO, "hct_lightning"):
        fit(PlainProgress(every_s=0), enable_progress_bar=True)
    for line in ("  epoch 1: batch 1/4", "  epoch 1: batch 4/4", "  validation batch 1/1"):
        assert line in caplog.messages


def test_disabled_as_on_other_ranks_it_says_nothing(fit, caplog):
    progress = PlainProgress(every_s=0)
    progress.disable()
    with caplog.at_level(logging.INFO, "hct_lightning"):
        fit(progress, enable_progress_bar=True)
    assert not [record for record in caplog.records if record.name.startswith("hct_lightning")]


@pytest.mark.parametrize(("terminal", "kind"), [(True, Bars), (False, PlainProgress)])
def test_bars_are_for_terminals(monkeypatch, tmp_path, terminal, kind):
    number = pty.openpty()[1] if terminal else os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    with os.fdopen(number, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert type(progress_bar()) is kind
