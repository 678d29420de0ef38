"""OpenVINO is optional. What it answers: test_runtimes.py."""


def test_a_missing_runtime_is_named(loaded_without):
    last = loaded_without("openvino", "openvino")
    assert "openvino" in last
    assert "pip install 'hct-lightning[deploy]'" in last
