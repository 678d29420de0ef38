"""ONNX Runtime is optional. What it answers: test_runtimes.py."""


def test_a_missing_runtime_is_named(loaded_without):
    last = loaded_without("onnx", "onnxruntime")
    assert "onnxruntime" in last
    assert "pip install 'hct-lightning[deploy]'" in last
