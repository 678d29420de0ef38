"""A prepared store, on this machine or elsewhere."""

from hct_lightning.data.catalogue import Catalogue, resolve_root
from hct_lightning.data.store.remote import Mirror, is_url
from hct_lightning.data.store.store import Store


def store(root: str | None, *, cache: str) -> Catalogue:
    """The images of a prepared store: `data=store data.root=<folder or url>`.

    Args:
        root: the store's folder, or its url (s3://, gs://, https://, whatever fsspec knows).
        cache: local folder for what is read of a url.

    Raises:
        ValueError: when there is no store, or an incomplete one.
    """
    if root and is_url(root):
        mirror = Mirror(root, cache)
        return Store(mirror.folder, mirror).catalogue()
    return Store(resolve_root(root)).catalogue()
