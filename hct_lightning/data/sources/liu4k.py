"""LIU4K, the photographs that the paper trained on."""

from hct_lightning.data.catalogue import Catalogue, resolve_root
from hct_lightning.data.sources.folder import two_trees


def liu4k(root: str | None) -> Catalogue:
    """LIU4K: `train/` and `valid/` with a folder a class (Animal, Building, Mountain, Street).

    Raises:
        ValueError: when the folders are missing.
    """
    top = resolve_root(root)
    for name in ("train", "valid"):
        if not (top / name).is_dir():
            raise ValueError(
                f"data.root={root}: there is no {top / name}; LIU4K is expected as train/<class>/ "
                "and valid/<class>/ (docs/data.md says how to obtain it)"
            )
    return two_trees(f"LIU4K {top}", top / "train", top / "valid")
