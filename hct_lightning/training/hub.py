"""The hub that pretrained weights come from, where it can be reached."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants


@contextmanager
def offline_without_internet() -> Iterator[None]:
    """Takes weights from the hub's cache alone where the name of its host is not known.

    Otherwise it tries for the better part of a minute before it says that there is no internet.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not (getproxies() or _is_known(urlsplit(constants.ENDPOINT).hostname))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _is_known(host: str | None) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False
