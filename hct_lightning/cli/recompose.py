"""`run=<folder>`: the command line of an earlier run, with what is given now on top."""

import re
import sys
from importlib.resources import files
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from hct_lightning.cli.recorded import check_links, is_believed, read_overrides
from hct_lightning.machine import ranks

MULTIRUN = {"-m", "--multirun"}
# Options that runs may have recorded by an earlier name.
RENAMED = {"trainer.accumulate_grad_batches": "micro_batches"}


def is_override(arg: str) -> bool:
    return not arg.startswith("-") and ("=" in arg or arg.startswith("~"))


def key_of(override: str) -> str:
    """The option that an override on the command line sets: `+experiment=ddp4` -> `experiment`."""
    return override.lstrip("+~").split("=", 1)[0].split("@", 1)[0]


def _by_new_name(override: str) -> str:
    """An earlier run's override, as it is spelled today."""
    key = key_of(override)
    return override.replace(key, RENAMED[key], 1) if key in RENAMED else override


def _still_meant(key: str, given: dict[str, str]) -> bool:
    """Whether an earlier run's override of `key` holds beside what is given now."""
    group, _, option = key.partition(".")
    if key in given or re.split(r"\W", group)[0] in ("hydra", "task", "run", "ckpt", "slurm"):
        return False
    if group in given and option:
        # Another data set has its own options; resolution and the like go on.
        conf = files("hct_lightning.conf")
        base = conf / group / "_base.yaml"
        config = OmegaConf.create((conf / "config.yaml").read_text())
        shared = OmegaConf.create(base.read_text()) if base.is_file() else OmegaConf.select(config, group)
        return option.split(".")[0] in (shared or ())
    return True


def recompose(argv: list[str]) -> list[str]:
    """Expands `run=<folder>` to that run's own overrides, those on the command line winning.

    `ckpt=<file>` inside a run's folder implies the run. Results then go to the run's folder, and
    its `.hydra` is left as it is.

    Raises:
        ValueError: when the folder is not a run.
    """
    given = {key_of(arg): arg for arg in argv if is_override(arg)}
    flags = [arg for arg in argv if not is_override(arg)]
    value = {key: arg.partition("=")[2].strip("'\"") for key, arg in given.items()}
    run, verb, ckpt = value.get("run"), value.get("task", "fit"), value.get("ckpt")
    if not run and ckpt and verb != "fit":
        holder = Path(ckpt).resolve().parent.parent
        if (holder / ".hydra" / "overrides.yaml").exists():
            run = str(holder)
    # A sweep's points do it themselves, as processes of their own.
    if not run or run == "null" or (MULTIRUN & set(flags) and "slurm" not in given):
        return argv
    folder = Path(run).expanduser().resolve()
    check_links(folder)
    if (folder / "multirun.yaml").exists():
        del given["run"]
        return [*flags, "-m", *_of_sweep(folder, given), *given.values(), f'hydra.sweep.dir="{folder}"']
    recorded = folder / ".hydra" / "overrides.yaml"
    if not recorded.exists():
        raise ValueError(
            f"run={run} is not the folder of an earlier run: there is no {recorded}; "
            "give the folder that holds checkpoints/ and run.json"
        )
    begun = map(_by_new_name, read_overrides(recorded))
    meant = [override for override in begun if _still_meant(key_of(override), given)]
    earlier = [override for override in meant if is_believed(override)]
    if len(earlier) < len(meant) and ranks.is_rank_zero():
        left = " ".join(override for override in meant if override not in earlier)
        # In quotes, for it may hold anything.
        print(
            f"{folder} says {left!r:.500}, which is not taken from there; give it again if you trust it",
            file=sys.stderr,
        )
    given["task"] = f"task={verb}"
    given["run"] = f'run="{folder}"'
    home = [
        "hydra.output_subdir=null",
        f'hydra.run.dir="{folder}"',
        f'hydra.sweep.dir="{folder}/slurm"',
        'hydra.sweep.subdir=".."',
    ]
    mine = [override for key, override in given.items() if not key.startswith("hydra.")]
    hydras = [override for key, override in given.items() if key.startswith("hydra.")]
    hydras += [override for override in home if key_of(override) not in given]
    return flags + earlier + mine + hydras


def _of_sweep(folder: Path, given: dict[str, str]) -> list[str]:
    """The overrides with which a sweep began, but for those that are given now.

    Raises:
        ValueError: for one that is not taken from a folder: without it this would be another sweep.
    """
    file = folder / "multirun.yaml"
    begun = [override for kind in ("hydra", "task") for override in read_overrides(file, "hydra", "overrides", kind)]
    ours = {"hydra.mode", "hydra.sweep.dir", *given}
    again = "slurm" if "slurm" in given else None  # then its options are those of now
    meant = [o for o in begun if key_of(o) not in ours and key_of(o).split(".")[0] != again]
    left = [override for override in meant if not _is_believed_of_sweep(override)]
    if left:
        raise ValueError(
            f"{file} says {' '.join(left)!r:.500}, which is not taken from a sweep's folder; if you trust it, give it "
            f"again, after run={folder}"
        )
    return meant


def _is_believed_of_sweep(override: str) -> bool:
    swept = override.lstrip("+").removeprefix("hydra.sweeper.params.")
    return is_believed(override) or is_believed(swept) or re.fullmatch(r"task=\w+", override) is not None


def given_options(group: str) -> set[str]:
    """The options of a group that the command line names, now or when the run that goes on began.

    `data.resolution=512` gives `resolution`. What comes from the configuration's defaults is not among them.
    """
    keys = (key_of(override) for override in HydraConfig.get().overrides.task)
    return {key.split(".")[1] for key in keys if key.startswith(f"{group}.")}
