"""What is said before a server starts. A real one: tests/tasks/test_serve.py."""

import socket

import pytest

from hct_lightning.serving.server import check_free


def test_a_port_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            ValueError, match=rf"serve\.port={port} at 127\.0\.0\.1: Address already in use; give another"
        ):
            check_free("127.0.0.1", port)
    check_free("127.0.0.1", port)
