"""Partial quantization: what accuracy, size and time a percentage of int8 layers gives."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor, nn

from hct_lightning.deploy.artifact import read_descriptions
from hct_lightning.deploy.export import Exporter, Reference, export_artifact
from hct_lightning.deploy.int8.sensitivity import sensitivity


def sweep(
    name: str,
    exporter: Exporter,
    network: nn.Module,
    folder: Path,
    percentages: Sequence[float],
    *,
    spec: Mapping[str, Any],
    dynamic: bool,
    calibration: Iterable[Tensor],
    reference: Reference,
) -> dict[str, Any]:
    """Makes the artifact at every percentage, in `folder/name/<percent>/`.

    Args:
        name: of the artifact.
        exporter: to int8, with the option `percent`.
        network: takes uint8 images, in eval mode, on the CPU.
        folder: where the results go.
        percentages: of int8 layers, 0 to 100.
        spec, dynamic, calibration, reference: see `export_artifact`.

    Returns:
        `rows`, one a percentage, and `sensitivity`, the SQNR in dB of the logits when one layer
        alone is int8, the most robust first.
    """
    rows = []
    for percent in percentages:
        export_artifact(
            str(percent),
            partial(exporter, percent=percent),
            network,
            folder / name,
            spec=spec,
            dynamic=dynamic,
            calibration=calibration,
            reference=reference,
        )
        made = read_descriptions(folder / name)[str(percent)]
        rows.append({"percent": percent, "size_bytes": made["size_bytes"]} | made["metrics"])
    return {"rows": rows, "sensitivity": sensitivity(network, calibration)}


def draw(name: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """What `sweep` measured, against the percentage."""
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    percent = [row["percent"] for row in rows]
    panels = (
        ("accuracy", [row["accuracy"] for row in rows]),
        ("agreement with fp32", [row["agreement"] for row in rows]),
        ("size, MB", [row["size_bytes"] / 1e6 for row in rows]),
        ("time, ms", [row["time_ms"] for row in rows]),
    )
    for axis, (label, values) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axis.plot(percent, values, marker="o")
        axis.set(xlabel="layers in int8, %", title=label)
        axis.grid(alpha=0.3)
    figure.suptitle(name)
    return figure
