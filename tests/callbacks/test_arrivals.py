"""What is logged of a tally, once an epoch."""

from types import SimpleNamespace

from hct_lightning.callbacks.arrivals import Arrivals
from hct_lightning.parallel.server import Tally


def test_logs_the_tally_of_the_strategy():
    logged = {}
    module = SimpleNamespace(log_dict=lambda values, rank_zero_only: logged.update(values))
    strategy = SimpleNamespace(tally=lambda: Tally(0.2, 1.5, 0.25, 3))
    Arrivals().on_train_epoch_end(SimpleNamespace(strategy=strategy), module)
    assert logged == {
        "gradients/update_s": 0.2,
        "gradients/staleness": 1.5,
        "gradients/dropped": 0.25,
        "gradients/ranks": 3.0,
    }


def test_does_nothing_with_other_strategies():
    Arrivals().on_train_epoch_end(SimpleNamespace(strategy=object()), None)
