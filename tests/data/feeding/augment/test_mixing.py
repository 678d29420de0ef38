import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hct_lightning.data.feeding.augment.mixing import mix
from hct_lightning.data.feeding.loader import Batch


def batch_of(indices: list[int]) -> Batch:
    """The image of an index is always the same noise; its class is index % 3."""
    images = [np.random.default_rng(i).integers(0, 256, (24, 24, 3), np.uint8) for i in indices]
    images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return Batch(images, torch.tensor([i % 3 for i in indices]), torch.tensor(indices))


def changed(indices: list[int], mixup: float = 0.0, cutmix: float = 0.0) -> Batch:
    rngs = [np.random.default_rng((0, i)) for i in indices]
    return mix(batch_of(indices), rngs, 3, mixup=mixup, cutmix=cutmix)


def test_mixup_mixes_images_and_labels_by_the_same_share():
    originals, mixed = batch_of([4, 9, 11]), changed([4, 9, 11], mixup=1.0)
    assert mixed.labels.sum(1).tolist() == pytest.approx([1, 1, 1])
    one_hot = F.one_hot(originals.labels, 3).float()
    for n, other in ((0, 2), (1, 0), (2, 1)):
        share = mixed.labels[n][originals.labels[other]].item()
        want = torch.lerp(originals.images[n].float(), originals.images[other].float(), share)
        assert (mixed.images[n].float() - want).abs().max() <= 0.6
        assert torch.allclose(mixed.labels[n], torch.lerp(one_hot[n], one_hot[other], share))
    assert mixed.images.is_contiguous(memory_format=torch.channels_last)


def test_cutmix_pastes_a_box_whose_area_is_its_share():
    originals, mixed = batch_of([4, 9, 11]), changed([4, 9, 11], cutmix=1.0)
    for n, other in ((0, 2), (1, 0), (2, 1)):
        pasted = (mixed.images[n] != originals.images[n]).any(0)
        rows, columns = pasted.any(1).nonzero(), pasted.any(0).nonzero()
        share = mixed.labels[n][originals.labels[other]].item()
        box = 0 if not len(rows) else (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert share == pytest.approx(float(box) / 24**2, abs=0.02)
        assert torch.equal(mixed.images[n][:, pasted], originals.images[other][:, pasted])


def test_one_image_alone_is_not_mixed():
    mixed = changed([4], mixup=1.0, cutmix=1.0)
    assert torch.equal(mixed.images, batch_of([4]).images)
    assert mixed.labels.tolist() == [[0, 1, 0]]
