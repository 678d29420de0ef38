"""A checkpoint's progress, brought to another number of micro-batches."""

import lightning
from lightning.pytorch.plugins.environments import LightningEnvironment

from hct_lightning.callbacks.micro_batches import MicroBatches


def test_progress_is_counted_anew():
    trainer = lightning.Trainer(
        accelerator="cpu",
        accumulate_grad_batches=3,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        plugins=[LightningEnvironment()],  # else a machine with Slurm is warned about
    )
    saved = {"ready": 8, "started": 8, "processed": 8, "completed": 7}  # four steps of two, saved in the last one
    progress = {"current": dict(saved), "total": dict(saved)}
    checkpoint = {"micro_batches": 2, "loops": {"fit_loop": {"epoch_loop.batch_progress": progress}}}
    MicroBatches().on_load_checkpoint(trainer, None, checkpoint)
    counted = {"ready": 12, "started": 12, "processed": 12, "completed": 11}
    assert progress == {"current": counted, "total": counted}

    MicroBatches().on_save_checkpoint(trainer, None, checkpoint)
    assert checkpoint["micro_batches"] == 3
