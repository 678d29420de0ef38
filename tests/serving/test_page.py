"""The page's headers allow what is in it and nothing else. How it works: tests/tasks/test_serve.py, in a browser."""

import base64
import hashlib
import json
import re

from hct_lightning.serving.page import make_page

ABOUT = {"name": "</script><b>", "classes": ["<i>", "b"], "size": [9, 9], "max_mb": 1, "map": 8, "token": False}


def test_what_is_said_of_the_artifact_stays_text():
    html = make_page(ABOUT).html
    (data,) = re.findall(r'<script type="application/json" id="about">(.*?)</script>', html, re.DOTALL)
    assert json.loads(data) == ABOUT
    assert "<b>" not in html
    assert "innerHTML" not in html


def test_only_its_own_script_and_style_may_run():
    html, headers = make_page(ABOUT)
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    for kind, tag in (("script-src", "<script>"), ("style-src", "<style>")):
        (part,) = re.findall(rf"{tag}(.*?)</", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert policy[kind] == f"'sha256-{digest}'"
    assert not re.findall(r"https?://|\bstyle=|\bon\w+=\"", html)
