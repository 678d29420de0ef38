"""The entry point: compose the configuration, check it, call the task.

Nothing heavy is imported before the configuration is composed, so that `--help` and `--cfg job`
answer at once.
"""

import importlib.util
import logging
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from hct_lightning.cli import sweep
from hct_lightning.cli.groups import MoreConfigs
from hct_lightning.cli.plain import plain
from hct_lightning.cli.recompose import is_override, key_of, recompose
from hct_lightning.machine import ranks
from hct_lightning.machine import slurm as job
from hct_lightning.runs import endings
from hct_lightning.runs.folder import Run
from hct_lightning.runs.printable import printable


@hydra.main(version_base="1.3", config_path="pkg://hct_lightning.conf", config_name="config")
def _run(cfg: DictConfig) -> float | None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    if sweep.is_point():
        with endings.in_order(folder, go_on=Path(HydraConfig.get().sweep.dir).resolve()):
            return sweep.run_point(cfg, folder)
    with endings.in_order(folder, go_on=folder if cfg.task == "fit" else None):
        if ranks.is_rank_zero():
            ranks.lead(folder)
            if job.is_submitted() and cfg.run is None:
                Run(folder).update(overrides=list(HydraConfig.get().overrides.task))  # for the sweep's report
        else:
            for name in (None, "hct_lightning"):  # they would say the same again
                logging.getLogger(name).setLevel(logging.WARNING)
        _check_and_call(cfg, folder)
    return None


def _check_and_call(cfg: DictConfig, folder: Path) -> None:
    from hct_lightning.cli import allowed as safety
    from hct_lightning.machine import runtime

    if "_target_" in cfg.benchmark and cfg.task != "benchmark":
        raise ValueError(
            f"benchmark=... is measured by task=benchmark, and this is task={cfg.task}; give task=benchmark"
        )
    safety.check_targets(plain(cfg), cfg.safety.allow)
    runtime.configure(cfg.runtime)
    importlib.import_module(f"hct_lightning.tasks.{cfg.task}").main(cfg, folder)


def main() -> None:
    """`hct` and `python -m hct_lightning`."""
    if sys.platform == "win32":
        sys.exit("error: Windows is not supported; run this in WSL, the Linux within Windows")
    # DDP would warn on each rank of what its strategy here does on purpose. Read when torch is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not {"", os.getcwd()} & set(sys.path):
        os.environ["PYTHONSAFEPATH"] = "1"  # `hct` takes no module of the folder where it runs: nor do its processes
    Plugins.instance().register(MoreConfigs)
    try:
        sys.argv[1:] = recompose(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(printable(f"error: {error}"))
    to_slurm = any(is_override(arg) and key_of(arg) == "slurm" for arg in sys.argv[1:])
    if to_slurm and importlib.util.find_spec("submitit") is None:
        sys.exit("error: +slurm=... needs submitit: pip install 'hct-lightning[slurm]'")
    if ranks.is_under_torchrun() and not ranks.is_rank_zero():
        if any(arg.startswith("-") for arg in sys.argv[1:]):
            return  # --help, --cfg and sweeps are for rank 0 alone
        sys.argv += [f'hydra.run.dir="{ranks.follow()}"', "hydra.output_subdir=null"]
    _run()
