"""HCT against the published network's answers, a plain twin, and the conventions of timm."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

from hct_lightning.models import HCT, load_original_state_dict
from hct_lightning.models.original import original_key

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "hct_golden.json").read_text())
OPTIONS = {
    "input_chns": "in_chans",
    "num_classes": "num_classes",
    "num_conv_stages": "conv_stages",
    "first_layer_stride": "first_stride",
}


def options_of(kwargs: dict) -> dict:
    """The original's options in our names."""
    options = {OPTIONS[name]: value for name, value in kwargs.items() if name in OPTIONS}
    if "use_performer_RELU" in kwargs:
        options["kernel"] = "relu" if kwargs["use_performer_RELU"] else "softmax"
    return options


def golden_weight(i: int, key: str, value: torch.Tensor) -> torch.Tensor:
    """The weight of the i-th of the sorted original keys, by the golden file's rules."""
    if key.endswith("num_batches_tracked"):
        return value
    j = np.arange(value.numel(), dtype=np.float64)
    s = np.sin(0.37 * (i + 1) + 0.61 * j + 0.0007 * j * (i % 7))
    if key.endswith("running_var"):
        weight = 1 + 0.5 * s
    elif key.endswith("running_mean") or key.endswith("bias"):
        weight = 0.1 * s
    elif "bn" in key:
        weight = 1 + 0.2 * s
    elif key.endswith("projection_matrix"):
        weight = math.sqrt(2) * s
    else:
        weight = 1.4 * s * math.sqrt(2 / value[0].numel())
    return torch.from_numpy(weight).float().view(value.shape)


def original_state_dict(model: HCT, conv_stages: int) -> dict[str, torch.Tensor]:
    named = {original_key(key, conv_stages): value for key, value in model.state_dict().items()}
    return {key: golden_weight(i, key, named[key]) for i, key in enumerate(sorted(named))}


def golden_input(shape: list[int]) -> torch.Tensor:
    j = np.arange(math.prod(shape), dtype=np.float64)
    return torch.from_numpy(np.sin(0.013 * j + 0.5 * np.sin(0.00031 * j))).float().view(shape)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_golden(case, memory):
    options = options_of(case["kwargs"])
    model = HCT(**options).eval()
    assert sum(p.numel() for p in model.parameters()) == case["params"]
    load_original_state_dict(model, original_state_dict(model, options.get("conv_stages", 3)))
    with torch.no_grad():
        logits = model.to(memory_format=memory)(golden_input(case["input_shape"]))
    torch.testing.assert_close(logits, torch.tensor(case["logits"]), rtol=1e-3, atol=1e-4)


def plain_forward(model: HCT, x: torch.Tensor) -> torch.Tensor:
    """The network in the words of its paper, from the weights alone (eval, no dropout)."""
    w = model.state_dict()

    def bn_relu(t, name):
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(t, mean, var, w[f"{name}.weight"], w[f"{name}.bias"]).relu()

    x = F.max_pool2d(F.conv2d(x, w["stem.conv.weight"], stride=2, padding=3), 3, 2)
    for s, stage in enumerate(model.stages):
        for i in range(len(stage)):
            block = f"stages.{s}.{i}"
            stride = stage[0].shortcut.stride[0] if i == 0 else 1
            y = bn_relu(x, f"{block}.bn1")
            shortcut = F.conv2d(y, w[f"{block}.shortcut.weight"], stride=stride) if i == 0 else x
            if f"{block}.conv1.weight" in w:
                y = F.conv2d(y, w[f"{block}.conv1.weight"], stride=stride, padding=1)
                y = F.conv2d(bn_relu(y, f"{block}.bn2"), w[f"{block}.conv2.weight"], padding=1)
            else:
                tokens = y.flatten(2).transpose(1, 2)
                b, n, c = tokens.shape
                q, k, v = (
                    F.linear(tokens, w[f"{block}.attn.{p}.weight"], w[f"{block}.attn.{p}.bias"])
                    .view(b, n, 8, c // 8)
                    .transpose(1, 2)
                    for p in "qkv"
                )
                p = w[f"{block}.attn.projection"] * (c // 8) ** -0.25
                if model.stages[s][i].attn.kernel == "relu":
                    q, k = (q @ p.T).relu() + 1e-3, (k @ p.T).relu() + 1e-3
                else:

                    def phi(t, dims, p=p, c=c):
                        t, norm = t @ p.T, t.square().sum(-1, keepdim=True) / 2 / (c // 8) ** 0.5
                        return torch.exp(t - norm - t.amax(dims, keepdim=True)) + 1e-4

                    q, k = phi(q, (-1,)), phi(k, (-1, -2))
                attention = q @ k.transpose(-1, -2)
                y = (attention / attention.sum(-1, keepdim=True)) @ v
                y = y.transpose(1, 2).reshape(b, n, c)
                y = F.linear(y, w[f"{block}.attn.proj.weight"], w[f"{block}.attn.proj.bias"])
                y = y.transpose(1, 2).view(x.shape) + x
                y = F.conv2d(bn_relu(y, f"{block}.bn2"), w[f"{block}.conv.weight"], stride=stride, padding=1)
            x = shortcut + y
    return F.linear(bn_relu(x, "norm").mean((2, 3)), w["head.weight"], w["head.bias"])


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (1, 3, 128, 128)),
        ({}, (2, 3, 259, 387)),
        ({"kernel": "softmax"}, (2, 3, 301, 193)),
        ({"conv_stages": 2, "in_chans": 1, "num_classes": 2}, (1, 1, 331, 259)),
        ({"conv_stages": 4, "in_chans": 5}, (1, 5, 200, 300)),
        ({"conv_stages": 5, "blocks": (1, 2, 3, 1, 1)}, (2, 3, 129, 257)),
        ({"first_stride": 1, "blocks": (1, 1, 1, 3, 1)}, (1, 3, 150, 131)),
    ],
)
def test_equals_the_plain_twin(options, shape):
    torch.manual_seed(0)
    model = HCT(**options)
    model(torch.randn(2, *shape[1:]) + 0.3)  # running statistics that are not 0 and 1
    model.eval().to(memory_format=torch.channels_last)
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain_forward(model, x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("conv_stages", [2, 3, 5])
def test_every_parameter_gets_a_gradient(conv_stages):
    model = HCT(conv_stages=conv_stages)
    model(torch.randn(2, 3, 160, 192)).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # The bias of k shifts every key alike; it does get a gradient with the ReLU kernel.
    assert not without


def test_timm_conventions():
    model = timm.create_model("hct", num_classes=7, in_chans=1, kernel="softmax").eval()
    x = torch.randn(2, 1, 256, 384)
    assert model(x).shape == (2, 7)
    assert model.forward_features(x).shape == (2, 256, 2, 3)
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, 256)
    assert model.get_classifier().out_features == 7
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    assert model.num_classes == 3
    model.reset_classifier(0, global_pool="")
    assert model(x).shape == (2, 256, 2, 3)
    assert timm.create_model("hct", num_classes=0)(torch.randn(2, 3, 128, 128)).shape == (2, 256)


