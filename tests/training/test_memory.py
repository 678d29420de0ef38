"""The memory of a step, predicted without taking it."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from hct_lightning.training.memory_plan import available_bytes


def test_grows_with_images_pixels_and_precision(peak):
    one, two, four = peak(1), peak(2), peak(4)
    assert four - two == pytest.approx(2 * (two - one), rel=0.1)
    weights = 1_739_092 * 4
    assert one > 4 * weights  # weights, gradients and two moments at least
    assert peak(1, side=512) < one / 2
    assert peak(2, precision="bf16-mixed") < 0.75 * two


def test_takes_no_memory_itself(peak):
    free = available_bytes(torch.device("cpu"), 1)
    assert peak(64, side=4000) > 2 * free  # a step that no machine of this size could hold


def test_the_tensors_alive_are_those_that_torch_counts(build, step):
    """Against torch's own tracker, which is slower and knows no allocators."""
    network = build().to(memory_format=torch.channels_last)
    with FakeTensorMode() as fake:
        network._apply(fake.from_tensor)
        optimizer = torch.optim.Adam(network.parameters())
        tracker = MemTracker()
        tracker.track_external(network, optimizer)
        with tracker:
            for _ in range(2):
                images = torch.empty((2, 1024, 1024, 3), dtype=torch.uint8)
                loss = F.cross_entropy(network(images.permute(0, 3, 1, 2)), torch.zeros(2, dtype=torch.long))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                tracker.reset_mod_stats()
    theirs = max(sizes["Total"] for sizes in tracker.get_tracker_snapshot("peak").values())
    assert step(2).tensors == pytest.approx(theirs, rel=0.01)


def test_gradients_that_stay_and_batches_that_wait_count(step, remembered, build):
    options = {"channels": 3, "size": (1024, 1024), "batch": 1, "precision": "32-true", "memory": "speed"}
    more = remembered(build, **options, keeps_gradients=True, ahead=4)
    weights, image = 1_739_092 * 4, 3 * 2**20
    # Gradients of the step before are there in the forward pass in any case.
    assert 4 * image <= more.tensors - step(1).tensors <= 4 * image + 1.1 * weights


def test_copies_of_augmentation_count_where_they_are_more_than_the_step(step, remembered, build):
    options = {"channels": 3, "size": (1024, 1024), "batch": 1, "precision": "32-true", "memory": "speed"}
    assert remembered(build, **options, augmenting=2**20).tensors == step(1).tensors
    assert remembered(build, **options, augmenting=2**30).tensors > 2**30


def test_what_a_card_reserves_is_more_than_the_tensors(step):
    assert 1.05 < step(4).reserved / step(4).tensors < 1.6


@pytest.mark.slow
def test_streaming_takes_less_than_low_the_larger_the_image(build):
    """What is left grows with the map after the first stages; each further tile at once takes some more."""
    from hct_lightning.training.memory import step_memory

    def taken(memory, workers=1):
        return step_memory(
            build, channels=3, size=(8000, 8000), batch=1, precision="32-true", memory=memory, workers=workers
        ).tensors

    low, stream, two = taken("low"), taken("stream"), taken("stream", workers=2)
    assert stream < 0.7 * low
    assert stream + 200 * 2**20 < two < 2 * stream
