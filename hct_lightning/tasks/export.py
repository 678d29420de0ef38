"""Makes artifacts of a checkpoint, as fitting does when it ends."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from hct_lightning.deploy.artifact import export_artifact
from hct_lightning.network import load_network
from hct_lightning.run import Run


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=export run=<folder> [ckpt=...] [export=[...]]`: to `<run>/artifacts/<name>/`."""
    run = Run(folder)
    network, spec = load_network(run.checkpoint(cfg.ckpt or "best"), cfg.safety.allow)
    exporters = instantiate(cfg.export, _convert_="all")
    dynamic = exporters.pop("dynamic")
    if not exporters:
        raise ValueError("export=[] names nothing to make; give export=[torchscript]")
    for name, exporter in exporters.items():
        made = export_artifact(name, exporter, network, spec, folder / "artifacts", dynamic=dynamic)
        print(made)