def test_features_only_with_right_feature_info():
    model = timm.create_model("hct", features_only=True, first_stride=1)
    size = 512
    features = model(torch.randn(1, 3, size, size))
    assert [f.shape[1] for f in features] == model.feature_info.channels()
    for feature, reduction in zip(features, model.feature_info.reduction(), strict=True):
        assert abs(feature.shape[-1] - size / reduction) <= 1
    two = timm.create_model("hct", features_only=True, out_indices=(1, 3))
    assert [f.shape[1] for f in two(torch.randn(1, 3, 256, 256))] == [32, 128]


def test_gradient_checkpointing_changes_neither_gradients_nor_buffers():
    x = torch.randn(2, 3, 160, 160)
    results = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = HCT(drop_rate=0.1, drop_path_rate=0.1)
        model.set_grad_checkpointing(enable)
        torch.manual_seed(1)
        model(x).square().sum().backward()
        results.append({n: p.grad for n, p in model.named_parameters()} | dict(model.named_buffers()))
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_channels_last_from_end_to_end():
    """Every map in the network keeps the layout: no copy is needed on the way."""
    model = HCT().to(memory_format=torch.channels_last)
    wrong = []

    def check(module, _, out):
        if out.ndim == 4 and not out.is_contiguous(memory_format=torch.channels_last):
            wrong.append(module)

    for module in model.modules():
        module.register_forward_hook(check)
    model(torch.randn(2, 3, 256, 256).to(memory_format=torch.channels_last))
    assert not wrong


@pytest.mark.slow
def test_exports_with_open_size():
    model = HCT().eval()
    side = {axis: 32 * torch.export.Dim(f"side{axis}", min=4, max=128) for axis in (2, 3)}
    program = torch.export.export(model, (torch.randn(1, 3, 256, 320),), dynamic_shapes=({0: None, 1: None, **side},))
    x = torch.randn(1, 3, 416, 288)
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


def test_one_module_for_each_place_so_that_quantizers_can_match_them():
    model = HCT()
    calls = []
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, *_: calls.append(m))
    model(torch.randn(2, 3, 128, 128))
    assert len(calls) == len(set(calls))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conv_stages": 1}, "conv_stages=1"),
        ({"conv_stages": 6}, "conv_stages=6"),
        ({"blocks": (2, 2, 2)}, "five counts"),
        ({"blocks": (2, 2, 0, 2, 2)}, "five counts"),
        ({"first_stride": 3}, "first_stride=3"),
        ({"drop_path_rate": 1.0}, "drop_path_rate=1.0"),
        ({"drop_path_rate": -0.1}, "drop_path_rate=-0.1"),
        ({"kernel": "cosine"}, "'cosine'"),
    ],
)
def test_refuses_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        HCT(**options)


def test_refuses_images_that_are_too_small():
    with pytest.raises(ValueError, match="127x300"):
        HCT()(torch.randn(1, 3, 127, 300))
