"""Which classes and functions a configuration may name."""

from collections.abc import Iterable
from typing import Any

from hydra.utils import get_object

ALLOWED = ("hct_lightning", "lightning", "torch.optim", "torchmetrics", "timm", "hydra")


def _inside(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def check_targets(config: Any, allow: Iterable[str] = (), where: str = "") -> None:
    """Refuses a `_target_` from outside the allowed packages, however deeply it is nested.

    Both the written path and the module that defines the object must be allowed, so that what a
    package merely imports (`lightning.os.system`) stays out of reach.

    Args:
        config: plain containers, interpolations resolved.
        allow: packages or modules allowed beside the built-in ones (option `safety.allow`).
        where: the key at which `config` stands, for the message.

    Raises:
        ValueError: naming the key, the target and the option that allows it.
    """
    if isinstance(config, dict):
        target = config.get("_target_")
        if isinstance(target, str):
            _check(target, tuple(allow), where)
            # hydra.utils.get_class and its kin look up what `path` names.
            if target.startswith("hydra.") and isinstance(config.get("path"), str):
                _check(config["path"], tuple(allow), where)
        for key, value in config.items():
            check_targets(value, allow, f"{where}.{key}".lstrip("."))
    elif isinstance(config, list):
        for i, value in enumerate(config):
            check_targets(value, allow, f"{where}[{i}]")


def _check(target: str, allow: tuple[str, ...], where: str) -> None:
    packages = (*ALLOWED, *allow)
    refusal = (
        f"{where}._target_={target} is not from an allowed package ({', '.join(packages)}); "
        f"if you trust it, add safety.allow=[{target.rpartition('.')[0]}]"
    )
    if not _inside(target, packages):
        raise ValueError(refusal)
    try:
        found = get_object(target)
    except Exception as error:
        raise ValueError(f"{where}._target_={target} can't be found: {error}") from error
    home = getattr(found, "__module__", None) or type(found).__module__
    if not _inside(home, packages):
        raise ValueError(f"{refusal} (it is defined in {home})")
