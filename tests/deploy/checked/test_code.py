"""The program of a TorchScript archive is one of known operators; the list of them is what networks need."""

import os
import re
import zipfile
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from deploy.checked.strangers import SOURCE

from hct_lightning.deploy.checked import code
from hct_lightning.deploy.checked.archive import known_parts
from hct_lightning.deploy.int8.layers import has_vnni_for_eager
from hct_lightning.deploy.int8.torchscript import export_dynamic, export_static
from hct_lightning.deploy.runtimes import torchscript
from hct_lightning.models import HCT, FromPixels

# Those of conf/model, which are exported to int8 too, and others that are common, at sizes that they take.
OURS = {"hct": HCT, "hct_softmax": partial(HCT, kernel="softmax"), "hct_cnn": partial(HCT, conv_stages=5)} | {
    name: partial(timm.create_model, name)
    for name in ("resnet18", "mobilenetv4_conv_small", "convnext_atto", "efficientvit_b0")
}
OTHERS = {
    **dict.fromkeys(("resnet50", "densenet121", "regnety_002", "efficientnet_b0", "edgenext_xx_small"), 192),
    **dict.fromkeys(("convnextv2_atto", "test_convnext", "mobilenetv3_small_050", "mobilevit_xxs"), 192),
    **dict.fromkeys(("poolformer_s12", "res2net50_26w_4s"), 192),
    **dict.fromkeys(("vit_tiny_patch16_224", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224"), 224),
    **dict.fromkeys(("levit_128s", "mixer_s32_224"), 224),
    "maxvit_pico_rw_256": 256,
}
LIST = Path(code.__file__).with_name("operators.txt")
HEADER = """# Operators, and names of their arguments, in the artifacts of common networks: those of test_code.py,
# which makes this list anew and compares. Made by `HCT_OPERATORS=write pytest -m slow tests/deploy/checked/test_code.py`.
"""


def needs(network: torch.nn.Module, size: int, place: Path, *, int8: bool) -> set[str]:
    """The operators of the artifacts of a network."""
    network = FromPixels(network, [0.5] * 3, [0.25] * 3).eval()
    example = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    exporters = [torchscript.export]
    if int8:
        static = partial(export_static, calibration=[example])
        exporters += [export_dynamic, *(partial(static, percent=percent) for percent in (50, 100))]
    found = set()
    for export in exporters:
        for dynamic in (False, True):
            export(network, example, place, dynamic=dynamic)
            if os.environ.get("HCT_OPERATORS") != "write":
                known_parts(place / torchscript.FILE)
            source = source_of(place / torchscript.FILE).split(") -> Tensor:")[1]
            found |= set(re.findall(r"([\w.]+)\(", source))
            found |= {f"{name}=" for name in re.findall(r"(\w+)=", source)}
    return found


def source_of(file: Path) -> str:
    with zipfile.ZipFile(file) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".py") and archive.getinfo(name).file_size)
        return archive.read(name).decode()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_the_list_is_what_networks_need(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    found = set()
    for build in OURS.values():
        found |= needs(build(), 192, tmp_path, int8=True)
    for name, size in OTHERS.items():
        found |= needs(timm.create_model(name), size, tmp_path, int8=False)
    if os.environ.get("HCT_OPERATORS") == "write":
        LIST.write_text(HEADER + "".join(f"{name}\n" for name in sorted(found)))
        return
    assert found <= code.OPERATORS, "networks need more"
    assert found == code.OPERATORS or not has_vnni_for_eager(), "no network needs the others"


def check(*lines: str) -> None:
    code.checked(SOURCE.format("\n".join(f"    {line}" for line in lines)), "__torch__.m")


def test_a_network_is_taken():
    check(
        'y = torch.to(torch.div(x, CONSTANTS.c0, "floor"), 6)',
        "a, b, = torch.unbind(torch.slice(y, 1, 0, -1))",
        "_0 = [torch.size(a, 0), int(torch.mul(a, -2.5e-05)), inf]",
        "return torch._convolution(torch.contiguous(b, memory_format=2), CONSTANTS.c0, None, [1, 1], True)",
    )


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("y = torch.save(x, x)", "torch.save"),
        ("y = torch.from_file(x)", "torch.from_file"),
        ("y = torch._assert_async(x)", "torch._assert_async"),
        ("y = torch._unsafe_view(x, [1])", "torch._unsafe_view"),
        ("y = torch.as_strided(x, [9], [1], 0)", "torch.as_strided"),
        ("y = torch.set_(x, x)", "torch.set_"),
        ("y = torch.resize_(x, [9])", "torch.resize_"),
        ("y = torch.empty([9])", "torch.empty"),
        ("y = torch.sparse_coo_tensor(x, x, [10])", "torch.sparse_coo_tensor"),
        ("y = torch.indices(x)", "torch.indices"),
        ("y = torch.crow_indices(x)", "torch.crow_indices"),
        ("y = torch.add(x, x, out=x)", "out"),
        ("y = ops.inductor._reinterpret_tensor(x, [1000], [1], 0)", "ops.inductor._reinterpret_tensor"),
        ("y = ops.torchvision.read_file(x)", "ops.torchvision.read_file"),
        ("y = ops.aten.save(x, x)", "ops.aten.save"),
        ("y = ops.prims.abs(x)", "ops.prims.abs"),
        ("y = ops.quantized.conv2d_prepack(x)", "ops.quantized.conv2d_prepack"),
        ("y = fork(x)", "fork"),
        ("y = print(x)", "print"),
        ("y = getattr(x, x)", "getattr"),
        ("y = uninitialized(Tensor)", "uninitialized"),
        ("y = unchecked_cast(Tensor, x)", "unchecked_cast"),
        ("y = __torch__.torch.classes.aoti.Loader(x)", "__torch__.torch.classes.aoti.Loader"),
        ("y = x.save(x)", "x.save"),
        ("y = self.forward(x)", "self.forward"),
        ("y = ops", "ops"),
        ("y = torch", "torch"),
        ("y = torch.relu", "torch.relu"),
        ("y = z", "z"),
        ("return self", "self"),
    ],
)
def test_what_is_not_on_the_list_is_named(line, named):
    with pytest.raises(ValueError, match=f"^its program names {re.escape(named)}, which no known network needs$"):
        check(line)


