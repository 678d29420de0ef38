"""The sides of plain PyTorch by name, and the paper's figures of inference, to stand beside ours."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

EAGER, TUNED_EAGER = "plain eager", "tuned eager"
INT8, TUNED_INT8 = "plain int8 TorchScript", "tuned int8 TorchScript"
PLAIN = {
    EAGER: {"form": "eager"},
    TUNED_EAGER: {"form": "eager", "tuned": True},
    INT8: {"form": "static", "traced": True},
    TUNED_INT8: {"form": "static", "traced": True, "tuned": True},
}
TRACED, DYNAMIC_TRACED = "plain TorchScript", "plain dynamic int8 TorchScript"
PLAIN_PAPER = {
    "plain static int8": {"form": "static"},
    "plain dynamic int8": {"form": "dynamic"},
    TRACED: {"form": "eager", "traced": True},
    DYNAMIC_TRACED: {"form": "dynamic", "traced": True},
}


class Paper(NamedTuple):
    """A row of "Optimization of Efficient Transformer for High Resolution Images", Fig. 5 to 9.

    seconds a call at 4000 px, megabytes, accuracy on 260 images; the sides that answer to it here.
    """

    what: str
    device: str
    batch: int
    seconds: float
    mb: float | None
    accuracy: float | None
    plain: str | None
    ours: str | None


PAPER = (
    Paper("eager fp32", "cpu", 1, 0.147, 7.04, 0.596, EAGER, "checkpoint"),
    Paper("static int8", "cpu", 1, 0.078, 1.97, 0.558, "plain static int8", "torchscript_int8"),
    Paper("dynamic int8", "cpu", 1, 0.169, 5.82, 0.596, "plain dynamic int8", "torchscript_int8_dynamic"),
    Paper("traced fp32", "cpu", 1, 0.240, None, None, TRACED, "torchscript"),
    Paper("traced static int8", "cpu", 1, 0.157, None, None, INT8, "torchscript_int8"),
    Paper("traced dynamic int8", "cpu", 1, 0.258, None, None, DYNAMIC_TRACED, "torchscript_int8_dynamic"),
    Paper("traced fp32, beside C++", "cpu", 1, 0.248, None, None, TRACED, "torchscript"),
    Paper("traced fp32, C++", "cpu", 1, 0.243, None, None, None, "C++ torchscript"),
    Paper("eager fp32", "cpu", 16, 3.70, None, None, EAGER, "checkpoint"),
    Paper("traced fp32", "cpu", 16, 3.62, None, None, TRACED, "torchscript"),
    Paper("eager fp32", "cuda", 16, 0.833, None, None, EAGER, "checkpoint"),
    Paper("traced fp32", "cuda", 16, 1.926, None, None, TRACED, None),
    Paper("eager fp32", "cuda", 1, 0.057, None, None, EAGER, "checkpoint"),
    Paper("traced fp32", "cuda", 1, 1.096, None, None, TRACED, None),
    Paper("traced fp32, C++", "cuda", 1, 1.111, None, None, None, None),
)


def paper_rows(rows: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The paper's figures beside those measured here at 4000 px; empty where nothing was."""
    measured = {(r["side"], r["device"], r["batch"]): r for r in rows if r["size"] == "4000x4000"}
    accuracy = {row["side"]: row["accuracy"] for row in judged}
    found = []
    for row in PAPER:
        plain, ours = (measured.get((side, row.device, row.batch), {}) for side in (row.plain, row.ours))
        found.append(
            {
                "what": row.what,
                "device": row.device,
                "batch": row.batch,
                "paper_s": row.seconds,
                "plain_s": plain.get("p50_s"),
                "ours_s": ours.get("p50_s"),
                "ours": row.ours,
                "paper_mb": row.mb,
                "plain_mb": plain.get("mb") if row.mb else None,
                "ours_mb": ours.get("mb") if row.mb else None,
                "paper_accuracy": row.accuracy,
                "ours_accuracy": accuracy.get(row.ours) if row.accuracy else None,
            }
        )
    return found
