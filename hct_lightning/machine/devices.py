"""Which devices a run uses, so that the same command runs everywhere with the same global batch."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch

from hct_lightning.machine import slurm as job
from hct_lightning.machine.high_water import peak_gib
from hct_lightning.machine.runtime import resolve_accelerator


class Devices(NamedTuple):
    """What the trainer is given.

    accelerator: `cuda`, `mps` or `cpu`.
    devices: ranks on this node, or the GPUs by number.
    num_nodes: machines.
    global_batch: images per optimiser step over all ranks that were asked for.
    note: what differs from what was asked for, and why; None when nothing does.
    """

    accelerator: str
    devices: int | list[int]
    num_nodes: int
    global_batch: int
    note: str | None = None

    @property
    def ranks_here(self) -> int:
        return self.devices if isinstance(self.devices, int) else len(self.devices)

    @property
    def of_rank_zero(self) -> torch.device:
        numbers = range(self.devices) if isinstance(self.devices, int) else self.devices
        return torch.device("cpu") if self.accelerator == "cpu" else torch.device(self.accelerator, numbers[0])

    @property
    def world(self) -> int:
        return self.ranks_here * self.num_nodes


def best_device() -> torch.device:
    """The one that `trainer.accelerator=auto` takes."""
    return torch.device(resolve_accelerator("auto"))


def synchronise(device: torch.device) -> None:
    """Waits until the device has done its work, so that a clock read next is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_gib(device: torch.device) -> float:
    """The most memory that has been taken, since the start of the process or of counting.

    CUDA: allocated for tensors at once; MPS: taken by its driver, which keeps what it has; CPU: the resident set.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 2**30
    return peak_gib()


def choose_devices(accelerator: str, devices: int | str | Sequence[int], num_nodes: int, batch_size: int) -> Devices:
    """Fits the devices asked for to the machine.

    With fewer GPUs than asked for it uses those; with none, as many CPU ranks as asked for. The
    global batch is that of the devices asked for in either case. Under torchrun and srun the ranks
    are those that they started.

    Args:
        accelerator: the option `trainer.accelerator`.
        devices: the option `trainer.devices`: a number, GPU numbers ([0,1] or "0,1"), or `auto` (-1) for all there are.
        num_nodes: the option `trainer.num_nodes`.
        batch_size: images per device asked for and optimiser step.

    Raises:
        ValueError: for fewer than one device, or GPUs that aren't there; for tasks of a Slurm job that srun did not start, that are
            not equally many on each node, or that do not see the GPUs of their node.
    """
    kind = resolve_accelerator(accelerator)
    there = torch.cuda.device_count() if kind == "cuda" else 1
    if not there:
        raise ValueError(f"trainer.accelerator={accelerator}, but torch sees no GPU; use trainer.accelerator=cpu")
    parsed = _parse(devices)
    if isinstance(parsed, list):
        asked = len(parsed)
        use = _checked(parsed, there) if kind == "cuda" else asked  # elsewhere ranks have no numbers
    else:
        asked = use = there if parsed == -1 else parsed
    if asked < 1:
        raise ValueError(f"trainer.devices={devices}: give at least 1, or auto")
    global_batch = asked * num_nodes * batch_size

    if "TORCHELASTIC_RUN_ID" in os.environ:
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        note = None if local == asked else f"torchrun started {local} ranks here, not {asked}"
        return Devices(kind, local, world // local, global_batch, note)
    if job.is_rank():
        return _under_srun(kind, there, asked, num_nodes, global_batch)
    if (tasks := job.tasks_without_srun()) > 1:
        raise ValueError(
            f"this Slurm job has {tasks} tasks, but srun did not start this process, which would wait "
            "for the others for ever; use: srun python -m hct_lightning ..."
        )
    if kind == "cuda" and isinstance(use, int) and use > there:
        note = f"{asked} GPUs asked for, {there} found: each accumulates, the global batch is the same"
        return Devices(kind, there, num_nodes, global_batch, note)
    if kind == "mps" and asked > 1:
        note = f"{asked} devices asked for, 1 found: it accumulates, the global batch is the same"
        return Devices(kind, 1, num_nodes, global_batch, note)
    if kind == "cpu" and asked > 1:
        note = f"no GPU: {asked} CPU ranks, {global_batch} images a step as on {asked} GPUs"
        return Devices(kind, asked, num_nodes, global_batch, note)
    return Devices(kind, use, num_nodes, global_batch)


def _parse(devices: int | str | Sequence[int]) -> int | list[int]:
    """`trainer.devices` as a number of devices, -1 for all there are, or as GPUs by number: [0,1], "0,1" or "0,"."""
    if devices == "auto":
        return -1
    try:
        if isinstance(devices, str) and "," in devices:
            return [int(part) for part in devices.strip("[] ").split(",") if part.strip()]
        return int(devices) if isinstance(devices, int | str) else [int(number) for number in devices]
    except (TypeError, ValueError):
        raise ValueError(f"trainer.devices={devices}: give their number, GPUs by number as in [0,1], or auto") from None


def _checked(numbers: list[int], there: int) -> list[int]:
    """GPUs by number, where they can be had."""
    asked = f"trainer.devices={numbers}".replace(" ", "")
    if len(set(numbers)) < len(numbers) or not all(0 <= number < there for number in numbers):
        raise ValueError(f"{asked}: give each GPU once; here are {there}, numbered from 0")
    if "TORCHELASTIC_RUN_ID" in os.environ or job.is_rank():
        raise ValueError(
            f"{asked}: torchrun and srun give each rank its GPU; give trainer.devices={len(numbers)}, and choose "
            f"them with CUDA_VISIBLE_DEVICES={','.join(map(str, numbers))}"
        )
    return numbers


def _under_srun(kind: str, there: int, asked: int, num_nodes: int, global_batch: int) -> Devices:
    world, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_NNODES"])
    here = world // nodes
    if here * nodes != world:
        raise ValueError(
            f"srun started {world} tasks on {nodes} nodes; give each node the same number, with --ntasks-per-node"
        )
    if kind == "cuda" and here > there:
        raise ValueError(
            f"srun started {here} tasks on this node, but each sees {there} GPUs; ask for the GPUs of "
            f"a node, --gres=gpu:{here} (slurm.gres=gpu:{here}), and not for one per task"
        )
    note = None
    if (here, nodes) != (asked, num_nodes):
        note = f"srun started {nodes} x {here} ranks, not {num_nodes} x {asked}: the global batch is the same"
    return Devices(kind, here, nodes, global_batch, note)
