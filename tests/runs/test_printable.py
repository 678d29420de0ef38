"""What a terminal would obey is shown."""

import io
import logging
from importlib.resources import files

import pytest
import yaml
from hydra.utils import get_class

from hct_lightning.runs.printable import printable

EVIL = "dog\x1b[2J\x1b]0;title\x07\x9b2J\u202ecat"
SHOWN = r"dog\x1b[2J\x1b]0;title\x07\x9b2J\u202ecat"


@pytest.mark.parametrize(("text", "shown"), [(EVIL, SHOWN), ("a\tb\nüñ图\udcff\xa0 'x'", None), ("\r", r"\r")])
def test_control_characters_are_escaped_and_nothing_else(text, shown):
    assert printable(text) == (text if shown is None else shown)
    assert printable("a\n\tb\u2028c", line=True) == r"a\n\tb\u2028c"


@pytest.fixture
def logged():
    """What a run's log shows, on a terminal and in its file."""
    conf = yaml.safe_load((files("hct_lightning.conf") / "hydra" / "job_logging" / "hct.yaml").read_text())
    shown = []
    for formatter in (get_class(kind["class"])(kind["format"]) for kind in conf["formatters"].values()):
        shown.append(io.StringIO())
        handler = logging.StreamHandler(shown[-1])
        handler.setFormatter(formatter)
        logging.root.addHandler(handler)
    yield shown
    del logging.root.handlers[-len(shown) :]


def test_a_log_has_no_control_characters_and_no_forged_line(logged):
    ours = logging.getLogger("hct_lightning.test")
    ours.error("classes: %s", f"{EVIL}\nerror: forged")
    logging.getLogger("another").error("two\nlines %s", EVIL)
    try:
        raise KeyError(EVIL) from ValueError(EVIL)
    except KeyError:
        ours.exception("failed")
    assert len(logged) == 2
    for text in (stream.getvalue() for stream in logged):
        assert f"classes: {SHOWN}\\nerror: forged" in text
        assert f"two\nlines {SHOWN}" in text
        assert "\nKeyError: " in text
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text)
