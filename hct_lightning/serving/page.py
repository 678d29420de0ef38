"""The page at `/`: one file without network, and the headers that keep it so."""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, NamedTuple


class Page(NamedTuple):
    """html: whole, script and style inside. headers: that go with it."""

    html: str
    headers: dict[str, str]


def make_page(about: Mapping[str, Any]) -> Page:
    """The page.

    Args:
        about: plain containers that its script knows: `name`, `classes`, `size`, `max_mb`, `map`, `token` (whether one is
            needed).
    """
    html, css, script = (_part(name) for name in ("page.html", "page.css", "page.js"))
    data = json.dumps(about).replace("<", "\\u003c")  # nothing in it may end the element that holds it
    for mark, part in (("{{css}}", css), ("{{script}}", script), ("{{about}}", data)):
        html = html.replace(mark, part)
    policy = (
        "default-src 'none'",
        f"script-src '{_hash(script)}'",
        f"style-src '{_hash(css)}'",
        "img-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return Page(
        html,
        {
            "Content-Security-Policy": "; ".join(policy),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        },
    )


def _part(name: str) -> str:
    return (files("hct_lightning.serving") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
