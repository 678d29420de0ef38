"""Config groups that stand beside conf/: the folders of the users, and their own configuration."""

import importlib
import os
from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

GROUPS = ("slurm", "sweeps")  # beside those of conf/


class BesideConf(FileConfigSource):
    """A folder in which those of `GROUPS` are config groups; `--help` lists those alone."""

    @staticmethod
    def scheme() -> str:
        return "beside"

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        found = super().list(config_path, results_filter)
        return found if config_path else [name for name in found if name in GROUPS]


class MoreConfigs(SearchPathPlugin):
    """Finds the groups that are folders of their own, and a user's configuration.

    The latter is ~/.config/hct_lightning (say `local/default.yaml` in it).
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        Plugins.instance().register(BesideConf)
        for group in GROUPS:
            package = importlib.import_module(f"hct_lightning.{group}")
            search_path.append("hct-groups", f"beside://{Path(package.__path__[0]).parent}")
        home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        folder = Path(home) / "hct_lightning"
        if folder.is_dir():
            search_path.append("hct-user", f"file://{folder}")
