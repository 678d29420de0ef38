"""The server with workers in threads, over real connections: the weights that come out, and who is told what."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from parallel.lines import connected

from hct_lightning.parallel.courier import SILENT, Gradient, Mailbox, Remote
from hct_lightning.parallel.schemes import Scheme
from hct_lightning.parallel.server import Server, flat, unflat

TARGETS = torch.tensor([[1.0, 2.0], [3.0, -1.0], [-2.0, 5.0]])  # of each rank's loss, (weights - target)^2 / 2


class Worker:
    """Computes gradients of its loss until the server has reached a version."""

    def __init__(self, rank: int, deliver, mailbox: Mailbox, *, takes_s: float = 0.0) -> None:
        self.rank, self.deliver, self.mailbox, self.takes_s = rank, deliver, mailbox, takes_s
        self.versions = [0]

    def run(self, until: int) -> list[int]:
        weights, received = torch.zeros(2), 0
        while self.versions[-1] < until:
            if not self.mailbox.wait(received, self.takes_s):
                self.deliver(Gradient(self.versions[-1], weights - TARGETS[self.rank], SILENT, 0))
            self.mailbox.wait(received)
            news, received = self.mailbox.take()
            if news.version > self.versions[-1]:
                weights = news.values.clone()
            self.versions.append(news.version)
        return self.versions


def serve(scheme: Scheme, *, until: int, slow_s: float = 0.0, meets=lambda version: False):
    """Three workers, of which the last is slow; gives the server and the versions that each had."""
    parameters = [torch.zeros(1), torch.zeros(1)]
    optimizer = torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:]}], lr=9.0)
    server = Server(
        scheme,
        3,
        optimizer,
        rates=lambda version: [0.1, 0.1],
        clip=lambda parameters: None,
        version=0,
        meets=lambda version: version == until or meets(version),
    )
    lines = connected(3, 2)
    server.connect(lines[0])
    workers = [Worker(0, server.deliver, server.mailbox, takes_s=0.01)]
    remotes = []
    for rank in (1, 2):
        remotes.append(Remote(lines[rank], mailbox := Mailbox()))
        takes_s = slow_s if rank == 2 else 0.01
        workers.append(Worker(rank, remotes[-1].deliver, mailbox, takes_s=takes_s))
    with ThreadPoolExecutor() as pool:
        seen = list(pool.map(lambda worker: worker.run(until), workers))
    sides = [server, *remotes]
    for side in sides:
        side.close()
    for side in sides:
        side.wait()
    assert not any(thread.name.startswith(("gradients of rank", "weights")) for thread in threading.enumerate())
    return server, seen


def test_all_of_all_is_the_mean_at_every_step():
    server, seen = serve(Scheme("k_sync", 3), until=6)
    weights = torch.zeros(2)
    for _ in range(6):
        weights = weights - 0.1 * (weights - TARGETS).mean(dim=0)
    torch.testing.assert_close(flat(server.parameters), weights)
    assert seen == [[0, 1, 2, 3, 4, 5, 6]] * 3
    tally = server.tally()
    assert (tally.staleness, tally.dropped, tally.ranks) == (0, 0, 3)


def test_the_first_two_do_not_wait_for_a_slow_one():
    start = time.monotonic()
    server, seen = serve(Scheme("k_sync", 2), until=8, slow_s=30)
    assert time.monotonic() - start < 10
    assert seen[0] == seen[1] == list(range(9))
    assert seen[2][-1] == 8
    weights = torch.zeros(2)
    for _ in range(8):
        weights = weights - 0.1 * (weights - TARGETS[:2]).mean(dim=0)
    torch.testing.assert_close(flat(server.parameters), weights)


def test_late_gradients_count_and_are_stale():
    server, seen = serve(Scheme("k_async", 2), until=30, slow_s=0.1)
    assert max(b - a for a, b in zip(seen[2], seen[2][1:], strict=False)) > 1
    assert server.tally().staleness > 0
    assert flat(server.parameters)[1].item() > 0


def test_in_the_batch_schemes_one_gives_several():
    _, seen = serve(Scheme("k_batch_sync", 4), until=5, slow_s=0.1)
    assert seen[0].count(2) > 1
    _, seen = serve(Scheme("k_batch_async", 2), until=10, slow_s=0.1)
    assert max(seen[0]) == 10


def test_all_have_the_weights_at_which_they_meet():
    _, seen = serve(Scheme("k_async", 1), until=9, slow_s=0.05, meets=lambda version: version == 5)
    assert all(5 in versions for versions in seen)


def test_notes_reach_all_at_one_version():
    optimizer = torch.optim.SGD([torch.zeros(2)], lr=0.1)
    common = {"rates": lambda version: [0.1], "clip": lambda parameters: None, "meets": lambda version: False}
    server = Server(Scheme("k_sync", 1), 2, optimizer, version=0, **common)
    server.deliver(Gradient(0, None, (0, 1, 0, -5), 1), rank=1)
    server.deliver(Gradient(0, torch.ones(2), (2, 0, 0, -7), 0))
    weights, _ = server.mailbox.take()
    assert (weights.version, weights.meets, weights.notes, weights.members) == (1, True, (2, 1, 0, -5), (0, 1))
    server.deliver(Gradient(1, torch.ones(2), SILENT, 0))
    assert not server.mailbox.take()[0].meets


def test_without_a_rank_it_goes_on_as_long_as_k_live():
    optimizer = torch.optim.SGD([torch.zeros(2)], lr=0.1)
    common = {"rates": lambda version: [0.1], "clip": lambda parameters: None, "meets": lambda version: version == 1}
    server = Server(Scheme("k_sync", 2), 3, optimizer, version=0, **common)
    server._lose(1)
    assert server.survives(1, 0)
    server.deliver(Gradient(0, torch.ones(2), SILENT, 0))
    server.deliver(Gradient(0, torch.ones(2), SILENT, 0), rank=2)
    assert server.mailbox.take()[0].members == (0, 2)
    server._lose(2)
    assert not server.survives(2, 0)
    with pytest.raises(RuntimeError, match="rank 2 is gone, and 1 can't be k_sync with k=2"):
        server.mailbox.wait(1)


def test_flat_and_back():
    tensors = [torch.randn(2, 3).to(torch.bfloat16), torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)]
    for before, after in zip(tensors, unflat(flat(tensors), tensors), strict=True):
        assert torch.equal(before.float(), after)


def test_what_the_optimizer_raises_ends_the_run_and_no_rank_is_taken_for_dead():
    class Broken(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("no such kernel")

    common = {"rates": lambda version: [0.1], "clip": lambda parameters: None, "meets": lambda version: False}
    server = Server(Scheme("k_sync", 1), 2, Broken([torch.zeros(2)], lr=0.1), version=0, **common)
    lines = connected(2, 2)
    server.connect(lines[0])
    Remote(lines[1], Mailbox()).deliver(Gradient(0, torch.ones(2), SILENT, 0))
    with pytest.raises(RuntimeError, match="RuntimeError: no such kernel"):
        server.mailbox.wait(0, 30)
    assert server.alive == (0, 1)
    server.close()
