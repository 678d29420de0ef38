"""The card of an artifact, its README.md: figures, data, licence, how to load it; in the form that hubs of models show."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hct_lightning.deploy.artifact import read_description
from hct_lightning.machine.facts import machine_facts
from hct_lightning.report.files import read_json
from hct_lightning.report.page import template
from hct_lightning.report.predictions import wilson
from hct_lightning.runs.files import write_whole


def write_card(folder: Path, run: Path, *, model: Mapping[str, Any], license: str | None) -> None:
    """Writes `README.md` beside `artifact.json`. Paths, hosts and commands of this machine are not in it.

    Args:
        folder: of the artifact.
        run: whose `run.json` says what it was trained on; it may say nothing.
        model: the network's configuration, as `NetworkSpec` has it.
        license: of the weights; None where nobody has chosen one.
    """
    about, record = read_description(folder), read_json(run / "run.json")
    network = str(model.get("model_name") or model["_target_"].rpartition(".")[2])
    source = without_folders((record.get("data") or {}).get("source", ""))
    size = about["decoding"]["size"]
    pixels = "{}x{} pixels".format(*size) if size else "images of any size"
    title = f"{network}, {len(about['classes'])} classes, {pixels}"
    text = template("card.md").render(
        metadata=metadata(about, network, source, title, license),
        title=title,
        network=network,
        classes=about["classes"],
        pixels=pixels,
        channels=about["decoding"]["channels"],
        figures=figures(about),
        uncertain="accuracy" in about["metrics"],
        data=_data(record["data"], source) if record.get("data") else None,
        runtime=about["runtime"],
        license=license,
    )
    write_whole(folder / "README.md", re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


def metadata(about: Mapping[str, Any], network: str, source: str, title: str, license: str | None) -> str:
    """The front matter, YAML, in the words of the Hugging Face hub."""
    data, metrics = re.sub(r"[^a-z0-9]+", "-", source.lower()).strip("-"), about["metrics"]
    measured = None
    if "accuracy" in metrics:
        measured = EvalResult(
            task_type="image-classification",
            dataset_type=data or "unknown",
            dataset_name=source or "unknown",
            metric_type="accuracy",
            metric_value=round(metrics["accuracy"], 4),
            metric_name=f"Accuracy on {metrics['images']} validation images",
        )
    card = ModelCardData(
        license=license or "unknown",
        library_name="timm" if about["runtime"] == "timm" else "hct-lightning",
        tags=["image-classification", "high-resolution", network.lower(), about["runtime"], about["precision"]],
        datasets=[data] if data else None,
        metrics=["accuracy"],
        model_name=title,
        eval_results=[measured] if measured else None,
    )
    card.pipeline_tag = "image-classification"
    return card.to_yaml()


def figures(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was measured of the artifact on this machine, which has just made it, by name."""
    machine = machine_facts()
    metrics, found = about["metrics"], []
    if "accuracy" in metrics:
        low, high = wilson(metrics["accuracy"] * metrics["images"], metrics["images"])
        found = [
            ("Accuracy", f"{metrics['accuracy']:.1%} of {metrics['images']} validation images"),
            ("Its 95 % interval", f"{low:.1%} to {high:.1%}"),
            ("Agreement with the network before export", f"{metrics['agreement']:.1%}"),
        ]
    return [
        *found,
        ("Time of one image", f"{metrics['time_ms']:.1f} ms on {machine['cpu']}, {machine['cpus']} core(s)"),
        ("Size", f"{about['size_bytes'] / 1e6:.2f} MB, {about['precision']}"),
    ]


def without_folders(source: str) -> str:
    """What a source says of itself, with the last part of a path alone: where it lies is nobody's business."""
    return re.sub(r"/(.*/)?", "", source)


def _data(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    images = data["images"]
    return {
        "source": source,
        "images": f"{images['train']} images to train, {images['valid']} to validate",
        "counts": list(data["counts"]["train"].items()),
    }
