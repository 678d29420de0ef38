"""What a network is and eats, saved and fed back."""

from hct_lightning.data.datamodule import ImageData
from hct_lightning.data.reading.decoding import Decoding
from hct_lightning.training.spec import NetworkSpec


def test_options_are_fed_back_to_the_data_as_they_were(data_options):
    decoding = Decoding(channels=3, size=(48, 64), geometry="paper", max_pixels=10**6, srgb=True, reduce_to=8)
    spec = NetworkSpec(model={}, classes=("x", "y"), decoding=decoding, mean=(0.5,) * 3, std=(0.2,) * 3)
    data = ImageData(lambda: None, **data_options("store", **spec.options(), max_pixels=10**6))
    assert data.decoding == vars(decoding)
