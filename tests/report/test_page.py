import re
from html.parser import HTMLParser

from hct_lightning.report.charts import Line, line_chart
from hct_lightning.report.page import (
    Bar,
    Bars,
    Charts,
    Commands,
    Note,
    Page,
    Picture,
    Pictures,
    Section,
    Table,
    is_number,
)

EVIL = "<script>alert(1)</script>"


def page_of(*blocks) -> Page:
    return Page(EVIL, "one run", "completed", [("accuracy", "98 %")], [Section(f"Data {EVIL}", blocks)])


class Tags(HTMLParser):
    """Elements in order, their attributes, and whether each is closed."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_text_from_files_stays_text_in_every_block(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"jpeg")
    blocks = (
        Table([EVIL, "n"], [[EVIL, 1.23456], [EVIL, None]], caption=EVIL),
        Charts([line_chart(EVIL, [Line(EVIL, [1, 2], [1, 2]), Line("b", [1], [1])], x=EVIL, y=EVIL), None]),
        Bars(EVIL, [Bar(EVIL, [1, 2], EVIL)], legend=[EVIL, "b"]),
        Pictures(EVIL, [Picture(tmp_path / "a.jpg", EVIL, good=False)]),
        Commands([(EVIL, EVIL)]),
        Note(EVIL, EVIL),
        Note(EVIL, level="heading"),
    )
    text = page_of(*blocks).html()
    tags = Tags(text)
    assert tags.open == []
    assert "script" not in {tag for tag, _ in tags.found}
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 15
    assert "1.235" in text
    assert "<script" not in re.sub(r"```.*?```|`[^`\n]*`", "", page_of(*blocks).markdown(), flags=re.DOTALL)


def test_the_page_needs_no_network():
    text = page_of(Note("a")).html()
    assert not [a for _, attrs in Tags(text).found for a in attrs if a in ("src", "srcset") or a.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_markdown_tables_keep_their_columns():
    text = page_of(Table(["a|b", "c"], [["x | y", "`z`\nnext"], ["[l](http://e)", 0.5]])).markdown()
    header, rule, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rule == "|---|---|"
    assert header.strip() == r"| a\|b | c |"
    assert [row.strip() for row in rows] == [r"| x \| y | \`z\` next |", r"| \[l\](http://e) | 0.5 |"]
    assert not re.search(r"\n{3}", text)


def test_numbers_are_set_to_the_right():
    assert all(map(is_number, [1, 0.5, None, "12", "0.20", "98.5 %", "1.3 MB", "12ms", "-3", "1e-05", ""]))
    assert not any(map(is_number, ["a", "2 of 3 layers", "v1", "folder /photos"]))
