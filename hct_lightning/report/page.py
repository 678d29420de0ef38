"""A report as a page of HTML and as Markdown: sections of tables, charts, bars and images.

Whatever comes from files, names of classes, paths, reasons, is text and stays text: everything is escaped.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from hct_lightning.report.charts import Chart

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows of cells: a float is shown with four digits, None as empty.

    Args:
        header: a name a column.
        rows: as long as the header.
        caption: above the table.
        heat: for each cell of each row how strongly it is tinted, 0 to 1.
        wraps: whether long text goes on in a next line; else the table scrolls inside itself.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    heat: Sequence[Sequence[float]] = ()
    wraps: bool = False
    kind: ClassVar = "table"

    @property
    def numeric(self) -> list[bool]:
        """For each column whether it is set to the right; the first one names the rows."""
        columns = zip(*self.rows, strict=True)
        return [i > 0 and not self.wraps and all(map(is_number, column)) for i, column in enumerate(columns)]


@dataclass(frozen=True)
class Charts:
    """Charts side by side; those that are None, having nothing to draw, are left out."""

    found: Sequence[Chart | None]
    kind: ClassVar = "charts"

    @property
    def charts(self) -> list[Chart]:
        return [chart for chart in self.found if chart]

    @property
    def legend(self) -> list[tuple[str, int, bool]]:
        """Of all of them, a name for each kind of line; one needs none."""
        names: dict[tuple[int, bool], str] = {}
        for name, colour, dashed in (entry for chart in self.charts for entry in chart.legend):
            names.setdefault((colour, dashed), name)
        return [(name, *kind) for kind, name in names.items()] if len(names) > 1 else []


@dataclass(frozen=True)
class Bar:
    """A bar of one or several parts, each a length, and what is written behind it."""

    name: str
    parts: Sequence[float]
    text: str
    first_colour: int = 0


@dataclass(frozen=True)
class Bars:
    """Horizontal bars; `legend` names their parts where they have several."""

    caption: str
    bars: Sequence[Bar]
    legend: Sequence[str] = ()
    kind: ClassVar = "bars"

    @property
    def longest(self) -> float:
        return max((sum(bar.parts) for bar in self.bars), default=0) or 1


@dataclass(frozen=True)
class Picture:
    """A JPEG file, with a line below it and whether what it shows is good."""

    file: Path
    text: str
    good: bool = True

    @property
    def data(self) -> str:
        return base64.b64encode(self.file.read_bytes()).decode()


@dataclass(frozen=True)
class Pictures:
    """Images in rows, small squares; or `whole`, larger and uncut."""

    caption: str
    pictures: Sequence[Picture]
    whole: bool = False
    kind: ClassVar = "pictures"


@dataclass(frozen=True)
class Commands:
    """Commands to copy, each with what it does."""

    commands: Sequence[tuple[str, str]]
    kind: ClassVar = "commands"


@dataclass(frozen=True)
class Note:
    """A paragraph; `command` stands behind it, as code."""

    text: str
    command: str = ""
    level: Literal["plain", "missing", "heading"] = "plain"
    kind: ClassVar = "note"


Block = Table | Charts | Bars | Pictures | Commands | Note


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading."""

    title: str
    blocks: Sequence[Block]

    @property
    def is_missing(self) -> bool:
        """Whether it only says what makes it."""
        return all(isinstance(block, Note) and block.level == "missing" for block in self.blocks)

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower())


@dataclass(frozen=True)
class Page:
    """The whole: a title, the status of the run, key figures as (name, value), and sections."""

    title: str
    subtitle: str
    status: str
    figures: Sequence[tuple[str, str]]
    sections: Sequence[Section] = field(default_factory=list)

    def html(self) -> str:
        """A page that needs nothing beside itself: no file, no network, no script."""
        return _encodable(template("page.html").render(page=self, css=_source("page.css")))

    def markdown(self) -> str:
        """The same without charts and images."""
        text = _encodable(template("summary.md").render(page=self))
        return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def shown(cell: Cell) -> str:
    """A cell as text."""
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return "" if cell is None else str(cell)


def is_number(cell: Cell) -> bool:
    """Whether it is a number, with a unit behind it or not, or none where there could be one."""
    return not isinstance(cell, str) or bool(re.fullmatch(r"|[-+]?[\d.,]+(e[-+]?\d+)?( ?\D\S{0,7})?", cell))


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    escaped = re.sub(r"([\\`*\[\]|#~])", r"\\\1", " ".join(str(text).split()))
    return html.escape(escaped, quote=False)


def _encodable(text: str) -> str:
    """Bytes of a file's name that are not UTF-8 can't stand in a page."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("hct_lightning.report"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"shown": shown, "md": markdown_text}
    return found


def template(name: str) -> Template:
    """One of this room's templates; what it is given is escaped in HTML, and by the filter `md` in Markdown."""
    return _environment().get_template(name)


def _source(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text()
