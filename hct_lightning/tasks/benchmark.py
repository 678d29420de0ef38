"""Measures: a benchmark interleaves its sides and gives ratios and rows."""

import json
import logging
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.table import Table

from hct_lightning.cli.plain import plain
from hct_lightning.machine.facts import machine_facts
from hct_lightning.runs.console import results
from hct_lightning.runs.files import write_whole
from hct_lightning.runs.secrets import hide_in

log = logging.getLogger(__name__)


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=benchmark benchmark=<name>`: a table, `benchmark/benchmark.json`, and the ratios.

    The last line on standard output is one JSON object with the ratios by name.
    """
    if "_target_" not in cfg.benchmark:
        raise ValueError("say which: task=benchmark benchmark=step")
    result = instantiate(cfg.benchmark, _convert_="all")
    result["options"] = plain(cfg.benchmark)
    result["machine"] = machine_facts()
    out = folder / "benchmark" / "benchmark.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, json.dumps(hide_in(result), indent=2) + "\n")

    for part in (result, *result.get("more", [])):
        show(part["title"], part["rows"])
    log.info("-> %s", out)
    print(json.dumps({name: round(ratio, 4) for name, ratio in result["ratios"].items()}))


def show(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    results().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
