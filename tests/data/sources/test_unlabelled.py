"""Images without labels: all below a folder, a part of which is measured on."""

from functools import partial

import pytest

from hct_lightning.data.sources import unlabelled as sources

unlabelled = partial(sources.unlabelled, valid_fraction=0.2, split_seed=0)


def test_all_images_below_a_folder_are_found_and_split(tmp_path, plant, names):
    plant(tmp_path, a=5, b=4, **{".cache": 3})
    (tmp_path / "c.jpg").touch()
    (tmp_path / "notes.txt").touch()
    found = unlabelled(str(tmp_path))
    assert found.classes == ("unlabelled",)
    assert set(found.train.labels + found.valid.labels) == {0}
    assert len(found.valid) == 2
    both = names(found.train, tmp_path) + names(found.valid, tmp_path)
    assert sorted(both) == [*(f"a/{i}.jpg" for i in range(5)), *(f"b/{i}.jpg" for i in range(4)), "c.jpg"]
    assert unlabelled(str(tmp_path)) == found
    assert unlabelled(str(tmp_path), split_seed=1).valid != found.valid


def test_one_image_more_moves_one_other_at_most_wherever_the_folder_lies(tmp_path, plant, names):
    root = plant(tmp_path / "photos", a=30)
    before = set(names(unlabelled(str(root)).valid, root))
    (root / "a" / "0.png").touch()
    root = root.rename(tmp_path / "moved")
    assert len((before ^ set(names(unlabelled(str(root)).valid, root))) - {"a/0.png"}) <= 1


def test_fewer_than_two_images_or_a_file_are_refused(tmp_path, plant):
    plant(tmp_path, a=1)
    with pytest.raises(ValueError, match=r"holds 1 image\(s\), of \.avif.*; give a folder with more"):
        unlabelled(str(tmp_path))
    with pytest.raises(ValueError, match=r"data\.root=.*0\.jpg is a file; give a folder of images"):
        unlabelled(str(tmp_path / "a" / "0.jpg"))
