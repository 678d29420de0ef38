"""The versions of the weights at which all ranks meet."""

from types import SimpleNamespace

import pytest

from hct_lightning.parallel.meetings import meetings


def trainer(**options) -> SimpleNamespace:
    """With what the meetings depend on."""
    given = {
        "accumulate_grad_batches": 2,
        "num_training_batches": 20,
        "max_steps": -1,
        "callbacks": [],
        "val_check_batch": float("inf"),
        "check_val_every_n_epoch": 1,
    }
    return SimpleNamespace(**given | options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [10, 20, 30]),
        ({"max_steps": 17}, [10, 17, 20, 30]),
        ({"val_check_batch": 10}, [5, 10, 15, 20, 25, 30]),
        ({"val_check_batch": 16, "check_val_every_n_epoch": None}, [8, 10, 16, 20, 24, 30]),
        ({"callbacks": [SimpleNamespace(every_steps=12)]}, [10, 12, 20, 24, 30]),
        ({"callbacks": [SimpleNamespace(_every_n_train_steps=15)]}, [10, 15, 20, 30]),
    ],
)
def test_all_meet_where_they_have_something_to_do_together(options, expected):
    meets = meetings(trainer(**options))
    assert [version for version in range(1, 31) if meets(version)] == expected
