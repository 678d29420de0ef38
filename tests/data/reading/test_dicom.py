"""DICOM, as radiologists see it."""

import numpy as np
import pytest
import torch

from hct_lightning.data.reading.image import UnreadableImageError, probe


def test_dicom_as_radiologists_see_it(tmp_path, write_dicom, read):
    values = np.array([[0, 1000, 2000, 3000, 4000]], np.uint16).repeat(4, 0)
    row = {
        "plain": ({}, [0, 64, 128, 191, 255]),
        "inverted": ({"PhotometricInterpretation": "MONOCHROME1"}, [255, 191, 127, 64, 0]),
        "windowed": ({"WindowCenter": 2000, "WindowWidth": 2000}, [0, 0, 128, 255, 255]),
    }
    for name, (elements, want) in row.items():
        path = write_dicom(tmp_path / f"{name}.dcm", values, **elements)
        assert probe(path, max_pixels=2**24) == (1, 4, 5)
        got = read(path, 1)[0, 0]
        assert (got.int() - torch.tensor(want)).abs().max() <= 1, name
    ct = write_dicom(tmp_path / "ct", values, RescaleSlope=1, RescaleIntercept=-1000)  # no suffix: known by its content
    assert read(ct, 1, window=(0, 2000))[0, 0].tolist() == [0, 0, 128, 255, 255]
    assert read(ct, 3, size=(4, 4)).shape == (3, 4, 4)
    with pytest.raises(UnreadableImageError, match=r"data\.max_pixels=3"):
        read(ct, 1, max_pixels=3)


def test_colour_dicom(tmp_path, write_dicom, read):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    path = write_dicom(tmp_path / "c.dcm", pixels)
    assert probe(path, max_pixels=2**24) == (3, 6, 8)
    assert np.array_equal(read(path, 3).permute(1, 2, 0), pixels)


def test_the_breast_lies_on_the_left_and_fills_the_image(tmp_path, write_dicom, read):
    y, x = np.mgrid[:400, :300]
    breast = np.where((x - 299) ** 2 / 150**2 + (y - 200) ** 2 / 120**2 < 1, 3000, 20)
    breast[10:20, 5:25] = 4000  # the label in the corner
    path = write_dicom(tmp_path / "m.dcm", breast.astype(np.uint16))
    assert read(path, 1).shape == (1, 400, 300)
    image = read(path, 1, breast=True)[0]
    assert image[image.shape[0] // 2, 0] > 150
    assert 236 <= image.shape[0] <= 252
    assert 148 <= image.shape[1] <= 160


def test_a_broken_dicom_is_named(tmp_path, write_dicom, read):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((50, 50), np.uint16))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UnreadableImageError, match=r"a\.dcm: .*; remove or replace"):
        read(path, 1)


def test_colours_of_television_become_rgb_once(tmp_path, write_dicom, read):
    """YBR, as ultrasound has it: pydicom converts it, and a second conversion would give false colours."""
    red, green, blue = (np.full((6, 8), value, np.float64) for value in (200, 40, 90))
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    pixels = np.rint(np.dstack([y, 128 + 0.564 * (blue - y), 128 + 0.713 * (red - y)])).astype(np.uint8)
    path = write_dicom(tmp_path / "y.dcm", pixels, PhotometricInterpretation="YBR_FULL")
    assert read(path, 3)[:, 0, 0].float().tolist() == pytest.approx([200, 40, 90], abs=2)


def test_odd_dicom_is_told_in_a_line(tmp_path, write_dicom, read):
    pydicom = pytest.importorskip("pydicom")
    grey, colour = np.zeros((8, 8), np.uint16), np.zeros((8, 8, 3), np.uint8)
    for pixels, elements, reason in (
        (colour, {"PhotometricInterpretation": "HSV"}, "its pixels are HSV; save it as MONOCHROME2 or RGB"),
        (grey, {"PhotometricInterpretation": "FOO"}, "its pixels are FOO"),
        (colour, {"PhotometricInterpretation": "MONOCHROME2"}, "it says MONOCHROME2, and has 3 values a pixel"),
        (grey, {"PhotometricInterpretation": "RGB"}, "it says RGB, and has 1 values a pixel"),
        (grey, {"PhotometricInterpretation": "PALETTE COLOR"}, "No suitable Palette"),
        (grey, {"Rows": 65535, "Columns": 65535}, "65535x65535 pixels are more than"),
        (grey, {"Rows": 4, "NumberOfFrames": 2}, "it holds 2 frames"),
    ):
        path = write_dicom(tmp_path / "a.dcm", pixels, **elements)
        with pytest.raises(UnreadableImageError, match=rf"a\.dcm: {reason}"):
            read(path, 3)
    for absent in ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"):
        data = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", grey))
        delattr(data, absent)
        data.save_as(path)
        with pytest.raises(UnreadableImageError, match=rf"holds no image: it has no {absent}"):
            probe(path, max_pixels=2**24)
    data = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", grey))
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    data.PixelData = bytes(10**7)  # 10 kB on the disk
    data.save_as(path)
    with pytest.raises(UnreadableImageError, match="it is a deflated DICOM file"):
        probe(path, max_pixels=2**24)
