"""`run=<folder>`: the command line of an earlier run, with what is given now on top."""

import os
import re
import sys
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hct_lightning.cli.plain import plain
from hct_lightning.cli.recorded import is_believed, values_of
from hct_lightning.machine import ranks
from hct_lightning.runs.links import check_links
from hct_lightning.runs.overrides import read_overrides, read_yaml
from hct_lightning.runs.record import read_record
from hct_lightning.runs.secrets import HIDDEN, hide

MULTIRUN = {"-m", "--multirun"}
BEGUN = Path(".hydra", "overrides.yaml")  # of a run's folder: the options it began with
DATA = "hydra.job.env_set.HCT_DATA"  # where the points of a sweep find data
# Options that runs may have recorded by an earlier name.
RENAMED = {"trainer.accumulate_grad_batches": "micro_batches"}
RENAMED_CALLBACKS = {"callbacks=default": "callbacks=plain", "callbacks=averaged": "callbacks=default"}
TRAINING = ("fit", "pretrain")  # verbs that make a run
# Options that are paths, and mean what they meant in the folder where the run began.
PATHS = ("data.root", "fit.against")
NEEDED = ("data", "model", "optim", "schedule", "trainer", "callbacks", "task")  # groups that no run is without


def quoted(path: Path | str) -> str:
    """A path as the value of an override.

    Raises:
        ValueError: for one that Hydra would take for something else: what stands in the environment, say.
    """
    if re.search(r'["\\]|\$\{', str(path)):
        raise ValueError(f"{str(path)!r}: Hydra takes no path with a double quote, a backslash or ${{; rename it")
    return f'"{path}"'


def is_override(arg: str) -> bool:
    return not arg.startswith("-") and ("=" in arg or arg.startswith("~"))


def key_of(override: str) -> str:
    """The option that an override on the command line sets: `+experiment=ddp4` -> `experiment`."""
    return override.lstrip("+~").split("=", 1)[0].split("@", 1)[0]


def _by_new_name(override: str) -> str:
    """An earlier run's override, as it is spelled today."""
    key = key_of(override)
    return override.replace(key, RENAMED[key], 1) if key in RENAMED else override


def _still_meant(key: str, given: Collection[str]) -> bool:
    """Whether an earlier override of `key` holds beside what is given now."""
    group, _, option = key.partition(".")
    if key in given or re.split(r"\W", group)[0] in ("hydra", "task", "run", "ckpt", "slurm"):
        return False
    if group in given and option:
        # Another data set has its own options; resolution and the like go on.
        conf = files("hct_lightning.conf")
        base = conf / group / "_base.yaml"
        config = OmegaConf.create((conf / "config.yaml").read_text())
        shared = OmegaConf.create(base.read_text()) if base.is_file() else OmegaConf.select(config, group)
        return option.split(".")[0] in (shared or ()) and key not in PATHS
    return True


def _recorded(folder: Path) -> list[str]:
    """The overrides of a run: those it began with, those it went on with, and its paths, which hold in any folder."""
    begun = _with_its_recipe(folder, [_by_new_name(override) for override in read_overrides(folder / BEGUN)])
    overrides = [*{override.partition("=")[0]: override for override in begun}.values()]  # given twice, the last counts
    since = {key_of(override): override for override in _since(folder)}
    overrides = [override for override in overrides if _still_meant(key_of(override), since)] + [*since.values()]
    mine = {key_of(override) for override in overrides}
    # What the environment or a default said is left to them where it is gone: the folder may have been moved here. A url
    # whose password is hidden stands whole in its override.
    known = read_record(folder / "run.json").get("paths") or {}
    known = {key: path for key, path in known.items() if HIDDEN not in str(path)}
    paths = {key: known[key] for key in PATHS if key in known and (key in mine or Path(known[key]).exists())}
    overrides = [override for override in overrides if key_of(override) not in paths]
    return overrides + [f"{key}={quoted(path)}" for key, path in paths.items()]


def _began_as(folder: Path) -> str:
    """The verb that made the run: one that learned without labels goes on so."""
    return "pretrain" if "task=pretrain" in read_overrides(folder / BEGUN) else "fit"


