"""The page in a real browser: a phone and a desktop, light and dark."""

import itertools
from pathlib import Path

import pytest

from hct_lightning.report.write import write_report

# Words that lie over each other in a chart; those of the turned axis stand beside the numbers.
OVERLAPS = """() => [...document.querySelectorAll("svg")].flatMap(svg => {
    const texts = [...svg.querySelectorAll("text:not([transform])")].map(t => [t.textContent, t.getBoundingClientRect()])
    return texts.flatMap(([a, p], i) => texts.slice(i + 1)
        .filter(([, q]) => p.left < q.right && q.left < p.right && p.top + 3 < q.bottom && q.top + 3 < p.bottom)
        .map(([b]) => `${a} over ${b}`))
})"""
OVERFLOWS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture
def pages(full_run, make_run, sweep_of_three, trained, tmp_path) -> dict[str, Path]:
    """Of a real run, of one with everything, of two ranks beside the paper, and of a sweep."""
    of = {
        "real": ([trained], None),
        "full": ([full_run], None),
        "paper": ([full_run, make_run("two-ranks", ranks=2)], "paper"),
        "sweep": ([sweep_of_three], None),
    }
    return {name: write_report(runs, tmp_path / name, against=a) for name, (runs, a) in of.items()}


def test_the_pages_are_whole_on_a_phone_and_a_desktop_in_both_schemes(chromium, pages):
    for name, file in pages.items():
        page = chromium.new_page()
        said, asked = [], []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(file.as_uri())
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)"), name
        grounds = set()
        for width, scheme in itertools.product((390, 1440), ("light", "dark")):
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(OVERFLOWS) <= 0, (name, width)
            assert page.evaluate(OVERLAPS) == [], (name, width)
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 2, name
        assert said == [], name
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()], name
        page.close()
