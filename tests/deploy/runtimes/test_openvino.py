"""OpenVINO is optional, and serving takes little memory. What it answers: test_runtimes.py."""

import json
import subprocess
import sys


def test_a_missing_runtime_is_named(loaded_without):
    last = loaded_without("openvino", "openvino")
    assert "openvino" in last
    assert "pip install 'hct-lightning[deploy]'" in last


def test_serving_imports_nothing_that_only_exporting_needs():
    """Networks, timm and the compiler of PyTorch take 200 MB."""
    code = (
        "import json, sys, hct_lightning.deploy.runtimes.openvino as runtime\n"
        "print(json.dumps([runtime.__name__, *sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = json.loads(done.stdout)
    assert imported[0] == "hct_lightning.deploy.runtimes.openvino"
    assert not {"hct_lightning.models", "timm", "torchvision", "torch._dynamo"} & set(imported)
