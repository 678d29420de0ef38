"""Runtimes are optional: which extra brings a missing one."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def deploy_extra() -> Iterator[None]:
    """Around imports of what the extra `deploy` installs.

    Raises:
        ImportError: saying how to install it.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{error.name} is not installed: pip install 'hct-lightning[deploy]'", name=error.name
        ) from error
