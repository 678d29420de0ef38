"""What the sides read: photographs enlarged, as PNG and JPEG, and stores of them."""

from pathlib import Path

from PIL import Image, ImageOps

from hct_lightning.data.catalogue import Catalogue, Split
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.data.store.format import Recipe
from hct_lightning.data.store.prepare import prepare

FORMATS = ("raw", "png", "jpeg")


def make_files(photos: Path, home: Path, *, source_size: int, images: int, resolution: int) -> None:
    """The photographs scaled to `source_size` a side: `<i>.png`, `images/<class>/<i>.jpg`, `store_<format>/`.

    Raises:
        ValueError: when there are no photographs.
    """
    found = sorted(photos.rglob("*.jpg"))
    if not found:
        raise ValueError(
            f"benchmark.photos={photos}: no .jpg there; give a folder of photographs, such as "
            "tests/photos of a checkout"
        )
    size = (source_size, source_size)
    for i in range(images):
        with Image.open(found[i % len(found)]) as photo:
            scaled = ImageOps.fit(photo.convert("RGB"), size, Image.Resampling.BICUBIC)
        folder = home / "images" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        scaled.save(home / f"{i}.png")
        scaled.save(folder / f"{i}.jpg", quality=90)
    for form in FORMATS:
        make_store(home, home / f"store_{form}", resolution=resolution, workers=2, form=form)


def make_store(home: Path, root: Path, *, resolution: int, workers: int, form: str = "raw") -> None:
    """A store at `root` of the JPEG files in `home`."""
    paths = sorted(str(path) for path in (home / "images").rglob("*.jpg"))
    split = Split(paths, ["ab".index(Path(path).parent.name) for path in paths])
    decoding = Decoding(channels=3, size=(resolution, resolution), geometry="cover", max_pixels=2**30)
    recipe = Recipe(decoding, form, 95 if form == "jpeg" else None)
    prepare(
        Catalogue("photographs", ("a", "b"), split, Split()),
        recipe,
        root,
        workers=workers,
        skip_unreadable=False,
        progress=lambda items, total: items,
    )
