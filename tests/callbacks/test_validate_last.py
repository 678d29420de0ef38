import lightning
import pytest
from lightning.pytorch.callbacks import Callback

from hct_lightning.callbacks.validate_last import ValidateLast


class Epochs(Callback):
    """Those that were validated."""

    def __init__(self) -> None:
        self.validated = []

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.validated.append(trainer.current_epoch + 1)


@pytest.mark.parametrize(
    ("epochs", "every", "validated"), [(5, 2, [2, 4, 5]), (4, 2, [2, 4]), (2, 10, [2]), (2, 1, [1, 2])]
)
def test_the_last_epoch_is_validated_once(fit, epochs, every, validated):
    seen = Epochs()
    fit(ValidateLast(), seen, max_epochs=epochs, check_val_every_n_epoch=every)
    assert seen.validated == validated


def test_a_run_that_goes_on_in_its_last_epoch_is_validated_too(fit, half):
    seen = Epochs()
    fit(ValidateLast(), seen, max_epochs=1, check_val_every_n_epoch=10, ckpt_path=half)
    assert seen.validated == [1]
