"""What the network says of the validation images: confusion, ROC, precision and recall, calibration, best and worst."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from hct_lightning.report.charts import Line, line_chart
from hct_lightning.report.files import RunFiles
from hct_lightning.report.page import Block, Charts, Note, Picture, Pictures, Section, Table
from hct_lightning.report.predictions import Curves, JudgedImages, curves, reliability
from hct_lightning.report.sections.overview import command

IN_DETAIL = 4  # of more runs only the best is looked at closely
MATRIX = 20  # of more classes the confusions are listed
DRAWN = 8  # classes with a curve, those of the least area first


def answers(runs: Sequence[RunFiles]) -> Section:
    """Figures of every run that has predictions, and those of the best in detail."""
    judged = [(run, run.predictions) for run in runs if run.predictions]
    if not judged:
        text = "Predictions on the validation images:"
        return Section("Predictions", [Note(text, command("validate", runs[0]), "missing")])
    blocks: list[Block] = []
    if len(judged) > 1:
        rows = [
            [run.name, len(found.labels), f"{found.accuracy:.2%}", f"{reliability(found).ece:.2%}"]
            for run, found in judged
        ]
        blocks.append(Table(["run", "images", "accuracy", "calibration error"], rows))
    if len(judged) > IN_DETAIL:
        best = max(judged, key=lambda pair: pair[1].accuracy)
        blocks.append(Note(f"In detail the best of them, {best[0].name}."))
        judged = [best]
    for run, found in judged:
        if len(runs) > 1:
            blocks.append(Note(run.name, level="heading"))
        blocks += in_detail(found)
    return Section("Predictions", blocks)


def in_detail(found: JudgedImages) -> list[Block]:
    by_class = [curves(found.probabilities[:, i], found.labels == i) for i in range(len(found.classes))]
    calibration = reliability(found)
    hardest = sorted(range(len(by_class)), key=lambda i: (np.isnan(by_class[i].auroc), by_class[i].auroc))[:DRAWN]
    shown = [(found.classes[i], by_class[i]) for i in sorted(hardest)]
    roc = [Line(name, _from(0, c.false_positives), _from(0, c.recall), i) for i, (name, c) in enumerate(shown)]
    precision = [Line(name, _from(0, c.recall), _from(1, c.precision), i) for i, (name, c) in enumerate(shown)]
    reliable = [Line("answers by probability", calibration.confidence, calibration.accuracy, 7)]
    ece = f"Calibration: expected error {calibration.ece:.1%}"
    draw = partial(line_chart, unit_square=True)
    checkpoint = f"{len(found.labels)} validation images, checkpoint {found.file.stem}: {found.accuracy:.2%} are right."
    return [
        Note(checkpoint),
        *_confusion(found),
        Table(["class", "images", "precision", "recall", "F1", "AUROC", "average precision"], _scores(found, by_class)),
        Charts(
            [
                draw("ROC", roc, x="false positive rate", y="true positive rate", diagonal=True, marked=False),
                draw("Precision and recall", precision, x="recall", y="precision", marked=False),
                draw(ece, reliable, x="probability of the answer", y="share that is right", diagonal=True),
            ]
        ),
        *_pictures("Least probability for the true class", found, found.worst()),
        *_pictures("Surest right answers", found, found.best()),
    ]


def _from(first: float, values: np.ndarray) -> list[float]:
    return [first, *values.tolist()]


def _confusion(found: JudgedImages) -> list[Block]:
    """The matrix, or where it would be too large the commonest confusions."""
    counts = found.confusion()
    if len(counts) <= MATRIX:
        rows = [[name, *row] for name, row in zip(found.classes, counts.tolist(), strict=True)]
        share = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        heat = [[0.0, *row] for row in (0.6 * share).tolist()]
        return [Table(["true, predicted", *found.classes], rows, caption="Confusion", heat=heat)]
    np.fill_diagonal(counts, 0)
    most = np.argsort(-counts, axis=None, kind="stable")[:MATRIX]
    pairs = [divmod(int(i), len(counts)) for i in most if counts.flat[i]]
    rows = [[found.classes[a], found.classes[b], int(counts[a, b])] for a, b in pairs]
    return [Table(["true", "predicted", "images"], rows, caption="Commonest confusions")] if rows else []


def _scores(found: JudgedImages, by_class: Sequence[Curves]) -> list[list[str]]:
    """A row a class."""
    counts = found.confusion()
    rows = []
    for i, (name, curve) in enumerate(zip(found.classes, by_class, strict=True)):
        right, true, said = counts[i, i], counts[i].sum(), counts[:, i].sum()
        values = (_share(right, said), _share(right, true), _share(2 * right, true + said), curve.auroc, curve.ap)
        rows.append([name, str(true), *("" if np.isnan(value) else f"{value:.3f}" for value in values)])
    return rows


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _pictures(caption: str, found: JudgedImages, rows: Sequence[int]) -> list[Block]:
    pictures = []
    for row in rows:
        label, answer = int(found.labels[row]), int(found.answers[row])
        text = f"{found.classes[label]} {found.probabilities[row, label]:.1%}"
        if answer != label:
            text += f", taken for {found.classes[answer]} {found.probabilities[row, answer]:.1%}"
        if (file := found.thumbnail(row)).exists():
            pictures.append(Picture(file, f"{text} · {Path(found.paths[row]).name}", good=answer == label))
    return [Pictures(caption, pictures)] if pictures else []
