"""What ran, on what machine, on which data, how it went; and the commands that made it."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hct_lightning.report.files import PROGRAM, RunFiles
from hct_lightning.report.page import Commands, Section, Table
from hct_lightning.runs.console import duration
from hct_lightning.runs.secrets import hide

Row = tuple[str, Any]
# Options that have a row of their own.
SAID = {"model._target_", "model.model_name", "model.conv_stages", "optim.lr", "optim.reference_batch", "seed"}
SAID |= {"optim.optimizer._target_", "schedule._target_", "data.resolution", "data.batch_size"}
SAID |= {f"trainer.{name}" for name in ("max_epochs", "max_time", "precision", "devices")}
LONGEST = 200  # characters of an option


def key_figures(run: RunFiles) -> list[tuple[str, str]]:
    """The few numbers that a reader looks for first."""
    found = []
    if run.accuracy is not None:
        which = "best" if "best" in run.record["metrics"] else "last epoch"
        found.append((f"Validation accuracy, {which}", f"{run.accuracy:.1%}"))
    if images_s := run.mean_s("images_s"):
        found.append(("Trained", f"{images_s:.1f} images/s"))
    if run.record.get("seconds"):
        found.append(("In all", duration(run.record["seconds"])))
    peak = (run.record.get("metrics") or {}).get("memory/peak_gib")
    if peak is not None:
        found.append(("Peak memory", f"{peak:.2f} GiB"))
    if run.artifacts:
        smallest = min(run.artifacts.values(), key=lambda about: about["size_bytes"])
        found.append(("Smallest artifact", f"{smallest['size_bytes'] / 1e6:.2f} MB"))
    return found


def overview(runs: Sequence[RunFiles]) -> Section:
    """A column a run; of several, what is the same for all stands apart, and options that differ are named."""
    columns = [dict(describe(run)) | options for run, options in zip(runs, differing(runs), strict=True)]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, "") for column in columns)] for name in names]
    own = [row for row in rows if len(runs) == 1 or len(set(row[1:])) > 1]
    shared = [row[:2] for row in rows if row not in own]
    found = [Table(["", *(run.name for run in runs)], own, wraps=True)]
    return Section("What ran", [*found, Table(["", "all of them"], shared, wraps=True)] if shared else found)


def describe(run: RunFiles) -> list[Row]:
    """What `run.json` says, in words."""
    record = run.record
    rows = [
        ("status", record.get("status") or "unknown"),
        ("reason", record.get("reason")),
        ("began", began(run)),
        ("took", duration(record["seconds"]) if record.get("seconds") else None),
        *_data(record.get("data") or {}, classifies=run.classifies),
        *_training(record.get("options") or {}, record.get("network") or {}),
        ("global batch", record.get("global_batch")),
        ("precision", record.get("precision")),
        *_machine(record.get("machine") or {}),
        ("ranks", run.ranks if record.get("memory_plan") else None),
        ("versions", ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items())),
        ("folder", str(run.folder)),
    ]
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def _data(data: Mapping[str, Any], *, classifies: bool) -> list[Row]:
    if not data:
        return []
    sizes = data["source_size"]
    small, large = ("x".join(map(str, sizes[which])) for which in ("smallest", "largest"))
    decoding = data["decoding"]
    classes = data["counts"]["train"]
    few = ", ".join(classes) if len(classes) <= 12 else "see run.json"
    return [
        ("data", data["source"]),
        ("images", f"{data['images']['train']} to train, {data['images']['valid']} to validate"),
        ("classes", f"{len(classes)}: {few}" if classifies else "none: it learns to fill hidden blocks"),
        ("files, px", small if small == large else f"{small} to {large}"),
        (
            "network sees, px",
            f"{'x'.join(map(str, decoding['size'] or ['images as they are']))}, {decoding['channels']} channel(s)",
        ),
        ("notes", "; ".join(data["notes"])),
    ]


def _training(options: Mapping[str, Any], network: Mapping[str, Any]) -> list[Row]:
    """Network and recipe."""
    if not options:
        return []

    def given(name: str) -> str:
        return str(options.get(name) or "")[:LONGEST]

    def is_called(name: str) -> str:
        return given(f"{name}._target_").rpartition(".")[2]

    stages, parameters = given("model.conv_stages"), network.get("parameters")
    of_network = [
        given("model.model_name") or is_called("model"),
        f"{stages} convolution stages" if stages else "",
        f"{parameters / 1e6:.2f} M parameters" if parameters else "",
    ]
    lr = f"lr {given('optim.lr')} at a batch of {given('optim.reference_batch')}"
    epochs = given("trainer.max_epochs")
    length = ["" if epochs in ("", "-1") else f"{epochs} epochs", given("trainer.max_time")]
    return [
        ("network", ", ".join(filter(None, of_network))),
        ("optimiser", f"{is_called('optim.optimizer')}, {lr}, {is_called('schedule')} schedule"),
        ("to train for", ", at most ".join(filter(None, length))),
        ("seed", options.get("seed")),
    ]


def differing(runs: Sequence[RunFiles]) -> list[dict[str, str]]:
    """By run the options that are not the same for all, by their names on the command line."""
    each = [run.record.get("options") or {} for run in runs]
    names = [name for name in dict.fromkeys(name for options in each for name in options) if name not in SAID]
    shown = [{name: str(options.get(name, ""))[:LONGEST] for name in names} for options in each]
    return [{name: value for name, value in one.items() if len({other[name] for other in shown}) > 1} for one in shown]


def _machine(machine: Mapping[str, Any]) -> list[Row]:
    if not machine:
        return []
    gpus = machine.get("gpus") or []
    return [
        ("machine", f"{machine['host']}, {machine['system']}"),
        ("CPU", f"{machine['cpu']}, {machine['cpus']} for this run, {machine['threads']} thread(s) a process"),
        ("GPU", ", ".join(gpus) if gpus else "none"),
    ]


def commands(runs: Sequence[RunFiles], made_by: str) -> Section:
    """The commands of each run, and that of the report."""
    found = []
    for run in runs:
        found.append((f"The run {run.name}", run.command))
        if since := run.record.get("since"):
            found.append((f"How {run.name} went on", hide(shlex.join([*PROGRAM.split(), f"run={run.folder}", *since]))))
    return Section("Commands", [Commands([*found, ("This report", made_by)])])


def command(task: str, run: RunFiles, *options: str) -> str:
    """A command about a run."""
    return shlex.join([*PROGRAM.split(), f"task={task}", f"run={run.folder}", *options])


def began(run: RunFiles) -> str:
    """2026-11-24T00:34:01+0000 -> 2026-11-24 00:34 UTC."""
    return re.sub(r"^([\d-]+)T(\d\d:\d\d):\d\d\+0000$", r"\1 \2 UTC", run.record.get("started") or "")
