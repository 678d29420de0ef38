"""What compilers say to their own developers is not told to users, who can do nothing about it."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

# How torchao registers its classes; that a CUDA toolkit is there and no GPU.
_LOGGERS = ("torch.utils._pytree", "torch.utils.cpp_extension")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Holds back warnings of torchao and Inductor, not errors."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(torchao|torch\._inductor)\.")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
