"""What a terminal would obey is shown."""

import logging
import logging.config
from importlib.resources import files

import pytest
import yaml

from hct_lightning.runs.printable import printable

EVIL = "dog\x1b[2J\x1b]0;title\x07\x9b2J\u202ecat"
SHOWN = r"dog\x1b[2J\x1b]0;title\x07\x9b2J\u202ecat"


@pytest.mark.parametrize(("text", "shown"), [(EVIL, SHOWN), ("a\tb\nüñ图\udcff\xa0 'x'", None), ("\r", r"\r")])
def test_control_characters_are_escaped_and_nothing_else(text, shown):
    assert printable(text) == (text if shown is None else shown)
    assert printable("a\n\tb\u2028c", line=True) == r"a\n\tb\u2028c"


@pytest.fixture
def logged(tmp_path, capsys):
    """What a run's log shows on standard error and holds in its file."""
    conf = yaml.safe_load((files("hct_lightning.conf") / "hydra" / "job_logging" / "hct.yaml").read_text())
    conf["handlers"]["file"]["filename"] = str(tmp_path / "run.log")
    before = logging.root.handlers[:]
    logging.config.dictConfig(conf)
    yield lambda: (capsys.readouterr().err, (tmp_path / "run.log").read_text())
    logging.root.handlers[:] = before


def test_a_log_has_no_control_characters_and_no_forged_line(logged):
    ours = logging.getLogger("hct_lightning.test")
    ours.info("classes: %s", f"{EVIL}\nerror: forged")
    logging.getLogger("another").warning("two\nlines %s", EVIL)
    try:
        raise KeyError(EVIL) from ValueError(EVIL)
    except KeyError:
        ours.exception("failed")
    for text in logged():
        assert f"classes: {SHOWN}\\nerror: forged" in text
        assert f"two\nlines {SHOWN}" in text
        assert "\nKeyError: " in text
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
