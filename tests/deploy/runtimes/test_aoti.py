"""AOTInductor's code is for one machine and one version."""

import json
import shutil

import pytest

from hct_lightning import load_artifact


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("instruction_set", "AVX512 amx_tile", "was compiled for 'AVX512 amx_tile', this machine"),
        ("versions", {"torch": "2.0.0"}, "was compiled with torch 2.0.0, this is"),
    ],
)
def test_another_machines_code_is_refused(folder, tmp_path, field, value, message):
    """Refused by its description, before anything of the package is run."""
    package = shutil.copytree(folder, tmp_path / "aoti")
    description = json.loads((package / "artifact.json").read_text())
    description |= {"runtime": "aoti", field: value}
    (package / "artifact.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=message):
        load_artifact(package, trust=True)
