from omegaconf import OmegaConf

from hct_lightning.cli.plain import plain


def test_interpolations_are_resolved_and_containers_are_pythons():
    cfg = OmegaConf.create({"size": 3, "group": {"sizes": ["${size}", 4], "deep": {"twice": "${..sizes}"}}})
    found = plain(cfg.group)
    assert found == {"sizes": [3, 4], "deep": {"twice": [3, 4]}}
    assert {type(found), type(found["deep"]), type(found["sizes"])} == {dict, list}
