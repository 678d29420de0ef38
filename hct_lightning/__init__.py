"""HCT-Lightning: train, optimise and deploy HCT on very large images.

Importing this package imports nothing heavy and changes nothing in the process.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hct_lightning.deploy import load_artifact

__all__ = ["load_artifact"]


def __getattr__(name: str) -> Any:
    if name == "load_artifact":
        from hct_lightning.deploy import load_artifact

        return load_artifact
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
