"""The rooms of docs/design.md: a room imports only rooms below it, and nothing imports in a circle."""

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "hct_lightning"
BESIDE = ("callbacks", "conf", "slurm", "sweeps")  # at the top of the checkout, subpackages of ours once installed

# From the ground up. A room imports what stands on lower floors; a neighbour only where it is named below.
FLOORS = (
    {"machine", "models"},
    {"deploy", "runs"},
    {"cli", "data", "explain", "parallel", "report"},
    {"app", "serving", "slurm", "training"},
    {"benchmarks", "callbacks", "tasks"},
)
NEIGHBOURS = {
    ("cli", "report"),  # a sweep ends with its table and figure
    ("tasks", "callbacks"),
}
# Where a DictConfig may be seen: Hydra gives it to these, everything below takes plain arguments.
CONFIGURED = ("app.py", "cli/", "slurm/", "tasks/")
LONGEST_FUNCTION = 80  # lines

# Modules without a test of their own in tests/<path>/test_<name>.py.
ELSEWHERE = {
    # Started by their command lines: all tests of tests/tasks, of tests/slurm, of a benchmark.
    "__main__",
    "slurm.__main__",
    "benchmarks.harness.__main__",
    # Benchmarks and their sides, which tests/docs run as documented, but small.
    "benchmarks.augment",
    "benchmarks.baselines.litdata_loading",
    "benchmarks.baselines.plain_inference",
    "benchmarks.baselines.plain_reading",
    "benchmarks.data.benchmark",
    "benchmarks.data.files",
    "benchmarks.data.sides",
    "benchmarks.fit_step",
    "benchmarks.inference.fresh",
    "benchmarks.inference.one_image",
    "benchmarks.inference.shapes",
    "benchmarks.inference.side",
    "benchmarks.memory",
    "benchmarks.scaling",
    "benchmarks.step",
    "benchmarks.stragglers",
}


def name_of(file: Path) -> str:
    """The dotted name of a module, without the package's: `data.reading.image`."""
    path = file.relative_to(ROOT).with_suffix("")
    parts = path.parts[1:] if path.parts[0] == PACKAGE else path.parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {
    name_of(file): file
    for folder in (PACKAGE, *BESIDE)
    for file in sorted((ROOT / folder).rglob("*.py"))
    if name_of(file)
}


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of ours that a module imports, anywhere in it but for the sake of types."""
    found = set()
    tree = ast.parse(FILES[module].read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node not in typing_only:
            names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        else:
            continue
        found |= {name.removeprefix(f"{PACKAGE}.") for name in names}
    return frozenset(found & FILES.keys() - {module})


def room(module: str) -> str:
    return module.split(".")[0]


def floor(name: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if name in rooms)


def test_every_room_has_its_floor():
    rooms = {room(module) for module in FILES} - {"__main__", "conf", "sweeps"}
    assert rooms == set.union(*FLOORS)


def test_rooms_import_what_stands_below_them():
    wrong = [
        f"{module} imports {other}"
        for module in FILES
        if module != "__main__"
        for other in sorted(imports(module))
        if (mine := room(module)) != (theirs := room(other))
        and floor(mine) <= floor(theirs)
        and (mine, theirs) not in NEIGHBOURS
    ]
    assert not wrong


def test_no_circle_between_files():
    try:
        TopologicalSorter({module: imports(module) for module in FILES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("outer", ["", *sorted({room(module) for module in FILES if module.count(".") > 1})])
def test_no_circle_between_folders(outer):
    """Of the package itself, and of the folders within a room."""

    def part(module: str) -> str | None:
        inner = module.removeprefix(f"{outer}.") if outer else module
        return inner.split(".")[0] if not outer or inner != module else None

    graph: dict[str, set[str]] = {}
    for module in FILES:
        if mine := part(module):
            graph.setdefault(mine, set()).update({theirs for m in imports(module) if (theirs := part(m))} - {mine})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_task_imports_a_task():
    assert not [m for m in FILES if room(m) == "tasks" and any(room(other) == "tasks" for other in imports(m))]


def test_runs_knows_no_torch():
    for module, file in FILES.items():
        if room(module) == "runs":
            assert not re.search(r"^\s*(import|from) (torch|lightning)\b", file.read_text(), re.MULTILINE), module


def test_no_config_object_below_the_entry_point():
    for file in FILES.values():
        where = file.relative_to(ROOT).as_posix().removeprefix(f"{PACKAGE}/")
        if not where.startswith(CONFIGURED):
            assert "DictConfig" not in file.read_text(), where


def test_no_function_is_long():
    long = [
        f"{module}.{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for module, file in FILES.items()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]
    assert not long


def test_every_module_has_a_test_that_mirrors_it():
    missing = set()
    for module, file in FILES.items():
        *rooms, name = module.split(".")
        mirror = Path(ROOT, "tests", *rooms, f"test_{name}.py")
        if file.name != "__init__.py" and not mirror.exists():
            missing.add(module)
    assert missing == ELSEWHERE


def test_nothing_unpickles_or_evaluates():
    for file in FILES.values():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "pickle.load", "pickle.loads"), file
                if called == "torch.load":
                    assert "weights_only=True" in ast.unparse(node), file
