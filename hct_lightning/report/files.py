"""What the folder of a run holds, read for a report. Nothing but files is needed, and any of them may be missing."""

import csv
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hct_lightning.deploy.artifact import read_descriptions
from hct_lightning.report.predictions import JudgedImages, read_predictions
from hct_lightning.runs.overrides import read_overrides
from hct_lightning.runs.record import accuracy_of, read_record
from hct_lightning.runs.secrets import hide

EPOCHS = re.compile(r"val/|time/|memory/|train/(accuracy|loss_epoch)$")  # what is logged once an epoch
PROGRAM = "python -m hct_lightning"


@dataclass(frozen=True)
class RunFiles:
    """The folder of a run. Each part is read when it is first asked for.

    Args:
        folder: of the run.
        name: what the report calls it.

    Raises:
        ValueError: by the parts, naming a file that is damaged.
    """

    folder: Path
    name: str

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """`run.json`."""
        return read_record(self.folder / "run.json")

    @cached_property
    def metrics(self) -> Mapping[str, list[tuple[float, float]]]:
        """By key the values of `metrics.csv`: (step, value), in order.

        Those of an epoch, as `train/loss_epoch`, `time/...` and `val/...`, have its number from 1 in the place of the step.
        """
        path = self.folder / "metrics.csv"
        if not path.exists():
            return {}
        found: dict[str, list[tuple[float, float]]] = {}
        try:
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    step, epoch = float(row.pop("step")), row.pop("epoch") or None
                    for key, text in row.items():
                        if text and math.isfinite(value := float(text)):
                            at = float(epoch) + 1 if epoch and EPOCHS.match(key) else step
                            found.setdefault(key, []).append((at, value))
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise ValueError(
                f"{path} is damaged: {error!r:.200}; remove it, and the report leaves its curves out"
            ) from error
        return found

    @cached_property
    def predictions(self) -> JudgedImages | None:
        """What the best checkpoint, or else the last, said of the validation images."""
        paths = (self.folder / "validate" / f"{name}.csv" for name in ("best", "last"))
        return next((read_predictions(path) for path in paths if path.exists()), None)

    @cached_property
    def artifacts(self) -> Mapping[str, Mapping[str, Any]]:
        """`artifact.json` of each, by name."""
        return read_descriptions(self.folder / "artifacts")

    @cached_property
    def percentages(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """By artifact what `export.percentages` measured: a row for each percentage of layers in int8."""
        found = {path.stem: read_json(path) for path in sorted((self.folder / "export").glob("*.json"))}
        return {name: content["rows"] for name, content in found.items() if content.get("rows")}

    @cached_property
    def benchmark(self) -> Mapping[str, Any]:
        """`benchmark.json`; empty where nothing was measured."""
        return read_json(self.folder / "benchmark" / "benchmark.json")

    @cached_property
    def explanations(self) -> Mapping[str, Any]:
        """`explain.json`, which names files beside it; empty where nothing was explained."""
        return read_json(self.folder / "explain" / "explain.json")

    @cached_property
    def operators(self) -> Sequence[Mapping[str, str]]:
        """The rows of the profiler's table, rank 0's."""
        texts = sorted((self.folder / "profile").glob("*summary*.txt"))
        return read_profile(texts[0].read_text()) if texts else []

    @property
    def ranks(self) -> int:
        """Processes that trained together."""
        return (self.record.get("memory_plan") or {}).get("ranks", 1)

    @property
    def accuracy(self) -> float | None:
        return accuracy_of(self.record)

    @property
    def classifies(self) -> bool:
        """Whether it learns to tell classes apart; task=pretrain does not."""
        return self.record.get("classes") != []

    @cached_property
    def command(self) -> str:
        """What began the run."""
        recorded = self.folder / ".hydra" / "overrides.yaml"
        if recorded.exists():
            given = read_overrides(recorded)
        else:
            given = [str(word) for word in list((self.record.get("machine") or {}).get("command") or [""])[1:]]
        return hide(shlex.join([*PROGRAM.split(), *given]))

    def mean_s(self, part: str) -> float | None:
        """Mean over the epochs of a part of their time, say `load_s`."""
        values = [value for _, value in self.metrics.get(f"time/{part}", ())]
        return sum(values) / len(values) if values else None

    def per_image(self, *parts: str) -> list[tuple[float, float]]:
        """(epoch, seconds that parts of it took for each image of all ranks)."""
        columns = [self.metrics.get(f"time/{part}", ()) for part in (*parts, "run_s", "images_s")]
        by_epoch = ((row[0][0], [value for _, value in row]) for row in zip(*columns, strict=False))
        return [(epoch, sum(taken) / (run_s * images_s)) for epoch, (*taken, run_s, images_s) in by_epoch]

    def per_image_s(self, *parts: str) -> float | None:
        """The same, averaged over the epochs."""
        seconds = [value for _, value in self.per_image(*parts)]
        return sum(seconds) / len(seconds) if seconds else None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is no file.

    Raises:
        ValueError: naming a file that is damaged.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}; remove it, and the report leaves it out") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no object; remove it, and the report leaves it out")
    return content


def read_profile(text: str) -> list[dict[str, str]]:
    """The rows of the table that PyTorch's profiler prints, by the names of its columns."""
    lines = text.splitlines()
    rules = [i for i, line in enumerate(lines) if re.fullmatch(r"\s*---[-\s]*", line)]
    if len(rules) < 3:
        return []
    names, *rows = (
        [cell.strip() for cell in re.split(r"\s{2,}", line.strip())]
        for line in (lines[rules[0] + 1], *lines[rules[1] + 1 : rules[2]])
    )
    return [dict(zip(names, row, strict=False)) for row in rows]


def open_runs(folders: Sequence[Path]) -> list[RunFiles]:
    """The runs of folders, by the shortest names that tell them apart.

    Raises:
        ValueError: naming a folder that is no run.
    """
    folders = list(dict.fromkeys(folder.expanduser().resolve() for folder in folders))
    for folder in folders:
        if not (folder / "run.json").exists():
            raise ValueError(
                f"{folder} is not the folder of a run: there is no run.json; give one that fitting has made"
            )
    tails = range(1, 1 + max((len(folder.parts) for folder in folders), default=0))
    names = ([Path(*folder.parts[-n:]).as_posix() for folder in folders] for n in tails)
    return [RunFiles(*pair) for pair in zip(folders, next(n for n in names if len(set(n)) == len(n)), strict=True)]
