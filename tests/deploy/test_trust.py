"""Model files that are programs: none that could do more than compute is run, unless it is trusted."""

import json
import shutil
import warnings
import zipfile

import pytest
import torch

from hct_lightning.deploy import load_artifact, trust
from hct_lightning.deploy.artifact import digest
from hct_lightning.deploy.runtimes import torchscript

HARMLESS = "def forward(self, x: Tensor) -> Tensor:\n    return x.float()\n"
WRITES = "def forward(self, x: Tensor) -> Tensor:\n    torch.save(x, '{0}')\n    return x.float()\n"
MAPS = "def forward(self, x: Tensor) -> Tensor:\n    return torch.from_file('{0}', True, 4)\n"


def archive(path, source: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        module = type(f"Program{abs(hash(source))}", (torch.jit.ScriptModule,), {})()
        module.define(source)
        module.save(str(path))
    return path


@pytest.mark.parametrize("source", [WRITES, MAPS])
def test_torchscript_that_touches_files_is_refused_before_it_runs(tmp_path, source):
    canary = tmp_path / "canary"
    file = archive(tmp_path / "model.ts", source.format(canary))
    with pytest.raises(ValueError, match=r"model\.ts is refused"):
        torchscript.read(file)
    assert not canary.exists()


def test_torchscript_that_loads_machine_code_is_refused(tmp_path):
    """libtorch registers a class that opens a shared library."""
    file = archive(tmp_path / "model.ts", HARMLESS)
    assert torchscript.read(file)(torch.ones(1)) == 1
    with pytest.raises(ValueError, match="objects of C"):
        torchscript.read(naming(file, b"__torch__.torch.classes.aoti"))


@pytest.mark.parametrize(
    "line",
    [
        "torch._assert_async(x)",
        "torch._unsafe_view(x, [1])",
        "x . _unsafe_index([None])",
        "ops.inductor._reinterpret_tensor(x, [1000], [1], 0)",
        "ops.torchvision.read_file('/etc/passwd')",
        "ops . image . decode_gif(x)",
        "torch.sparse_coo_tensor(i, v, [10])",
        "torch.fill_(torch.indices(s), 55)",
        "torch.crow_indices(s)",
        "print(x)",
        "y = '\x1b]0;title'",
        "o = ops; o.prims.abs(x)",
        "ops\\\n.prims.abs(x)",
        'getattr(ops, "prims").abs(x)',
        'getattr(torch, "sa" "ve")(x, "canary")',
        'y = "\\163ave"',
    ],
)
def test_torchscript_that_calls_what_is_not_meant_to_be_called_is_refused(tmp_path, line):
    file = naming(archive(tmp_path / "model.ts", HARMLESS), line.encode())
    with pytest.raises(ValueError, match=r"evil\.ts is refused: its program names .*, which no network needs"):
        torchscript.read(file)


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("spelled", [(".py", ".PY"), ("code/", "CODE/")])
def test_a_program_is_one_however_its_file_is_spelled(tmp_path, spelled):
    """The reader of archives does not mind the case."""
    (tmp_path / "secret").write_bytes(b"1234" * 4)
    file = archive(tmp_path / "model.ts", MAPS.format(tmp_path / "secret"))
    with zipfile.ZipFile(file) as before, zipfile.ZipFile(tmp_path / "evil.ts", "w") as evil:
        for name in before.namelist():
            evil.writestr(name.replace(*spelled), before.read(name))
    assert torch.jit.load(tmp_path / "evil.ts")(torch.ones(1)).numel() == 4, "it can be loaded at all"
    with pytest.raises(ValueError, match="its program names from_file"):
        torchscript.read(tmp_path / "evil.ts")


def test_a_program_in_a_folder_named_for_constants_is_looked_at(tmp_path):
    file = archive(tmp_path / "model.ts", MAPS.format(tmp_path / "secret"))
    with zipfile.ZipFile(file) as before, zipfile.ZipFile(tmp_path / "evil.ts", "w") as evil:
        for name in before.namelist():
            evil.writestr(name.replace("code/__torch__", "code/__torch__/constants/x"), before.read(name))
    with pytest.raises(ValueError, match="its program names from_file"):
        torchscript.read(tmp_path / "evil.ts")


def test_two_parts_of_the_same_name_are_refused(tmp_path):
    """Which of them is read depends on who reads."""
    file = archive(tmp_path / "model.ts", HARMLESS)
    with zipfile.ZipFile(file, "a") as evil:
        (name,) = (name for name in evil.namelist() if name.endswith(".py"))
        evil.writestr(name.removesuffix(".py") + ".Py", b"x")
    with pytest.raises(ValueError, match="two of its parts have the same name"):
        torchscript.read(file)


def naming(file, name: bytes):
    """The archive with a line more in its program, written as torch writes it."""
    reader = torch._C.PyTorchFileReader(str(file))
    out = file.with_name("evil.ts")
    writer = torch._C.PyTorchFileWriter(str(out))
    for record in reader.get_all_records():
        content = reader.get_record(record)
        if record.endswith(".py"):
            content += b"\n# " + name
        if record not in (".data/version", "byteorder", ".data/serialization_id", "version"):
            writer.write_record(record, content, len(content))
    writer.write_end_of_file()
    return out


def test_machine_code_has_to_be_ones_own_or_trusted(folder, tmp_path, monkeypatch):
    """What is no package stands for one: whether it is run is decided before it is opened."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    other = shutil.copytree(folder, tmp_path / "other")
    description = json.loads((other / "artifact.json").read_text())
    (other / "artifact.json").write_text(json.dumps(description | {"runtime": "aoti"}))
    with pytest.raises(ValueError, match=r"model\.ts is machine code that you have not compiled here"):
        load_artifact(other)
    with pytest.raises(ValueError, match="can't be loaded"):
        load_artifact(other, trust=True)
    trust.remember(digest(other / "model.ts"))
    with pytest.raises(ValueError, match="can't be loaded"):
        load_artifact(other)


def test_what_would_fill_the_memory_is_refused(tmp_path):
    file = tmp_path / "a.ckpt"
    torch.save({"x": torch.zeros(1000)}, file)
    trust.refuse_inflated(file)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/1", bytes(10**6))
    with pytest.raises(zipfile.BadZipFile, match=r"its parts are said to have 100\d{4} bytes, it has \d{4}$"):
        trust.refuse_inflated(file)
    trust.refuse_inflated(file, compressed=10**6)
