"""What a model's answers on labelled images say of it, and of it beside another one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hct_lightning.benchmarks.inference.subjects import Model, load
from hct_lightning.data.catalogue import Split
from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.feeding.loader import Loader, auto_workers
from hct_lightning.report.predictions import wilson


def mcnemar(right: Sequence[bool], reference_right: Sequence[bool]) -> float:
    """The exact two-sided p-value that both are right equally often on the same images.

    Only the images count on which one of the two is right: under the hypothesis each is a fair coin.
    """
    pairs = list(zip(right, reference_right, strict=True))
    gained = sum(a and not b for a, b in pairs)
    lost = sum(b and not a for a, b in pairs)
    n, k = gained + lost, min(gained, lost)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, 2 * tail / 2**n)


def compare(answers: Sequence[int], reference: Sequence[int], labels: Sequence[int]) -> dict[str, float]:
    """Accuracy with its 95 % interval, agreement with the reference, McNemar's p against it.

    Args:
        answers: class indices of the model.
        reference: of the model it is compared with.
        labels: the truth.
    """
    right = [a == label for a, label in zip(answers, labels, strict=True)]
    reference_right = [a == label for a, label in zip(reference, labels, strict=True)]
    low, high = wilson(sum(right), len(right))
    return {
        "accuracy": sum(right) / len(right),
        "low": low,
        "high": high,
        "agreement": sum(a == b for a, b in zip(answers, reference, strict=True)) / len(right),
        "mcnemar_p": mcnemar(right, reference_right),
    }


def judged_against(models: Mapping[str, Model], data: ImageData) -> tuple[str, dict[str, Model]]:
    """The name of the checkpoint, or of the first fp32 artifact where there is none, and all that have been trained.

    Raises:
        ValueError: when there is none, or one of them is not for the data, or for other sizes.
    """
    trained = {name: model for name, model in models.items() if model.kind != "timm"}
    reference = next(
        (n for n, m in trained.items() if m.kind == "checkpoint" or m.about["precision"] == "fp32"),
        None,
    )
    if reference is None:
        raise ValueError("benchmark.accuracy compares with fp32; measure a checkpoint or an fp32 artifact, too")
    dataset = data.dataset
    for name, model in trained.items():
        if model.classes != dataset.classes:
            raise ValueError(
                f"{name} tells {', '.join(model.classes)} apart, the data has {', '.join(dataset.classes)}; give the "
                "data it was made for, or leave benchmark.accuracy out"
            )
        size = trained[reference].decoding.size
        if size and not model.takes(size):
            raise ValueError(
                f"{name} does not take the images of {size[1]}x{size[0]} pixels that {reference} is for; give models of "
                "one size, or leave benchmark.accuracy out"
            )
    return reference, trained


def judge(models: Mapping[str, Model], data: ImageData, limit: int) -> dict[str, Any]:
    """Accuracy, agreement and McNemar's test on validation images, against what `judged_against` says, in fp32."""
    reference, trained = judged_against(models, data)
    dataset = data.dataset
    every = dataset.catalogue.valid
    chosen = np.linspace(0, len(every) - 1, min(limit, len(every))).round().astype(int)
    labels = [every.labels[i] for i in chosen]
    images = dataset.read_as(trained[reference].decoding).images(Split([every.paths[i] for i in chosen], labels))
    loader = Loader(images, [[i] for i in range(len(labels))], num_workers=auto_workers(data.num_workers))
    serving = {name: load(model, precision="32-true")[0] for name, model in trained.items()}
    answers = {name: [] for name in serving}
    for batch in loader:
        for name, probabilities in serving.items():
            answers[name].append(probabilities(batch.images).argmax().item())
    return {
        "title": f"Accuracy on {len(labels)} validation images, against {reference} in fp32",
        "rows": [{"side": name} | compare(found, answers[reference], labels) for name, found in answers.items()],
    }
