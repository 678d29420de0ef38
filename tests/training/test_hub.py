"""Without internet it is said at once."""

import urllib.request

import pytest
from huggingface_hub import constants

from hct_lightning.training.hub import offline_without_internet


@pytest.mark.parametrize(
    ("endpoint", "proxy", "offline"),
    [
        ("https://nowhere.invalid", None, True),
        ("http://localhost:9", None, False),
        ("https://nowhere.invalid", "http://localhost:9", False),  # it may know the name
    ],
)
def test_offline_where_the_hosts_name_is_not_known(monkeypatch, endpoint, proxy, offline):
    for name in urllib.request.getproxies():
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    if proxy:
        monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    before = constants.HF_HUB_OFFLINE
    with offline_without_internet():
        assert constants.HF_HUB_OFFLINE is offline
    assert constants.HF_HUB_OFFLINE is before
