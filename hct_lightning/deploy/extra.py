"""Packages that one purpose needs are optional: which extra brings a missing one."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports of what the extra `name` installs.

    Raises:
        ImportError: saying how to install it.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{error.name} is not installed: pip install 'hct-lightning[{name}]'", name=error.name
        ) from error
