"""Which classes and functions a configuration may name, and which networks a checkpoint."""

import inspect
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import as_file, files
from typing import Any

from hydra.utils import get_object

# What may stand in a group of the configuration beside the objects that conf/ itself names there: the public
# subclasses of these.
KINDS = {
    "callbacks": ("lightning.pytorch.callbacks.Callback",),
    "logger": ("lightning.pytorch.loggers.Logger",),
    "gradients": ("lightning.pytorch.strategies.Strategy",),
    "optim": ("torch.optim.Optimizer",),
    "schedule": ("torch.optim.lr_scheduler.LRScheduler",),
    "trainer": (
        "lightning.pytorch.profilers.Profiler",
        "lightning.pytorch.strategies.Strategy",
        "lightning.pytorch.accelerators.Accelerator",
        "lightning.pytorch.plugins.Precision",
        "lightning.pytorch.plugins.LayerSync",
        "lightning.fabric.plugins.CheckpointIO",
        "lightning.fabric.plugins.ClusterEnvironment",
    ),
}
METRIC = "torchmetrics.Metric"  # anywhere
PACKAGES = ("hct_lightning", "lightning", "torch.optim", "torchmetrics")  # of these classes

# What timm.create_model takes to find weights. Those of a checkpoint are in the checkpoint.
_WEIGHTS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


def _inside(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@cache
def _named(group: str) -> frozenset[str]:
    """Every `_target_` in the files of a group of conf/."""
    with as_file(files("hct_lightning.conf")) as conf:
        texts = [file.read_text() for file in (conf / group).glob("*.yaml")]
    return frozenset(target for text in texts for target in re.findall(r"^[ -]*_target_: *(\S+)", text, re.MULTILINE))


def check_targets(config: Any, allow: Iterable[str] = (), where: str = "") -> None:
    """Refuses a `_target_` that is none of the public classes of its group, however deeply it is nested.

    A class must be defined in the package by which it is named, so what a package merely imports
    (`lightning.os.system`) stays out of reach, and so do its functions.

    Args:
        config: plain containers, interpolations resolved.
        allow: packages or modules allowed beside the built-in ones (option `safety.allow`).
        where: the key at which `config` stands, by whose first part its group is known.

    Raises:
        ValueError: naming the key, the target and the option that allows it.
    """
    if isinstance(config, dict):
        if "_target_" in config:
            _check(config["_target_"], tuple(allow), where)
        for key, value in config.items():
            check_targets(value, allow, f"{where}.{key}".lstrip("."))
    elif isinstance(config, list):
        for i, value in enumerate(config):
            check_targets(value, allow, f"{where}[{i}]")


def _check(target: Any, allow: tuple[str, ...], where: str) -> None:
    group = re.split(r"[.\[]", where.removeprefix("benchmark."))[0]  # which holds the data of a benchmark
    if isinstance(target, str) and target in _named(group):
        return
    refusal = f"{where}._target_={target} is none of the public classes that may stand there"
    if not isinstance(target, str) or not _inside(target, (*PACKAGES, *allow)):
        package = str(target).rpartition(".")[0]
        raise ValueError(f"{refusal}; if you trust it, add safety.allow=[{package}]")
    if not _inside(target, allow) and any(part.startswith("_") for part in target.split(".")):
        raise ValueError(f"{refusal}: its name is private")
    found = _find(target, where)
    home = getattr(found, "__module__", None) or type(found).__module__
    if _inside(target, allow) and _inside(home, allow):
        return
    kinds = [get_object(kind) for kind in (*KINDS.get(group, ()), METRIC)]
    if not _inside(home, PACKAGES) or not inspect.isclass(found) or not issubclass(found, tuple(kinds)):
        raise ValueError(f"{refusal} (it is defined in {home}); if you trust it, add safety.allow=[{home}]")


def _find(target: str, where: str) -> Any:
    try:
        return get_object(target)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{where}._target_={target} can't be found: {reason}") from error


def check_network(model: Mapping[str, Any], allow: Iterable[str], where: str) -> dict[str, Any]:
    """The configuration of a network as a checkpoint holds it, without what would fetch weights.

    Args:
        model: with the `_target_` of one of the networks that conf/model names, and plain options.
        allow: packages or modules allowed beside those (option `safety.allow`).
        where: the file, for the message.

    Raises:
        ValueError: for any other target, and for one that is nested.
    """
    from hct_lightning.deploy.trust import first_special  # with PyTorch, which the command line need not wait for

    target = model.get("_target_")
    if not isinstance(target, str) or target not in _named("model"):
        if not isinstance(target, str) or not _inside(target, allow):
            package = str(target).rpartition(".")[0]
            known = ", ".join(sorted(_named("model")))
            raise ValueError(
                f"{where}: its network is {target!s:.100}, none of {known}; if you trust it, add safety.allow=[{package:.100}]"
            )
        _check(target, tuple(allow), where)
    options = {name: value for name, value in model.items() if name not in ("_target_", *_WEIGHTS)}
    if name := first_special(options):
        raise ValueError(
            f"{where}: its network has the option {name!r:.100}; a network's are plain values and no large numbers"
        )
    return {"_target_": target, **options}
