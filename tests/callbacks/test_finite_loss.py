import pytest
import torch
from lightning.pytorch.callbacks import Callback

from hct_lightning.callbacks.finite_loss import FiniteLoss


class Break(Callback):
    """The weights become infinite before the third step."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if batch_idx == 2:
            self.images = batch.index.tolist()
            torch.nn.init.constant_(module.head.weight, torch.inf)


def test_the_run_ends_at_the_step_and_names_its_images(fit):
    broken = Break()
    with pytest.raises(ValueError, match=r"the loss is nan at step 3 \(epoch 1, images \[.*\]") as error:
        fit(broken, FiniteLoss())
    assert str(broken.images) in str(error.value)
    assert "use a smaller optim.lr" in str(error.value)


def test_a_finite_loss_is_let_through(fit):
    assert fit(FiniteLoss()).global_step == 4
