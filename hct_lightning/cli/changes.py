"""The options that shape a training, and which of them a run that goes on has otherwise than before."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hct_lightning.cli.plain import plain

log = logging.getLogger(__name__)

GROUPS = ("data", "model", "optim", "schedule", "loss", "trainer", "gradients", "seed")
CALLBACKS = ("average", "batch_norm")  # those that make the weights others
# Where things lie says nothing of what is trained, and a url may hold a password.
LEFT_OUT = ("data.root", "data.cache", "data.source", "trainer.plugins")


def options_of_training(cfg: DictConfig) -> dict[str, Any]:
    """By their full names, as on the command line: `{"optim.lr": 0.001, ...}`."""
    groups = {group: plain(cfg[group]) if OmegaConf.is_config(cfg[group]) else cfg[group] for group in GROUPS}
    groups["pretrain"] = plain(cfg.pretrain) if cfg.pretrain else {}
    groups["callbacks"] = {name: plain(cfg.callbacks[name]) for name in CALLBACKS if (cfg.callbacks or {}).get(name)}
    return {name: value for name, value in _flat("", groups) if not name.startswith(LEFT_OUT)}


def _flat(prefix: str, options: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value


def say_changes(earlier: Mapping[str, Any], options: Mapping[str, Any], images: Mapping[str, int]) -> None:
    """Logs what a run that goes on has otherwise than before.

    Args:
        earlier: its record.
        options: of `options_of_training`.
        images: their numbers, by split.
    """
    before = earlier.get("data", {}).get("images", images)
    if before != images:
        log.warning("the data has %s images, before it had %s: epochs are others than they were", images, before)
    if changes := differences(earlier.get("options", {}), options):
        log.info("other options than before: %s", ", ".join(changes))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`["optim.lr=0.01 instead of 0.001"]`: the options that both have, with other values, and those gained or lost.

    Args:
        before: of `options_of_training`; empty when it is not known.
        now: likewise.
    """
    said = [
        f"{name}={value} instead of {before[name]}" for name, value in now.items() if before.get(name, value) != value
    ]
    # One that is null has come with a newer version, and changes nothing.
    gained = {name: value for name, value in now.items() if before and name not in before and value is not None}
    said += [f"{name}={value}" for name, value in gained.items()]
    return said + [f"no {name}" for name in before if name not in now]
