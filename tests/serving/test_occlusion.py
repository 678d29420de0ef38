"""The map by greyed parts, held to one that is computed by hand."""

import torch

from hct_lightning.deploy import load_artifact
from hct_lightning.serving.occlusion import occlusion


def test_each_part_is_greyed_alone(artifact):
    served = load_artifact(artifact)
    image = torch.randint(0, 256, (3, 128, 192), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = occlusion(served, image, 3, at_a_time=4)
    whole = served(image[None])[0]
    torch.testing.assert_close(found.probabilities, whole)
    assert found.drop.shape == (3, 3)
    for row, (top, bottom) in enumerate([(0, 43), (43, 85), (85, 128)]):
        for column in range(3):
            grey = image.clone()
            part = grey[:, top:bottom, 64 * column : 64 * column + 64]
            part[:] = image.float().mean(dim=(1, 2)).round().to(torch.uint8).view(3, 1, 1)
            fall = whole.max() - served(grey[None])[0, whole.argmax()]
            torch.testing.assert_close(found.drop[row, column], fall, atol=1e-6, rtol=0)