def _with_its_recipe(folder: Path, begun: list[str]) -> list[str]:
    """The overrides, and those that say what a run was by default that began when there was no `recipe`."""
    file = folder / BEGUN.with_name("hydra.yaml")
    choices = read_yaml(file, "hydra", "runtime", "choices") if file.exists() else None
    # Hydra lists no choice of a group that was given as [].
    if not isinstance(choices, dict) or "recipe" in choices or any(key_of(o) == "recipe" for o in begun):
        return begun
    was = ["recipe=plain"]
    if "+experiment=demo" in begun:
        was += ["optim=adamw", "trainer.max_epochs=5"]
    if choices.get("callbacks") == "early_stopping":
        was += ["~callbacks.average", "~callbacks.batch_norm"]
    return [*was, *(RENAMED_CALLBACKS.get(override, override) for override in begun)]


def _since(folder: Path) -> list[str]:
    """The overrides by which the run in a folder went on differently."""
    return read_record(folder / "run.json").get("since") or []


def _as_list(arg: str) -> str:
    """`trainer.devices=0,1` as a list, where a shell has taken the quotes off; nothing else is meant by it."""
    key, _, value = arg.partition("=")
    return f"{key}=[{value.strip(',')}]" if key == "trainer.devices" and re.fullmatch(r"\d+(,\d*)+", value) else arg


def _null_group(arg: str) -> str:
    """`logger=null` as `logger=[]`, because on a command line Hydra takes no null for a group; in sweeps, too.

    Raises:
        ValueError: for a group that a run needs.
    """
    key, _, value = arg.partition("=")
    group = files("hct_lightning.conf") / key.lstrip("+")
    choices = [choice.strip() for choice in value.split(",")]
    if not re.fullmatch(r"\+?\w+", key) or not group.is_dir() or not {"null", "[]"} & set(choices):
        return arg
    if group.name in NEEDED:
        names = sorted(file.name.removesuffix(".yaml") for file in group.iterdir() if file.name[0] != "_")
        raise ValueError(f"{arg}: a run needs one of {', '.join(names)}, or one of your own")
    return f"{key}={','.join('[]' if choice == 'null' else choice for choice in choices)}"


def _whole(arg: str) -> str:
    """`data.root=photos,scans` with whole paths, which mean the same in any folder; anything else as it is."""
    if not is_override(arg) or key_of(arg) not in PATHS:
        return arg
    paths = values_of(arg)
    if not paths or all("://" in path or path.startswith("/") for path in paths):
        return arg
    whole = (path if "://" in path else str(Path(path).expanduser().absolute()) for path in paths)
    return f"{arg.partition('=')[0]}={','.join(map(quoted, whole))}"


def _environment(argv: list[str]) -> list[str]:
    """Writes $HCT_DATA down, for points of a sweep that begin later, and elsewhere."""
    data = os.environ.get("HCT_DATA")
    given = any(key_of(arg) == DATA for arg in argv)
    return [f"+{DATA}={quoted(Path(data).expanduser().absolute())}"] if data and not given else []


