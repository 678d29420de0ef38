import torch
from lightning.pytorch.callbacks import Callback

from hct_lightning.callbacks.peak_memory import PeakMemory
from hct_lightning.machine.devices import peak_memory_gib


class Hungry(Callback):
    """Holds half a GiB for a moment."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        torch.ones(2**27)


def test_a_peak_within_the_epoch_is_logged(fit):
    before = peak_memory_gib(torch.device("cpu"))
    logged = fit(PeakMemory(), Hungry()).callback_metrics["memory/peak_gib"]
    now = torch.tensor(peak_memory_gib(torch.device("cpu")))
    assert logged >= before
    assert torch.isclose(logged, now, atol=0.05)
    assert logged > 0.5
