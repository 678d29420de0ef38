"""What compilers tell their own developers is held back, and nothing else."""

import logging
import warnings

import pytest

from hct_lightning.deploy.quiet import quiet


def warn(module: str) -> None:
    """A warning as that module would give it."""
    warnings.warn_explicit("be warned", UserWarning, f"{module}.py", 1, module=module)


def test_warnings_of_compilers_are_held_back_and_others_are_not():
    with quiet():
        warn("torchao.quantization")
        warn("torch._inductor.compile")
        with pytest.warns(UserWarning, match="be warned"):
            warn("numpy")
    with pytest.warns(UserWarning, match="be warned"):
        warn("torchao.quantization")


def test_loggers_are_as_before_also_after_an_error():
    logger = logging.getLogger("torch.utils._pytree")
    before = logger.level

    @quiet()
    def fails() -> None:
        assert logger.level == logging.ERROR
        raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert logger.level == before
