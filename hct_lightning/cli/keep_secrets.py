"""Before anything is written: which values of the configuration are secret."""

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hct_lightning.runs import secrets


class KeepSecrets(Callback):
    """Hydra's hook before its files are written; see `runs.secrets`."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        self._learn(config)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self._learn(config)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """The only hook in a job of Slurm, where files take their mode from the submission."""
        self._learn(config)

    def _learn(self, config: DictConfig) -> None:
        secrets.learn({str(name): _plain(config._get_node(name)) for name in config if name != "hydra"})


def _plain(node: Any) -> Any:
    """A group as plain containers, resolved unless something in it is only known later."""
    if not OmegaConf.is_dict(node) and not OmegaConf.is_list(node):
        return None
    try:
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException:
        return OmegaConf.to_container(node)
