"""The rules of PyTorch's CUDA allocator, as its documentation and source have them."""

from hct_lightning.machine.allocators import MIB, CudaCaching, most_held, pinned_bytes


def test_blocks_come_from_segments():
    card = CudaCaching()
    card.take(0, 1)
    assert card.held == 2 * MIB  # a small segment
    card.take(1, MIB)
    assert card.held == 2 * MIB
    card.take(2, 2 * MIB)
    assert card.held == 22 * MIB  # and a large one
    card.take(3, 18 * MIB)
    assert card.held == 22 * MIB
    card.take(4, 11 * MIB)
    assert card.held == 34 * MIB  # its own, in whole small segments


def test_what_is_freed_is_used_again_once_its_neighbours_are_free():
    card = CudaCaching()
    for key in range(4):
        card.take(key, 5 * MIB)
    assert card.held == 20 * MIB
    card.free(0)
    card.free(2)
    card.take(5, 9 * MIB)  # two gaps of 5 hold no 9
    assert card.held == 40 * MIB
    card.free(1)
    card.take(6, 9 * MIB)
    assert card.held == 40 * MIB


def test_a_segment_that_is_free_goes_back():
    card = CudaCaching()
    card.take(0, 5 * MIB)
    card.take(1, 5 * MIB)
    card.free(0)
    assert card.held == 20 * MIB
    card.free(1)
    assert card.held == 0


def test_a_large_block_is_cut_only_where_much_is_left():
    card = CudaCaching()
    card.take(0, 12 * MIB)
    card.free(0)
    card.take(1, 11 * MIB)
    card.take(2, MIB + 1)  # the 1 MiB that is left belongs to the first
    assert card.held == 32 * MIB


def test_the_most_that_was_held():
    events = [(0, 30 * MIB), (0, None), (1, 10), (1, None)]
    assert most_held(events) == 30 * MIB


def test_pinned_memory_is_a_power_of_two():
    assert [pinned_bytes(size) for size in (1, 1024, 1025, 3 * 4000 * 4000)] == [1, 1024, 2048, 2**26]
