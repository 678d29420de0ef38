"""Makes artifacts of a checkpoint, as fitting does when it ends."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.table import Table

from hct_lightning.cli.recompose import given_options
from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.deploy.artifact import read_descriptions
from hct_lightning.deploy.export import Exporter, Reference, choose_exporters, export_artifact, options_of
from hct_lightning.models import FromPixels
from hct_lightning.report.card import write_card
from hct_lightning.runs.console import results
from hct_lightning.runs.files import open_whole, write_whole
from hct_lightning.runs.folder import Run
from hct_lightning.training.checkpoints import load_network

log = logging.getLogger(__name__)


def main(cfg: DictConfig, folder: Path) -> None:
    """`task=export run=<folder> [ckpt=...] [export=[...]]`: to `<run>/artifacts/<name>/`.

    With `export.percentages=[...]` those that can be int8 in part are made at each percentage
    instead, in `<run>/export/<name>/`, with a figure.
    """
    run = Run(folder)
    network, spec = load_network(run.checkpoint(cfg.ckpt or "best"), cfg.safety.allow)
    given = given_options(cfg, "data")
    spec.check_normalisation(given)
    check_given(spec.decoding.with_options(given), spec.decoding)
    exporters = choose_exporters(instantiate(cfg.export, _convert_="all"))
    if not exporters:
        raise ValueError("export=[] names nothing to make; give export=[torchscript]")
    percentages = list(cfg.export.percentages)
    if percentages and not cfg.export.evaluation:
        raise ValueError("export.percentages measures accuracy; give export.evaluation=200, say")

    options = {"spec": spec.as_json(), "dynamic": cfg.export.dynamic}
    calibrated = any("calibration" in options_of(exporter) for exporter in exporters.values())
    if calibrated or cfg.export.evaluation:
        data: ImageData = instantiate(cfg.data, **spec.options(), _convert_="all")
        spec.check_classes(data.dataset.classes)
        options["calibration"] = data.calibration(cfg.export.calibration)
        if cfg.export.evaluation:
            options["reference"] = Reference(network, data.evaluation(cfg.export.evaluation))
    for name, exporter in exporters.items():
        if not percentages:
            made = export_artifact(name, exporter, network, folder / "artifacts", **options)
            write_card(made, folder, model=spec.model, license=cfg.export.license)
        elif "percent" in options_of(exporter):
            export_in_part(name, exporter, network, folder / "export", percentages, options)
        else:
            log.warning("%s can't be made in part; export.percentages leaves it out", name)
    if not percentages:
        show(folder / "artifacts", list(exporters))


def export_in_part(
    name: str,
    exporter: Exporter,
    network: FromPixels,
    folder: Path,
    percentages: list[float],
    options: Mapping[str, Any],
) -> None:
    """An artifact at each percentage of int8 layers, a table, `<name>.json` and `<name>.png`."""
    from hct_lightning.deploy.partial import draw, sweep  # matplotlib is slow to import

    result = sweep(name, exporter, network, folder, percentages, **options)
    write_whole(folder / f"{name}.json", json.dumps(result, indent=2) + "\n")
    with open_whole(folder / f"{name}.png") as file:
        draw(name, result["rows"]).savefig(file, format="png", dpi=120)
    show(folder / name, [str(percent) for percent in percentages])
    print(folder / f"{name}.png")


def check_given(asked: Decoding, trained: Decoding) -> None:
    """Raises ValueError where the command line asks for another reading of images than the network was trained on."""
    for name, value in asked.as_json().items():
        if value != (mine := trained.as_json()[name]):
            open_size = ", or open height and width with export.dynamic=true" if name == "size" else ""
            raise ValueError(
                f"data.{'resolution' if name == 'size' else name}={json.dumps(value)}: an artifact takes images as its "
                f"network was trained on them, with {json.dumps(mine)}; leave it out{open_size}"
            )


def show(folder: Path, names: list[str]) -> None:
    """A table of what the artifacts cost and give, and where they are."""
    table = Table()
    table.add_column("artifact", no_wrap=True)
    for name in ("MB", "ms", "int8 layers", "accuracy", "agreement", "SQNR, dB"):
        table.add_column(name, justify="right")
    made = read_descriptions(folder)
    for name in names:
        metrics = made[name]["metrics"]
        cells = [f"{made[name]['size_bytes'] / 1e6:.2f}", f"{metrics['time_ms']:.1f}", ""]
        if "layers" in metrics:
            int8 = metrics["int8_convolutions"] + metrics["int8_linears"]
            cells[-1] = f"{int8} of {metrics['layers']}"
        if "accuracy" in metrics:
            table.caption = f"accuracy on {metrics['images']} images; before: {metrics['accuracy_fp32']:.4f}"
            cells += [f"{metrics[key]:.4f}" for key in ("accuracy", "agreement")]
            cells.append(f"{metrics['sqnr_db']:.1f}")
        table.add_row(name, *cells)
    results().print(table)
    for name in names:
        print(folder / name)
