"""The same command on any machine: devices are fitted, the global batch stays."""

import pytest
import torch

from hct_lightning.machine.devices import choose_devices, peak_memory_gib, synchronise
from hct_lightning.training.memory_plan import available_bytes


@pytest.fixture
def gpus(monkeypatch):
    """Pretends that torch sees a number of GPUs; nothing runs on them."""

    def see(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return see


@pytest.mark.parametrize(("there", "use"), [(8, 4), (4, 4), (3, 3), (1, 1)])
def test_uses_the_gpus_there_are(gpus, there, use):
    gpus(there)
    found = choose_devices("auto", 4, 1, 16)
    assert (found.accelerator, found.devices, found.global_batch) == ("cuda", use, 64)
    assert (found.note is None) == (there >= 4)


def test_without_a_gpu_as_many_cpu_ranks(gpus):
    gpus(0)
    found = choose_devices("auto", 4, 1, 16)
    assert (found.accelerator, found.devices, found.global_batch) == ("cpu", 4, 64)
    assert "4 CPU ranks" in found.note
    assert choose_devices("auto", 1, 1, 16).note is None


def test_nodes_count(gpus):
    gpus(2)
    found = choose_devices("gpu", 2, 3, 5)
    assert (found.world, found.global_batch) == (6, 30)


def test_gpus_by_number_and_auto(gpus):
    gpus(4)
    assert choose_devices("cuda", [1, 3], 1, 8).devices == [1, 3]
    assert choose_devices("cuda", [1, 3], 1, 8).global_batch == 16
    assert choose_devices("auto", "auto", 1, 8).global_batch == 32


@pytest.mark.parametrize("asked", [[0, 2], "0,2", "[0,2]", "0, 2,"])
def test_gpus_by_number_however_they_are_written(gpus, asked):
    gpus(4)
    found = choose_devices("auto", asked, 1, 8)
    assert (found.devices, found.global_batch) == ([0, 2], 16)
    gpus(0)
    assert choose_devices("auto", asked, 1, 8).devices == 2  # CPU ranks have no numbers


@pytest.mark.parametrize(("asked", "use"), [("3,", [3]), ([3], [3]), ("2", 2), (-1, 4), ("-1", 4), ("auto", 4)])
def test_devices_in_every_form(gpus, asked, use):
    gpus(4)
    assert choose_devices("auto", asked, 1, 8).devices == use
    gpus(0)
    assert isinstance(choose_devices("auto", asked, 1, 8).devices, int)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("two", "trainer.devices=two: give their number"),
        (None, "trainer.devices=None: give their number"),
        (0, "give at least 1"),
        ([], "give at least 1"),
        ([0, 7], r"trainer.devices=\[0,7\]: give each GPU once; here are 4, numbered from 0"),
        ("1,1", "give each GPU once"),
    ],
)
def test_devices_that_can_not_be_are_named(gpus, asked, message):
    gpus(4)
    with pytest.raises(ValueError, match=message):
        choose_devices("auto", asked, 1, 8)


def test_torchrun_chooses_gpus_itself(gpus, monkeypatch):
    gpus(4)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(ValueError, match=r"give trainer\.devices=2, and choose them with CUDA_VISIBLE_DEVICES=2,3"):
        choose_devices("auto", [2, 3], 1, 8)


def test_under_torchrun_the_ranks_are_those_it_started(gpus, monkeypatch):
    gpus(0)
    for name, value in {
        "TORCHELASTIC_RUN_ID": "x",
        "LOCAL_WORLD_SIZE": "2",
        "WORLD_SIZE": "6",
    }.items():
        monkeypatch.setenv(name, value)
    found = choose_devices("cpu", 4, 1, 16)
    assert (found.devices, found.num_nodes, found.global_batch) == (2, 3, 64)
    assert "torchrun started 2" in found.note


@pytest.fixture
def srun(monkeypatch):
    """Pretends that srun has started this process as one of some tasks."""

    def start(tasks: int, nodes: int, *, step: str | None = "0", name: str = "hct") -> None:
        for variable, value in {
            "SLURM_JOB_ID": "1",
            "SLURM_JOB_NAME": name,
            "SLURM_NTASKS": str(tasks),
            "SLURM_NNODES": str(nodes),
            "SLURM_STEP_ID": step,
        }.items():
            if value is None:
                monkeypatch.delenv(variable, raising=False)
            else:
                monkeypatch.setenv(variable, value)

    return start


def test_under_srun_the_ranks_are_those_it_started(gpus, srun):
    gpus(4)
    srun(8, 2)
    found = choose_devices("auto", 4, 2, 16)
    assert (found.devices, found.num_nodes, found.global_batch) == (4, 2, 128)
    assert found.note is None
    srun(2, 1)
    found = choose_devices("auto", 4, 1, 16)
    assert (found.devices, found.num_nodes, found.global_batch) == (2, 1, 64)
    assert "srun started 1 x 2 ranks, not 1 x 4" in found.note


def test_refuses_what_would_hang_under_slurm(gpus, srun):
    gpus(1)
    srun(4, 1)
    with pytest.raises(ValueError, match=r"each sees 1 GPUs; ask for .*--gres=gpu:4"):
        choose_devices("auto", 4, 1, 16)
    srun(3, 2)
    with pytest.raises(ValueError, match="same number, with --ntasks-per-node"):
        choose_devices("cpu", 2, 2, 16)
    srun(4, 1, step=None)  # in the script of a batch job
    with pytest.raises(ValueError, match="srun python -m hct_lightning"):
        choose_devices("cpu", 4, 1, 16)
    srun(4, 1, step=None, name="interactive")  # in a shell on a node Lightning starts the ranks
    assert choose_devices("cpu", 4, 1, 16).devices == 4


def test_refuses(gpus):
    gpus(0)
    with pytest.raises(ValueError, match=r"trainer\.devices=0"):
        choose_devices("cpu", 0, 1, 16)
    with pytest.raises(ValueError, match="torch sees no GPU"):
        choose_devices("gpu", 1, 1, 16)


def test_memory_and_clocks_of_apples_gpu(monkeypatch):
    """Pretended: no test has run there."""
    waited = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append(True))
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 3 * 2**30)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 4 * 2**30)
    device = torch.device("mps")
    synchronise(device)
    assert waited
    assert peak_memory_gib(device) == 3
    assert 0 < available_bytes(device, 1) <= 2**30


@pytest.mark.parametrize("asked", ["cuda", "gpu"])
def test_a_gpu_that_is_not_there_is_said(gpus, asked):
    gpus(0)
    with pytest.raises(ValueError, match=f"trainer.accelerator={asked}, but torch sees no GPU; use"):
        choose_devices(asked, 1, 1, 16)
