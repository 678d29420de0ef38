import itertools

import numpy as np
import pytest

from hct_lightning.data.feeding.samplers import EveryImageOnce, GlobalBatches


def batches(step: int = 0, *, size: int = 50, world: int = 1, seed: int = 0) -> list[list[list[int]]]:
    """By batch and rank: what is seen from `step` on, in one epoch's number of batches."""
    ranks = [GlobalBatches(size, 8, seed=seed, step=lambda: step, rank=rank, world=world) for rank in range(world)]
    return list(zip(*ranks, strict=True))


def flat(seen: list) -> list[int]:
    return [i for batch in seen for share in batch for i in share]


def test_an_epoch_sees_no_image_twice_and_drops_the_last_incomplete_batch():
    seen = flat(batches())
    assert len(seen) == 48
    assert len(set(seen)) == 48
    assert set(seen) < set(range(50))
    # Of a size that fits, all of them.
    assert sorted(flat(batches(size=48))) == list(range(48))


def test_every_epoch_and_seed_has_its_own_order():
    orders = [flat(batches(6 * epoch, seed=seed)) for epoch in range(3) for seed in range(3)]
    assert len({tuple(order) for order in orders}) == 9
    left_out = {frozenset(range(50)) - frozenset(order) for order in orders}
    assert len(left_out) > 1  # another epoch drops other images
    assert orders[0] == flat(batches())  # the same again


@pytest.mark.parametrize(("world", "micro_batches"), [(1, 3), (2, 4), (3, 2), (3, 1)])
def test_micro_batches_and_uneven_ranks_see_the_same_global_batches(world, micro_batches):
    ranks = [
        list(GlobalBatches(50, 8, seed=0, step=int, rank=rank, world=world, micro_batches=micro_batches))
        for rank in range(world)
    ]
    assert {len(rank) for rank in ranks} == {6 * micro_batches}
    assert all(micro for rank in ranks for micro in rank)  # none is empty
    for step, [whole] in enumerate(batches()):
        part = slice(step * micro_batches, (step + 1) * micro_batches)
        assert sorted(i for rank in ranks for micro in rank[part] for i in micro) == sorted(whole)


def test_more_micro_batches_than_images_are_refused():
    with pytest.raises(ValueError, match="into 3 micro-batches on 3 ranks"):
        GlobalBatches(50, 8, seed=0, step=int, world=3, micro_batches=3)


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_ranks_share_the_same_global_batches(world):
    for alone, shared in zip(batches(), batches(world=world), strict=True):
        assert {len(share) for share in shared} == {8 // world}
        assert sorted(flat([shared])) == sorted(flat([alone]))
        assert [list(turn) for turn in zip(*shared, strict=True)] == np.reshape(alone, (-1, world)).tolist()


@pytest.mark.parametrize("world", [1, 2])
def test_starting_at_any_step_continues_the_sequence(world):
    epochs = [batch for epoch in range(3) for batch in batches(6 * epoch, world=world)]
    for step in range(12):
        assert batches(step, world=world) == epochs[step : step + 6]


def test_the_step_is_asked_at_each_epoch():
    steps = iter((0, 6))
    sampler = GlobalBatches(50, 8, seed=0, step=lambda: next(steps))
    assert len(sampler) == 6
    assert list(sampler) == [batch for [batch] in batches(0)]
    assert list(sampler) == [batch for [batch] in batches(6)]
    assert [sampler.epoch(step) for step in (0, 5, 6, 12)] == [0, 0, 1, 2]


def test_too_little_data_is_refused():
    assert len(GlobalBatches(8, 8, seed=0, step=int)) == 1
    with pytest.raises(ValueError, match=r"7 training images .* batch of 8; .* smaller data.batch_size"):
        GlobalBatches(7, 8, seed=0, step=int)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7, 16])
def test_every_image_counts_once(world):
    for size in (0, 1, 2, 3, 7, 8, 9, 16, 33):
        ranks = [EveryImageOnce(size, rank=rank, world=world) for rank in range(world)]
        shares = [list(rank) for rank in ranks]
        assert len({len(share) for share in shares}) == 1
        assert all(len(rank) == len(share) for rank, share in zip(ranks, shares, strict=True))
        everything = list(itertools.chain(*shares))
        assert sorted(i for i in everything if i >= 0) == list(range(size))
        assert all(0 <= -1 - i < size for i in everything if i < 0)  # padding shows an image
        assert len(everything) - size < world  # and no more of it than needed
