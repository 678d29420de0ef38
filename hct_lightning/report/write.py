"""A report of runs or of a sweep: one page of HTML that needs nothing beside itself, and the same in Markdown."""

import logging
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from hct_lightning.report.files import PROGRAM, RunFiles, open_runs
from hct_lightning.report.page import Note, Page, Picture, Pictures, Section
from hct_lightning.report.sections.against_paper import against_paper
from hct_lightning.report.sections.answers import answers
from hct_lightning.report.sections.deployment import artifacts, benchmarks, operators, quantization
from hct_lightning.report.sections.explanations import explanations
from hct_lightning.report.sections.overview import began, commands, key_figures, overview
from hct_lightning.report.sections.sweep import sweep
from hct_lightning.report.sections.training import curves, times
from hct_lightning.report.sweep import mark_pareto, read_points
from hct_lightning.runs.files import write_whole
from hct_lightning.runs.links import check_links

log = logging.getLogger(__name__)

T = TypeVar("T")


def write_report(folders: Sequence[Path], home: Path, *, against: str | None = None) -> Path:
    """Writes `report/report.html` and `report/report.md`.

    Args:
        folders: of runs and sweeps.
        home: where `report/` goes, the first of them or another folder.
        against: `paper` lays the runs over the paper's figures.

    Returns:
        The page.

    Raises:
        ValueError: for a folder that is neither, a damaged file, a link that leads out of it, or another `against`.
    """
    if against not in (None, "paper"):
        raise ValueError(f"report.against={against}: choose paper, or null; runs are laid side by side by report.runs")
    folders = [folder.expanduser().resolve() for folder in folders]
    points, runs = [], []
    for folder in folders:
        check_links(folder)  # what a picture or a table shows is of the run, and nothing else of this machine
        if (folder / "run.json").exists() or not (found := read_points(folder)):
            runs.append(folder)
        else:
            mark_pareto(found)
            points.append(found)
            runs += [folder / point["name"] for point in found]
    opened = open_runs(runs)
    page = Page(
        title=" and ".join(folder.name for folder in folders[:3]) + (" and more" if len(folders) > 3 else ""),
        subtitle=_subtitle(opened),
        status=str(opened[0].record.get("status") or "unknown") if len(opened) == 1 else "",
        figures=key_figures(opened[0]) if len(opened) == 1 else [],
        sections=[
            *map(sweep, points),
            *_sections(opened, against),
            commands(opened, _command(folders, home.resolve(), against)),
        ],
    )
    out = home / "report"
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "report.md", page.markdown())
    write_whole(out / "report.html", page.html())
    return out / "report.html"


def report_at_end(folders: Sequence[Path]) -> Path | None:
    """The report in the first folder, when what it is about has ended.

    None, and a warning, where it can't be made: that must not fail what has been trained.
    """
    try:
        return write_report(folders, folders[0])
    except Exception as error:
        log.warning("no report was written: %s: %s", type(error).__name__, " ".join(str(error).split()))
        return None


def _sections(runs: Sequence[RunFiles], against: str | None) -> list[Section]:
    """What a report says of runs; with the paper its figures come first. What there is nothing of comes last."""
    if not any(run.classifies for run in runs):
        kept = [runs[0].folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
        weights = next((file for file in kept if file.is_file()), kept[0])
        begin = shlex.join([*PROGRAM.split(), f"ckpt={weights}", "data=folder", "data.root=<images>"])
        after = Section("What comes next", [Note("To train a network that classifies, from these weights:", begin)])
        return [*(part(runs) for part in (overview, curves, times)), *filled(runs), after]
    theirs = _made(against_paper, runs, "benchmark/benchmark.json") if against else []
    made = [
        *theirs,
        *(part(runs) for part in (overview, curves, times, answers)),
        _made(explanations, runs, "explain/explain.json"),
        artifacts(runs),
        _made(quantization, runs, "export/*.json"),
        _made(benchmarks, runs, "benchmark/benchmark.json"),
        _made(operators, runs, "profile"),
    ]
    there = [section for section in made if not section.is_missing]
    notes = [block for section in made if section.is_missing for block in section.blocks]
    return [*there, Section("Not measured yet", notes)] if notes else there


def filled(runs: Sequence[RunFiles]) -> list[Section]:
    """What runs of task=pretrain say of hidden blocks."""
    files = {run.name: run.folder / "pretrain" / "filled.jpg" for run in runs}
    pictures = [Picture(file, name if len(runs) > 1 else "") for name, file in files.items() if file.is_file()]
    caption = "Images as they are, with hidden blocks, and filled; mean and contrast of each patch are the true ones"
    return [Section("Hidden blocks", [Pictures(caption, pictures, whole=True)])] if pictures else []


def _made(part: Callable[[Sequence[RunFiles]], T], runs: Sequence[RunFiles], file: str) -> T:
    """What a part says of runs.

    Raises:
        ValueError: naming the file that it reads, where that holds something else.
    """
    try:
        return part(runs)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, ValueError) and any(str(run.folder) in str(error) for run in runs):
            raise
        places = " or ".join(str(run.folder / file) for run in runs[:3])
        raise ValueError(f"{places} is damaged: {error!r:.200}; remove it, and the report leaves it out") from error


def _command(folders: Sequence[Path], home: Path, against: str | None) -> str:
    """What makes this report."""
    of = [f"run={home}"] if folders[0] == home else []
    beside = [str(folder) for folder in folders[len(of) :]]
    runs = [f"report.runs=[{','.join(beside)}]"] if beside else []
    paper = [f"report.against={against}"] if against else []
    return shlex.join([*PROGRAM.split(), "task=report", *of, *runs, *paper])


def _subtitle(runs: Sequence[RunFiles]) -> str:
    """Of a run how it ended, else how many there are."""
    if len(runs) > 1:
        done = sum(run.record.get("status") == "completed" for run in runs)
        return f"{len(runs)} runs, {done} of them completed"
    record = runs[0].record
    source = (record.get("data") or {}).get("source", "")
    return " · ".join(filter(None, [began(runs[0]), source]))
