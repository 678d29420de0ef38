import pytest
import torch

from hct_lightning.training.checkpoint_io import WholeCheckpointIO


class Unwritable:
    """Fails while it is pickled, after the tensor in front of it."""

    def __reduce__(self):
        raise RuntimeError("half way")


def test_what_is_saved_is_read_back(tmp_path):
    WholeCheckpointIO().save_checkpoint({"step": 3, "w": torch.arange(4)}, tmp_path / "new" / "a.ckpt")
    read = torch.load(tmp_path / "new" / "a.ckpt", weights_only=True)
    assert read["step"] == 3
    assert torch.equal(read["w"], torch.arange(4))


def test_one_that_fails_leaves_the_earlier_one_and_no_rest(tmp_path):
    io, file = WholeCheckpointIO(), tmp_path / "a.ckpt"
    io.save_checkpoint({"step": 1}, file)
    with pytest.raises(RuntimeError, match="half way"):
        io.save_checkpoint({"step": 2, "bad": Unwritable()}, file)
    assert torch.load(file, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [file]
