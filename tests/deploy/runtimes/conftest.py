"""What the tests of several runtimes do alike."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def loaded_without(folder, tmp_path) -> Callable[[str, str], str]:
    """Loads an artifact of a runtime where a package is missing: the last line of what is said.

    Its model file is another one's: the runtime is asked for before any file is looked into.
    """

    def load(runtime: str, package: str) -> str:
        artifact = shutil.copytree(folder, tmp_path / runtime)
        description = json.loads((artifact / "artifact.json").read_text())
        (artifact / "artifact.json").write_text(json.dumps(description | {"runtime": runtime}))
        code = (
            "import sys; from hct_lightning import load_artifact\n"
            f"sys.modules[{package!r}] = None\n"  # how Python marks what can't be imported
            "load_artifact(sys.argv[1])"
        )
        done = subprocess.run([sys.executable, "-c", code, artifact], capture_output=True, text=True)
        assert done.returncode == 1
        return done.stderr.splitlines()[-1]

    return load
