"""Makes artifacts of a checkpoint, as fitting does when it ends."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from hct_lightning.data.datamodule import ImageData
from hct_lightning.deploy.artifact import read_descriptions
from hct_lightning.deploy.exporting import Reference, export_artifact
from hct_lightning.network import load_network
from hct_lightning.run import Run
from hct_lightning.tasks.validate import check_classes


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=export run=<folder> [ckpt=...] [export=[...]]`: to `<run>/artifacts/<name>/`."""
    run = Run(folder)
    network, spec = load_network(run.checkpoint(cfg.ckpt or "best"), cfg.safety.allow)
    exporters = {
        name: exporter
        for name, exporter in instantiate(cfg.export, _convert_="all").items()
        if callable(exporter)
    }
    if not exporters:
        raise ValueError("export=[] names nothing to make; give export=[torchscript]")
    options = {key: spec[key] for key in ("resolution", "geometry", "channels", "mean", "std")}
    data: ImageData = instantiate(cfg.data, **options, _convert_="all")
    data.prepare()
    check_classes(spec["classes"], data.classes)
    evaluation = cfg.export.evaluation
    reference = Reference(network, data.evaluation(evaluation)) if evaluation else None
    for name, exporter in exporters.items():
        export_artifact(
            name, exporter, network, spec, folder / "artifacts",
            dynamic=cfg.export.dynamic,
            calibration=data.calibration(cfg.export.calibration),
            reference=reference,
        )  # fmt: skip
    show(folder / "artifacts", list(exporters))


def show(folder: Path, names: list[str]) -> None:
    """A table of what the artifacts cost and give, and where they are."""
    table = Table(
        "artifact", "size", "time", "int8 layers", "accuracy", "fp32's", "agreement", "SQNR"
    )
    made = read_descriptions(folder)
    for name in names:
        metrics = made[name]["metrics"]
        cells = [name, f"{made[name]['size_bytes'] / 1e6:.2f} MB", f"{metrics['time_ms']:.1f} ms"]
        if "layers" in metrics:
            int8 = metrics["int8_convolutions"] + metrics["int8_linears"]
            cells.append(f"{int8} of {metrics['layers']}")
        else:
            cells.append("")
        if "accuracy" in metrics:
            cells += [f"{metrics[key]:.4f}" for key in ("accuracy", "accuracy_fp32", "agreement")]
            cells.append(f"{metrics['sqnr_db']:.1f} dB")
        table.add_row(*cells)
    Console().print(table)
    for name in names:
        print(folder / name)
