"""A stranger's TorchScript archive is written anew from what is known, before torch sees it."""

import io
import zipfile

import pytest
import torch
from deploy.checked.strangers import constants, memory, tensor, write

from hct_lightning.deploy.checked.archive import known_parts

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated")

LARGE = tensor(memory(items=10**5), 0, (10**5,), (1,))


def load(archive) -> torch.jit.ScriptModule:
    return torch.jit.load(archive)


def changed(file, rename=lambda name: name, **compress):
    """The same archive with other names in it."""
    out = file.with_name("evil.ts")
    with zipfile.ZipFile(file) as before, zipfile.ZipFile(out, "w", **compress) as evil:
        for name in before.namelist():
            evil.writestr(rename(name), before.read(name))
    return out


def test_a_network_runs(tmp_path):
    file = write(tmp_path / "model.ts", "y = torch.add(x, CONSTANTS.c0)", "return torch.relu(y)")
    assert load(known_parts(file))(torch.arange(4) - 2).tolist() == [0, 0, 0, 1]


def test_what_is_in_it_is_what_was_looked_at(tmp_path):
    """Where the program came from is left out: torch would read it when an operator fails."""
    parts = {"code/__torch__/m.py.debug_pkl": b"anything", "code/__torch__/torch/classes/quantized.py": b""}
    found = zipfile.ZipFile(known_parts(write(tmp_path / "model.ts", "return x", parts=parts))).namelist()
    assert {name.partition("/")[2] for name in found} == {
        "data.pkl",
        "constants.pkl",
        "constants/0",
        "constants/1",
        "code/__torch__/m.py",
        "code/__torch__/torch/classes/quantized.py",
        "byteorder",
        "version",
        ".data/serialization_id",
    }


def test_it_keeps_its_version(tmp_path):
    """By which torch knows what an operator meant when the archive was written."""
    module = torch.jit.freeze(torch.jit.trace(torch.nn.GELU().eval(), torch.ones(1)))
    file = tmp_path / "model.ts"
    torch.jit.save(module, file)
    reader = torch._C.PyTorchFileReader(io.BytesIO(known_parts(file).getvalue()))
    assert reader.get_record(".data/version") == torch._C.PyTorchFileReader(str(file)).get_record(".data/version")


def test_memory_that_is_not_there_is_not_read(tmp_path):
    file = write(tmp_path / "model.ts", "return CONSTANTS.c0", parts={"constants.pkl": constants(LARGE)})
    assert load(str(file))(torch.ones(1)).shape == (10**5,), "torch itself reads on behind it"
    with pytest.raises(ValueError, match=r"model\.ts is refused: a tensor of it is said to have 100000 numbers"):
        known_parts(file)


@pytest.mark.parametrize("keys", [3, 2])
def test_attention_reads_no_keys_that_are_not_there(tmp_path, keys):
    """With fewer keys than values torch itself reads on behind them."""
    file = write(
        tmp_path / "model.ts",
        f"k = torch.slice(x, 2, 0, {keys})",
        "return torch.scaled_dot_product_attention(x, k, x)",
    )
    run, x = load(known_parts(file)), torch.rand(2, 2, 3, 4)
    if keys == 3:
        assert run(x).equal(torch.nn.functional.scaled_dot_product_attention(x, x, x))
    else:
        with pytest.raises(
            RuntimeError, match=r"The expanded size of the tensor \(2\) must match the existing size \(3\)"
        ):
            run(x)


@pytest.mark.parametrize("line", ["y = torch.save(x, '{0}')", "x = torch.from_file('{0}', True, 4)"])
def test_files_are_not_touched(tmp_path, line):
    canary = tmp_path / "canary"
    file = write(tmp_path / "model.ts", line.format(canary).replace("'", '"'), "return x")
    load(str(file))(torch.ones(4))
    assert canary.exists(), "torch itself would run it"
    with pytest.raises(ValueError, match=r"model\.ts is refused: its program names torch\..*; export it again here"):
        known_parts(file)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"code/__torch__/n.py": b"import os"}, "it has more than one program"),
        ({"code/__torch__/m.py": None}, "no network that was traced"),
        ({"code/__torch__/m.py": b""}, "no network that was traced"),
        ({"code/__torch__/m.py": b"\xff"}, "letters that no network needs"),
        ({"code/__torch__/m.py": b"#" * (2**22 + 1)}, "its code/__torch__/m.py has 4194305 bytes"),
        ({"code/__torch__/constants/m.PY": b"x"}, "its part 'code/__torch__/constants/m.PY' is none"),
        ({"CODE/__torch__/n.py": b"x"}, "its part 'CODE/__torch__/n.py' is none"),
        ({"Constants.pkl": b"x"}, "its part 'Constants.pkl' is none"),
        ({"model.json": b"{}"}, "its part 'model.json' is none"),
        ({"attributes.pkl": b"x"}, "its part 'attributes.pkl' is none"),
        ({"extra/x": b"x"}, "its part 'extra/x' is none"),
        ({"data/0": bytes(16)}, "its part 'data/0' is none"),
        ({"constants/a": bytes(16)}, "its part 'constants/a' is none"),
        ({"data.pkl": b"\x80\x02c__torch__.torch.classes.aoti\nLoader\nq\0)\x81}(ubq\1."}, "holds other values"),
        ({"data.pkl": b"\x80\x02c__torch__.m\nP\nq\0)\x81}(X\1\0\0\0aK\1ubq\1."}, "holds other values"),
        ({"data.pkl": None}, "holds other values"),
        ({"constants.pkl": None}, "its constants are of another form"),
    ],
)
def test_other_parts_than_a_networks_are_refused(tmp_path, parts, reason):
    file = write(tmp_path / "model.ts", "return x", parts=parts)
    with pytest.raises(ValueError, match=rf"model\.ts is refused: .*{reason}"):
        known_parts(file)


@pytest.mark.parametrize("spelled", [(".py", ".PY"), ("code/", "CODE/")])
def test_a_part_is_called_as_torch_calls_it(tmp_path, spelled):
    """Its reader does not mind the case."""
    file = changed(write(tmp_path / "model.ts", "return x"), lambda name: name.replace(*spelled))
    assert load(str(file))(torch.ones(1)) == 1, "it can be loaded at all"
    with pytest.raises(ValueError, match=r"evil\.ts is refused: its part .* is none"):
        known_parts(file)


@pytest.mark.parametrize(
    ("name", "content"), [("byteorder", b"big"), ("version", b"x"), ("version", b"9" * 99), ("version", None)]
)
def test_another_order_of_bytes_or_version_is_refused(tmp_path, name, content):
    file, out = write(tmp_path / "model.ts", "return x"), tmp_path / "evil.ts"
    with zipfile.ZipFile(file) as before, zipfile.ZipFile(out, "w") as evil:
        for part in before.namelist():
            given = content if part.endswith(f"/{name}") else before.read(part)
            if given is not None:
                evil.writestr(part, given)
    with pytest.raises(ValueError, match=r"evil\.ts is (refused|no TorchScript archive): "):
        known_parts(out)


def test_what_would_fill_the_memory_is_refused(tmp_path):
    file = write(tmp_path / "model.ts", "return x", parts={"constants/2": bytes(2**25)})
    with pytest.raises(ValueError, match=r"evil\.ts is no TorchScript archive: its parts are said to have"):
        known_parts(changed(file, compression=zipfile.ZIP_DEFLATED))


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "model.ts").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"model\.ts is no TorchScript archive"):
        known_parts(tmp_path / "model.ts")
