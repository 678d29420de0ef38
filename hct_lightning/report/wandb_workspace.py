"""A workspace in W&B that shows runs of this program at a glance: `python -m hct_lightning.report.wandb_workspace ENTITY PROJECT`.

It is a saved view of a project, with the panels below in the place of one for each key. It needs the extra `wandb`, and
a server that `wandb login` knows. Runs are not changed.
"""

import argparse
import sys
import warnings
from collections.abc import Mapping
from typing import Any

STEP = "trainer/global_step"
# By section a line chart of these keys each. Every one of them is logged by a run: a test reads them back.
LINES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Learning": {
        "Loss": ("train/loss_epoch", "val/loss"),
        "Accuracy": ("train/accuracy", "val/accuracy"),
        "Balanced accuracy, F1, AUROC": ("val/balanced_accuracy", "val/f1", "val/auroc"),
    },
    "Time and memory": {
        "Images a second": ("time/images_s",),
        "Seconds of an epoch": ("time/load_s", "time/train_s", "time/wait_s"),
        "Peak memory, GiB": ("memory/peak_gib",),
    },
}
# Tables and charts of their own, each a key that is logged once or at each validation.
TABLES = {"Predictions": ("val/predictions",), "Artifacts": ("export/artifacts",)}


def workspace(entity: str, project: str) -> Any:
    """The view, not yet saved: nothing is sent.

    Raises:
        ImportError: without wandb-workspaces.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pydantic, about how wandb-workspaces uses it
            import wandb_workspaces.reports.v2 as panels
            import wandb_workspaces.workspaces as views
    except ImportError as error:
        raise ImportError("wandb-workspaces is not installed: pip install 'hct-lightning[wandb]'") from error
    best = [
        panels.ScalarChart(title="Best accuracy", metric="val/accuracy", groupby_aggfunc="max"),
        panels.BarPlot(title="Accuracy by run", metrics=["val/accuracy"]),
        panels.RunComparer(),
    ]
    lines = {
        name: [panels.LinePlot(title=title, x=STEP, y=list(keys)) for title, keys in charts.items()]
        for name, charts in LINES.items()
    }
    tables = {name: [panels.WeavePanelSummaryTable(table_name=key) for key in keys] for name, keys in TABLES.items()}
    sections = {"At a glance": best, **lines, **tables}
    return views.Workspace(
        entity=entity,
        project=project,
        name="HCT-Lightning",
        sections=[views.Section(name=name, panels=content, is_open=True) for name, content in sections.items()],
        settings=views.WorkspaceSettings(x_axis=STEP),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hct_lightning.report.wandb_workspace", description=__doc__)
    parser.add_argument("entity", help="W&B user or team")
    parser.add_argument("project", help="W&B project, for example hct-lightning")
    given = parser.parse_args()
    try:
        view = workspace(given.entity, given.project)
        view.save()
    except Exception as error:  # of the client, which has many: no login, no server, no such project
        sys.exit(f"error: the workspace was not saved: {type(error).__name__}: {' '.join(str(error).split())}")
    print(view.url)


if __name__ == "__main__":
    main()
