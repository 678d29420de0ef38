"""Overrides as they were recorded."""

import pytest

from hct_lightning.runs.overrides import read_overrides


def test_text_stays_text(tmp_path):
    file = tmp_path / "multirun.yaml"
    file.write_text("hydra: {overrides: ['data.root=${oc.env:HOME}', 'a=1']}\n")
    assert read_overrides(file, "hydra", "overrides") == ["data.root=${oc.env:HOME}", "a=1"]
    file.write_text("")
    assert read_overrides(file) == []


@pytest.mark.parametrize("text", ["[", "a: b", "- 1", "- [x]", "- !!python/object/apply:os.system [x]", "\x00", "- *x"])
def test_a_damaged_file_is_named(tmp_path, text):
    file = tmp_path / "overrides.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"overrides\.yaml is damaged") as refused:
        read_overrides(file)
    assert "\n" not in str(refused.value)
