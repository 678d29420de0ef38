"""A log where its folder can't be written."""

import logging

from hct_lightning.runs.run_log import RunLog


def test_without_a_place_for_its_log_a_run_goes_on(tmp_path, capsys):
    (tmp_path / "run.log").mkdir()
    log = logging.getLogger("hct_lightning.test")
    handler = RunLog(tmp_path / "run.log", delay=True)
    log.addHandler(handler)
    try:
        log.error("one")
        log.error("two")
    finally:
        log.removeHandler(handler)
        handler.close()
    assert capsys.readouterr().err.count("no log is kept: ") == 1
