"""What a configuration may name."""

import pytest

from hct_lightning.cli.allowed import check_targets


def test_targets_from_elsewhere_are_refused_wherever_they_hide():
    check_targets({"a": [{"_target_": "torch.optim.Adam"}, {"_target_": "timm.create_model"}]})
    for target in ("os.system", "builtins.eval", "lightning_evil.x", "hct_lightning.app.os.system"):
        with pytest.raises(ValueError, match=r"a\[0\]\.b\._target_=" + target):
            check_targets({"a": [{"b": {"_target_": target}}]})
    with pytest.raises(ValueError, match=r"os\.system"):
        check_targets({"x": {"_target_": "hydra.utils.get_method", "path": "os.system"}})
    with pytest.raises(ValueError, match="can't be found"):
        check_targets({"x": {"_target_": "torch.optim.Adamm"}})


def test_targets_of_users_are_welcome_when_they_say_so():
    node = {"_target_": "collections.Counter"}
    with pytest.raises(ValueError, match=r"safety\.allow=\[collections\]"):
        check_targets(node)
    check_targets(node, allow=["collections"])
