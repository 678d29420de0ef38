"""From a configuration to what everything below the tasks takes."""

from typing import Any

from omegaconf import DictConfig, OmegaConf


def plain(node: DictConfig) -> dict[Any, Any]:
    """A group of the configuration as plain containers, interpolations resolved."""
    found = OmegaConf.to_container(node, resolve=True)
    assert isinstance(found, dict)
    return found
