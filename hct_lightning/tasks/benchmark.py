"""Measures: a benchmark interleaves its sides and gives ratios and rows."""

import json
import logging
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from hct_lightning.run import machine, write_whole

log = logging.getLogger(__name__)


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=benchmark benchmark=<name>`: a table, `benchmark/benchmark.json`, and the ratios.

    The last line on standard output is one JSON object with the ratios by name.
    """
    if "_target_" not in cfg.benchmark:
        raise ValueError("say which: task=benchmark benchmark=step")
    result = instantiate(cfg.benchmark, _convert_="all")
    result["options"] = OmegaConf.to_container(cfg.benchmark, resolve=True)
    result["machine"] = machine()
    out = folder / "benchmark" / "benchmark.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, json.dumps(result, indent=2) + "\n")

    columns = list(result["rows"][0])
    table = Table(*columns, title=result["title"], title_justify="left")
    for row in result["rows"]:
        cells = (row[column] for column in columns)
        table.add_row(*(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells))
    Console().print(table)
    log.info("-> %s", out)
    print(json.dumps({name: round(ratio, 4) for name, ratio in result["ratios"].items()}))
