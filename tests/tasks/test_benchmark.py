"""What a benchmark measured is shown, kept and given to programs. The benchmarks: tests/benchmarks."""

import json

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from hct_lightning.tasks.benchmark import main


@pytest.fixture
def cfg() -> DictConfig:
    with initialize_config_module("hct_lightning.conf", version_base="1.3"):
        return compose("config", overrides=["task=benchmark"])


def test_table_file_and_a_last_line_for_programs(cfg, tmp_path, capsys):
    rows = [{"side": "plain", "s": 2.0, "mb": None}, {"side": "ours", "s": 0.123456, "mb": 7}]
    measured = {"title": "A step", "ratios": {"speedup": 16.2000001}, "rows": rows}
    measured["data"] = {"root": "https://me:long-word@host/a"}
    cfg.benchmark = OmegaConf.create({"_target_": "builtins.dict"} | measured)
    main(cfg, tmp_path)
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[-1]) == {"speedup": 16.2}
    assert "A step" in out
    assert "0.1235" in out
    written = json.loads((tmp_path / "benchmark" / "benchmark.json").read_text())
    assert written["rows"] == rows
    assert written["ratios"] == measured["ratios"]
    assert written["options"]["title"] == "A step"
    assert written["machine"]
    assert "long-word" not in json.dumps(written)


def test_it_has_to_be_said_which(cfg, tmp_path):
    with pytest.raises(ValueError, match="say which: task=benchmark benchmark=step"):
        main(cfg, tmp_path)
