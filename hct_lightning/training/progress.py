"""How long a training is, in steps."""

import math

import lightning


def total_steps(trainer: lightning.Trainer) -> float:
    """Optimiser steps of the whole training: those of its epochs, or fewer where its time ends first.

    Infinite where neither is known: a callback ends it, or a time that no epoch has been measured against yet.
    """
    module = trainer.lightning_module
    return min(trainer.estimated_stepping_batches, getattr(module, "steps_in_time", math.inf))
