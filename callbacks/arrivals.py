"""What became of the gradients, where an update is made of those that arrive first.

| key                  | unit    | meaning                                                               |
|----------------------|---------|-----------------------------------------------------------------------|
| gradients/update_s   | s       | time per update of the weights, validation aside                      |
| gradients/staleness  | updates | since the weights that a gradient was computed with, on average       |
| gradients/dropped    |         | share of the gradients that were begun and did not count              |
| gradients/ranks      |         | ranks that live                                                       |

How long ranks have waited for weights is `time/wait_s`.
"""

from typing import Any

from lightning.pytorch.callbacks import Callback


class Arrivals(Callback):
    """Logs an epoch's arrivals; does nothing with a strategy that has none."""

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        tally = getattr(trainer.strategy, "tally", lambda: None)()
        if tally:
            values = {"update_s": tally.update_s, "staleness": tally.staleness, "dropped": tally.dropped}
            values["ranks"] = float(tally.ranks)
            module.log_dict({f"gradients/{name}": value for name, value in values.items()}, rank_zero_only=True)
