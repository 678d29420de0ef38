"""`run=<folder>`: the command line of an earlier run, with what is given now on top."""

from importlib.resources import files
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

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
    if key in given or group in ("hydra", "task", "run", "ckpt", "slurm"):
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
    sweep = (folder / "multirun.yaml").exists()
    if sweep and verb != "report":
        begun = OmegaConf.load(folder / "multirun.yaml").hydra.overrides
        del given["run"]
        return [
            *flags,
            "-m",
            *begun.hydra,
            *begun.task,
            *given.values(),
            f'hydra.sweep.dir="{folder}"',
        ]
    recorded = folder / ".hydra" / "overrides.yaml"
    if not sweep and not recorded.exists():
        raise ValueError(
            f"run={run} is not the folder of an earlier run: there is no {recorded}; "
            "give the folder that holds checkpoints/ and run.json"
        )
    earlier = [
        override
        for override in map(_by_new_name, [] if sweep else OmegaConf.load(recorded))
        if _still_meant(key_of(override), given)
    ]
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


def given_options(group: str) -> set[str]:
    """The options of a group that the command line names, now or when the run that goes on began.

    `data.resolution=512` gives `resolution`. What comes from the configuration's defaults is not among them.
    """
    keys = (key_of(override) for override in HydraConfig.get().overrides.task)
    return {key.split(".")[1] for key in keys if key.startswith(f"{group}.")}
