"""What an option that names images finds."""

import os

import pytest

from hct_lightning.data.inputs import find_images, skips_unreadable


def test_inputs_are_a_file_a_folder_or_a_glob(photos):
    files = sorted(str(p) for p in photos.rglob("*.jpg"))
    assert find_images(files[0], "predict.input") == files[:1]
    assert find_images(str(photos), "predict.input") == files
    assert find_images(f"{photos}/**/*.jpg", "predict.input") == files
    with pytest.raises(FileNotFoundError, match="no image there"):
        find_images(f"{photos}/nothing*.png", "predict.input")


def test_inputs_are_a_list_too_in_its_order_and_an_image_twice(photos, tmp_path):
    files = sorted(str(p) for p in photos.rglob("*.jpg"))
    odd = tmp_path / os.fsdecode(b"\xff [a].jpg")
    odd.touch()
    listed = tmp_path / "list.txt"
    listed.write_bytes(
        b"\xef\xbb\xbf" + files[1].encode() + b"\r\n\n" + files[0].encode() + b"\n" + os.fsencode(odd.name)
    )
    assert find_images(str(listed), "predict.input") == [files[1], files[0], str(odd)]
    assert find_images([files[2], str(listed), files[2]], "predict.input") == [
        files[2],
        files[1],
        files[0],
        str(odd),
        files[2],
    ]
    assert find_images(str(odd), "predict.input") == [str(odd)]
    for nothing in (tmp_path / "none.txt", tmp_path / "empty"):
        (nothing.touch if nothing.suffix else nothing.mkdir)()
        with pytest.raises(FileNotFoundError, match="no image there"):
            find_images(str(nothing), "predict.input")


def test_images_that_are_not_there_are_named_at_once_or_skipped(photos):
    images = [*find_images(str(photos), "predict.input"), "gone.jpg"]
    with pytest.raises(FileNotFoundError, match=r"1 files that aren't there: gone\.jpg; .*data\.on_error=skip"):
        skips_unreadable("raise", images, "predict.input")
    assert skips_unreadable("skip", images, "predict.input")
    with pytest.raises(ValueError, match=r"data\.on_error=ignore: choose raise or skip"):
        skips_unreadable("ignore", images, "predict.input")


def test_a_folder_is_searched_as_a_data_set_is(tmp_path):
    for name in ("there/a.png", "elsewhere/b.png", "there/.ipynb_checkpoints/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "there" / "more").symlink_to(tmp_path / "elsewhere")
    assert find_images(str(tmp_path / "there"), "predict.input") == [
        f"{tmp_path}/there/a.png",
        f"{tmp_path}/there/more/b.png",
    ]