@pytest.mark.parametrize(
    "line",
    [
        "y = x . save(x)",
        "y = torch . save(x)",
        "y = torch.relu (x)",
        "y = torch.\\\nsave(x)",
        "y = (torch.relu(x)).save(x)",
        "y = [x][0]",
        "y = x[0]",
        "y = [x](x)",
        "y = torch.relu(x)(x)",
        "y = torch.relu(x) if x else x",
        "y = x; torch.save(x, x)",
        "y = x  # type: ignore",
        "y = -x",
        "y = x + x",
        "y = lambda: x",
        'y = "\\163ave"',
        'y = "\x1b]0;title"',
        'y = "a" "b"',
        "y = '''a'''",
        'y = f"{x}"',
        "y = 1_0",
        "y = 0x10",
        "y = 1.relu(x)",
        "y = é",
        "y = torch.relu(x",
        "y = torch.relu(x))",
        "y = " + "[" * 60 + "]" * 60,
        "torch.relu(x)",
        "x[0] = x",
        "y += x",
        "y: Tensor = x",
        "for y in x:\n      pass",
        "while True:\n      pass",
        "if x:\n      pass",
        "import os",
        "\ty = x",
        "",
        "torch = x",
        "int = x",
        "None = x",
        "x, ops, = torch.unbind(x)",
    ],
)
def test_what_is_no_call_is_refused(line):
    with pytest.raises(ValueError, match=r"^its program "):
        check(line)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Module", "Interface"),
        ("Module", "NamedTuple"),
        ("__buffers__ = []", "__buffers__ = []\n  a : __torch__.torch.classes.aoti.Loader"),
        ("__torch__.m.P", "__torch__.torch.classes.aoti.Loader"),
        ("forward", "__setstate__"),
        ("x: Tensor", "x: Any"),
        ("class P", "import __torch__.n\nclass P"),
        ("class P", "op_version_set = 0\nclass P"),
    ],
)
def test_another_class_than_a_networks_is_refused(old, new):
    source = SOURCE.format("    return x")
    code.checked(source, "__torch__.m")
    with pytest.raises(ValueError, match="is no network that was traced and frozen"):
        code.checked(source.replace(old, new, 1), "__torch__.m")


@pytest.mark.parametrize(
    "more",
    [
        "  def __setstate__(self: __torch__.m.P,\n    x: Tensor) -> Tensor:\n    return x\n",
        SOURCE.format("    return x"),
    ],
    ids=["method", "class"],
)
def test_a_second_method_or_class_is_refused(more):
    with pytest.raises(ValueError, match="has a line that is no call"):
        code.checked(SOURCE.format("    return x") + more, "__torch__.m")


def test_attention_is_told_that_its_parts_fit():
    """torch itself reads keys behind their end where there are more values."""
    line = "y = torch.scaled_dot_product_attention(x, x, x)"
    _, source = code.checked(SOURCE.format(f"    {line}\n    return y"), "__torch__.m")
    assert "torch.expand(x, [torch.size(x, 0), torch.size(x, 1), torch.size(x, 2), -1])" in source
    _, source = code.checked(
        SOURCE.format(f"    {line.replace('x)', 'x, CONSTANTS.c0)')}\n    return y"), "__torch__.m"
    )
    assert (
        "torch.expand(CONSTANTS.c0, [torch.size(x, 0), torch.size(x, 1), torch.size(x, 2), torch.size(x, 2)])" in source
    )
    for other in ("(x, x, x, torch.relu(x))", "(x, torch.relu(x), x)", "(x, x, x, None, 0., False)"):
        with pytest.raises(
            ValueError, match=r"torch\.scaled_dot_product_attention of other values than known networks"
        ):
            check(f"return torch.scaled_dot_product_attention{other}")


def test_a_program_is_not_so_long_that_torch_fails_on_it():
    """It takes a call in a call for operators in a row, and by far more time than they are for long lists."""
    check(*["x = torch.relu(x)"] * 3998, "return x")
    with pytest.raises(ValueError, match="its program has more than 4000 operators"):
        check(*["x = torch.relu(x)"] * 4000, "return x")
    with pytest.raises(ValueError, match="its program has a line of more than 2000 words"):
        check(f"return torch.cat([{'x, ' * 1000}x], 0)")
