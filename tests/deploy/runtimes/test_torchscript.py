"""TorchScript takes any batch, and any size where it is left open; int8 of another CPU is warned of."""

import json
import shutil

import pytest
import torch

from hct_lightning.deploy import export_artifact, load_artifact
from hct_lightning.deploy.int8.torchscript import export_dynamic


def images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(1, 3, 128, 128), (2, 3, 192, 256), (3, 3, 333, 259)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_same_probabilities_as_eager_at_other_sizes_and_batches(network, open_folder, shape, memory):
    x = images(*shape).contiguous(memory_format=memory)
    with torch.inference_mode():
        expected = network(x).softmax(dim=1)
    torch.testing.assert_close(load_artifact(open_folder)(x), expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def int8_folders(int8_folder, network, about, tmp_path_factory):
    dynamic = export_artifact("dynamic", export_dynamic, network, tmp_path_factory.mktemp("dynamic"), **about)
    return {"static": int8_folder, "dynamic": dynamic}


@pytest.mark.parametrize(
    ("layers", "made_on", "here", "warned"),
    [
        ("static", "AVX512 avx512_vl avx512_vnni", {"avx2": True}, True),
        ("static", "AVX512 avx512_vl avx512_vnni", {"avx512_vnni": True}, False),
        ("static", "AVX2", {"avx2": True}, False),
        ("dynamic", "AVX512 avx512_vl avx512_vnni", {"avx2": True}, False),
    ],
)
def test_int8_of_a_cpu_with_vnni_is_warned_of_elsewhere(
    int8_folders, tmp_path, monkeypatch, caplog, layers, made_on, here, warned
):
    """PyTorch packs it again for what it finds, and there its sums saturate."""
    other = shutil.copytree(int8_folders[layers], tmp_path / "other")
    description = json.loads((other / "artifact.json").read_text())
    (other / "artifact.json").write_text(json.dumps(description | {"instruction_set": made_on}))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: here)
    load_artifact(other)
    said = "was made on a CPU with avx512_vnni, which this one has not: sums of its int8 layers may saturate"
    assert (said in caplog.text) == warned
