"""Messages over real connections, and the mailbox at the end."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from parallel.lines import connected

from hct_lightning.parallel.courier import SILENT, Gradient, Mailbox, Remote, Weights

VALUES = torch.arange(5.0)


@pytest.mark.parametrize(
    "message",
    [
        Gradient(7, VALUES, (1, 0, 5, -3), 2),
        Gradient(7, None, SILENT, 1),
        Weights(8, VALUES, True, (4, 3, 2, 1), (0, 2, 3)),
        Weights(8, None),
        None,
    ],
    ids=["gradient", "notes", "weights", "no news", "end"],
)
def test_a_message_arrives_as_it_was_sent(message):
    server, worker = connected(2, len(VALUES))
    with ThreadPoolExecutor() as pool:
        pool.submit(worker.send, 0, message)
        got = server.receive(1)
    if message is None or message.values is None:
        assert got == message
        return
    assert got._replace(values=None) == message._replace(values=None)
    assert torch.equal(got.values, message.values)


def test_weights_come_while_the_worker_computes():
    server, worker = connected(2, len(VALUES))
    mailbox = Mailbox()
    remote = Remote(worker, mailbox)
    assert not mailbox.wait(0, timeout_s=0.01)
    server.send(1, Weights(1, VALUES))
    assert mailbox.wait(0, timeout_s=10)
    weights, received = mailbox.take()
    assert (weights.version, received) == (1, 1)
    with ThreadPoolExecutor() as pool:  # to send is to wait until the other side receives
        pool.submit(remote.deliver, Gradient(1, VALUES, SILENT, 0))
        assert server.receive(1).version == 1
        pool.submit(remote.close)
        assert server.receive(1) is None
    server.send(1, None)
    with pytest.raises(RuntimeError, match="the first rank is gone"):
        mailbox.wait(received)


def test_the_newest_weights_are_what_counts():
    mailbox = Mailbox()
    mailbox.put(Weights(3, VALUES))
    mailbox.put(Weights(3, None))  # go on with those
    assert torch.equal(mailbox.take()[0].values, VALUES)
    mailbox.put(Weights(4, 2 * VALUES))
    weights, received = mailbox.take()
    assert (weights.version, received) == (4, 3)


def test_who_waits_hears_that_nothing_will_come():
    mailbox = Mailbox()
    threading.Timer(0.05, mailbox.fail, ["the first rank is gone"]).start()
    with pytest.raises(RuntimeError, match="is gone"):
        mailbox.wait(0)
