import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_precision_recall_curve,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from hct_lightning.report.predictions import (
    JudgedImages,
    curves,
    prediction_rows,
    read_predictions,
    reliability,
    wilson,
)
from hct_lightning.runs.files import csv_text

CLASSES = ["=1+1", 'b, "quoted"', "p_c"]


@pytest.fixture
def found(tmp_path) -> JudgedImages:
    """300 images of three classes, with ties among the probabilities."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300)
    scores = random.random((300, 3)).round(1) + np.eye(3)[labels] * 0.4 + 0.05
    paths = [f"{i}.png" for i in range(300)]
    probabilities = (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)
    return JudgedImages(paths, labels, probabilities, CLASSES, tmp_path / "best.csv")


def test_a_file_gives_what_was_written(found):
    names = [CLASSES[i] for i in found.labels]
    found.file.write_text(csv_text(prediction_rows(found.paths, names, CLASSES, found.probabilities)))
    read = read_predictions(found.file)
    assert (read.paths, read.classes) == (found.paths, CLASSES)
    assert (read.labels == found.labels).all()
    assert (read.probabilities.astype(np.float32) == found.probabilities).all()
    assert read.accuracy == found.accuracy == (found.probabilities.argmax(1) == found.labels).mean()


@pytest.mark.parametrize("text", ["", "path,label\n1,a\n", "path,label,p_a\n1,b,0.5\n", "path,label,p_a\n1,a,nan\n"])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "best.csv").write_text(text)
    with pytest.raises(ValueError, match=r"best\.csv is damaged.*task=validate"):
        read_predictions(tmp_path / "best.csv")


def test_curves_are_those_of_torchmetrics(found):
    for i in range(3):
        scores, positive = found.probabilities[:, i], found.labels == i
        ours = curves(scores, positive)
        theirs = torch.from_numpy(scores), torch.from_numpy(positive).int()
        assert ours.auroc == pytest.approx(binary_auroc(*theirs).item(), abs=1e-6)
        assert ours.ap == pytest.approx(binary_average_precision(*theirs).item(), abs=1e-6)
        precision, recall, _ = binary_precision_recall_curve(*theirs)
        np.testing.assert_allclose(ours.recall, recall.flip(0)[1:], atol=1e-6)
        np.testing.assert_allclose(ours.precision, precision.flip(0)[1:], atol=1e-6)


def test_a_class_without_images_has_no_areas():
    ours = curves(np.array([0.1, 0.9]), np.array([False, False]))
    assert np.isnan(ours.auroc)
    assert np.isnan(ours.ap)


def test_calibration_is_that_of_torchmetrics(found):
    given = torch.from_numpy(found.probabilities), torch.from_numpy(found.labels)
    theirs = multiclass_calibration_error(*given, num_classes=3, n_bins=10).item()
    ours = reliability(found)
    assert ours.ece == pytest.approx(theirs, abs=1e-5)
    assert ours.count.sum() == 300


def test_confusion_is_that_of_torchmetrics(found):
    given = torch.from_numpy(found.answers), torch.from_numpy(found.labels)
    assert (found.confusion() == multiclass_confusion_matrix(*given, 3).numpy()).all()


def test_the_worst_and_the_best(found):
    of_label = found.probabilities[range(300), found.labels]
    worst, best = found.worst(), found.best()
    assert of_label[worst].max() <= np.delete(of_label, worst).min()
    assert list(of_label[worst]) == sorted(of_label[worst])
    assert (found.answers[best] == found.labels[best]).all()
    assert [int(label) for label in found.labels[best[:6]]] == [0, 1, 2, 0, 1, 2]  # the classes in turn


def test_wilson_published_values():
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, Table I.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)


def test_wilson_bounds_solve_the_score_equation():
    right, images, z = 145, 260, 1.96
    for bound in wilson(right, images, z):
        score = abs(right / images - bound) / math.sqrt(bound * (1 - bound) / images)
        assert score == pytest.approx(z)
