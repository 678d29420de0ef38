"""The sides of plain PyTorch by name, and the paper's figures of inference beside ours."""

from collections.abc import Mapping, Sequence
from typing import Any

from hct_lightning.report import paper

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
ARTIFACTS = ("torchscript", "torchscript_int8", "torchscript_int8_dynamic")  # that answer to what it measured


def paper_rows(rows: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The paper's figures beside those measured here at 4000 px; empty where nothing was."""
    measured = {(r["side"], r["device"], r["batch"]): r for r in rows if r["size"] == "4000x4000"}
    accuracy = {row["side"]: row["accuracy"] for row in judged}
    found = []
    for row in paper.inference():
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