def recompose(argv: list[str]) -> list[str]:
    """Expands `run=<folder>` to that run's own overrides, those on the command line winning.

    `ckpt=<file>` inside a run's folder implies the run. Results then go to the run's folder, and
    its `.hydra` is left as it is.

    Raises:
        ValueError: when the folder is not a run, or a group that a run needs is left out.
    """
    argv = [_null_group(arg) for arg in argv]
    if not MULTIRUN & set(argv):
        argv = [_as_list(arg) for arg in argv]
    given = {key_of(arg): arg for arg in argv if is_override(arg)}
    flags = [arg for arg in argv if not is_override(arg)]
    value = {key: arg.partition("=")[2].strip("'\"") for key, arg in given.items()}
    run, verb, ckpt = value.get("run"), value.get("task"), value.get("ckpt")
    if not run and ckpt and verb and verb not in TRAINING:
        holder = Path(ckpt).resolve().parent.parent
        if (holder / BEGUN).exists():
            run = str(holder)
    sweeps = bool(MULTIRUN & set(flags))
    if not run or run == "null":
        return [*map(_whole, argv), *_environment(argv)] if sweeps or "slurm" in given else argv
    if sweeps and "slurm" not in given:  # its points do it themselves, as processes of their own
        return argv
    folder = Path(run).expanduser().resolve()
    check_links(folder)
    sweep = (folder / "multirun.yaml").exists()
    if sweep and verb != "report":
        del given["run"]
        begun = _of_sweep(folder, given)
        return [*flags, "-m", *begun, *map(_whole, given.values()), f"hydra.sweep.dir={quoted(folder)}"]
    if not sweep and not (folder / BEGUN).exists():
        raise ValueError(
            f"run={run} is not the folder of an earlier run: there is no {folder / BEGUN}; "
            "give the folder that holds checkpoints/ and run.json"
        )
    recorded = [] if sweep else _recorded(folder)
    began = "fit" if sweep else _began_as(folder)
    verb = verb or began
    if verb != began == "pretrain":  # whose options others don't have
        recorded = [o for o in recorded if key_of(o).split(".")[0] not in ("pretrain", "callbacks")]
    if hidden := [o for o in recorded if HIDDEN in o and _still_meant(key_of(o), given)]:
        raise ValueError(f"{folder} went on with {hidden[0]!r:.500}, whose secret is not kept; give it again")
    believed = [override for override in recorded if is_believed(override)]
    new = {key for key, override in given.items() if override not in believed}
    earlier = [override for override in believed if _still_meant(key_of(override), new)]
    left = [o for o in recorded if o not in believed and _still_meant(key_of(o), given)]
    if left and ranks.is_rank_zero():
        # In quotes, for it may hold anything.
        print(
            f"{folder} says {hide(' '.join(left))!r:.500}, which is not taken from there; give it again if you trust it",
            file=sys.stderr,
        )
    place = value.get("hydra.run.dir")
    if verb in TRAINING and place and "$" not in place and Path(place).expanduser().resolve() != folder:
        raise ValueError(f"run={run} goes on in its own folder, and hydra.run.dir={place} is another; leave one")
    # Ranks expand again what has been expanded.
    given = {key: override for key, override in given.items() if override not in earlier}
    given["task"] = f"task={verb}"
    given["run"] = f"run={quoted(folder)}"
    home = [
        "hydra.output_subdir=null",
        f"hydra.run.dir={quoted(folder)}",
        f"hydra.sweep.dir={quoted(folder / 'slurm')}",
        'hydra.sweep.subdir=".."',
    ]
    first = given.pop("run"), given.pop("task")  # behind them stands what is given now
    mine = [*first, *(override for key, override in given.items() if not key.startswith("hydra."))]
    hydras = [override for key, override in given.items() if key.startswith("hydra.")]
    hydras += [override for override in home if key_of(override) not in given]
    return flags + earlier + mine + hydras


def given_now() -> list[str]:
    """The overrides of this command line, without those that the run had that goes on."""
    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []  # called from Python
    keys = [key_of(override) for override in overrides]
    now = overrides[keys.index("run") :] if "run" in keys else overrides
    return [override for override in now if key_of(override) not in ("run", "task", "ckpt")]


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
            f"{file} says {hide(' '.join(left))!r:.500}, which is not taken from a sweep's folder; if you trust it, give it "
            f"again, after run={folder}"
        )
    if partial := [override for override in meant if _whole(override) != override]:  # which one, only the file says
        raise ValueError(f"{file} says {partial[0]!r:.500}, without the folder; give it again, with its whole path")
    return meant


def _is_believed_of_sweep(override: str) -> bool:
    if key_of(override) == DATA:  # a place as data.root is one
        return "$" not in override
    swept = override.lstrip("+").removeprefix("hydra.sweeper.params.")
    return is_believed(override) or is_believed(swept) or re.fullmatch(r"task=\w+", override) is not None


def given_options(cfg: DictConfig, group: str, *also: str) -> dict[str, Any]:
    """The options of a group that this command line names, and those of `also`, with their values.

    `data.resolution=512` gives `{"resolution": 512}`, `data.window=null` gives `{"window": None}`. What comes from
    defaults, or from the run that goes on, is not among them.
    """
    keys = (key_of(override) for override in given_now())
    named = {key.split(".")[1] for key in keys if key.startswith(f"{group}.")}
    return {name: value for name, value in plain(cfg[group]).items() if name in named | set(also)}


def since_begun(folder: Path) -> list[str]:
    """The options by which the run in `folder`, which goes on, differs from the one that began: given now or before."""
    before = {key_of(override): override for override in _since(folder)}
    now = {key_of(override): override for override in given_now()}
    kept = [override for key, override in before.items() if _still_meant(key, now)]
    return kept + [override for key, override in now.items() if key.split(".")[0] != "slurm"]


def absolute_paths(cfg: DictConfig) -> dict[str, str]:
    """What the options that are paths mean in the folder where this process runs."""
    found = {key: str(path) for key in PATHS if (path := OmegaConf.select(cfg, key)) is not None}
    return {
        key: path if "://" in path else str(Path(path).expanduser().absolute()) for key, path in found.items() if path
    }
