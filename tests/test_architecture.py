"""Imports follow the picture in the README: information flows one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# package -> what of ours it may import
MAY_IMPORT = {
    "hct_lightning/models": {"models"},
    "hct_lightning/data": {"console", "data", "run", "runtime", "signals"},
    "hct_lightning/deploy": {"deploy", "models", "runtime"},
    "callbacks": {
        "callbacks",
        "deploy",
        "network",
        "runtime",
        "data.geometry",
        "high_water",
        "run",
        "signals",
    },
}


def imports(file: Path) -> set[str]:
    """The modules of ours that a file imports, without the package's name."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {
                f"{node.module}.{alias.name}"
                for alias in node.names
                if node.module == "hct_lightning"
            }
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {n.removeprefix("hct_lightning.") for n in names if n.startswith("hct_lightning.")}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows(package):
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in (ROOT / package).rglob("*.py")
        for name in imports(file)
        if not any(name == ok or name.startswith(ok + ".") for ok in MAY_IMPORT[package])
    ]
    assert not wrong


def test_no_config_object_below_the_entry_point():
    allowed = {"app.py", "sweep.py", "training.py"}
    for file in (ROOT / "hct_lightning").rglob("*.py"):
        if file.parent.name != "tasks" and file.name not in allowed:
            assert "DictConfig" not in file.read_text(), file


def test_nothing_unpickles_or_evaluates():
    for file in [*(ROOT / "hct_lightning").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "pickle.load", "pickle.loads"), file
                if called == "torch.load":
                    assert "weights_only=True" in ast.unparse(node), file
