"""The queue of keys: what it holds after any number of steps, and how long it is."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch

from cellkit.methods.moco_queue import KeyQueue, gathered, queue_size

CPU = torch.device("cpu")


def numbered(first, count, length=3):
    return torch.arange(first, first + count, dtype=torch.float32)[:, None].expand(count, length)


def test_it_begins_with_random_columns_of_unit_length_that_depend_on_the_seed():
    first, again, other = (KeyQueue(40, 5, seed=seed, device=CPU) for seed in (1, 1, 2))
    torch.testing.assert_close(first.keys.norm(dim=0), torch.ones(40))
    assert torch.equal(first.keys, again.keys)
    assert not torch.equal(first.keys, other.keys)
    assert first.keys.mean(1).abs().max() < 0.4


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_it_holds_the_keys_of_the_last_steps_in_their_places(steps):
    queue = KeyQueue(6, 3, seed=0, device=CPU)
    literal = queue.keys.T.tolist()
    oldest = 0
    for step in range(steps):
        keys = numbered(100 * step, 2)
        queue.push(keys)
        for row in keys.tolist():  # one after the other into a ring
            literal[oldest] = row
            oldest = (oldest + 1) % 6
    assert queue.keys.T.tolist() == literal
    assert queue.pointer == oldest == 2 * steps % 6


def test_a_batch_that_does_not_divide_it_is_a_mistake():
    with pytest.raises(ValueError, match="a queue of 6 is no multiple of 4 keys"):
        KeyQueue(6, 3, seed=0, device=CPU).push(numbered(0, 4))


def test_it_goes_on_where_it_was():
    queue, other = KeyQueue(6, 3, seed=0, device=CPU), KeyQueue(6, 3, seed=9, device=CPU)
    queue.push(numbered(0, 4 // 2))
    state = {"keys": queue.keys.clone(), "pointer": queue.state_dict()["pointer"]}
    other.load_state_dict(state)
    for each in (queue, other):
        each.push(numbered(50, 2))
    assert torch.equal(queue.keys, other.keys)
    assert queue.pointer == other.pointer == 4


@pytest.mark.parametrize(
    ("images", "batch", "wanted", "size"),
    [
        (9666, 256, None, 4096),  # the collection of CUPre
        (1000, 32, None, 480),
        (1000, 32, 960, 960),
        (100_000, 256, 65_536, 65_536),
        (100_000, 256, None, 4096),
    ],
)
def test_it_has_half_as_many_keys_as_there_are_images_and_whole_batches(caplog, images, batch, wanted, size):
    assert queue_size(images, batch, wanted) == size
    assert not caplog.records


@pytest.mark.parametrize(
    ("images", "batch", "wanted", "size", "said"),
    [
        (1000, 32, 65_536, 992, "a queue of 992 is taken, not of 65536: there are 1000 images in batches of 32"),
        (1000, 32, 100, 96, "a queue of 96 is taken, not of 100: there are 1000 images in batches of 32"),
        (1, 32, None, 32, "1 image is fewer than a batch of 32: a query is told from its own image, too"),
        (20, 32, None, 32, "20 images are fewer than a batch of 32: a query is told from its own image, too"),
    ],
)
def test_another_number_than_was_wanted_is_said(caplog, images, batch, wanted, size, said):
    with caplog.at_level(logging.WARNING, logger="cellkit"):
        assert queue_size(images, batch, wanted) == size
    assert caplog.messages == [said]


def test_another_number_is_said_by_the_first_process_alone(caplog, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert (queue_size(1000, 32, 100), queue_size(20, 32)) == (96, 32)
    assert not caplog.records


def test_keys_of_one_process_are_all_there_are():
    keys = numbered(0, 2)
    assert gathered(keys) is keys


PROCESS = """
import sys, torch
from torch import distributed
from cellkit.methods.moco_queue import KeyQueue, gathered
rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
queue = KeyQueue(8, 3, seed=1, device=torch.device("cpu"))
for step in range(3):
    queue.push(gathered(torch.full((2, 3), float(10 * step + rank))))
torch.save(queue.state_dict(), f"{folder}/{rank}.pt")
distributed.destroy_process_group()
"""


def test_two_processes_have_the_queue_of_one(tmp_path):
    commands = [[sys.executable, "-W", "error", "-c", PROCESS, str(rank), str(tmp_path)] for rank in range(2)]
    assert [process.wait() for process in [subprocess.Popen(command) for command in commands]] == [0, 0]
    queue = KeyQueue(8, 3, seed=1, device=CPU)
    for step in range(3):
        queue.push(torch.tensor([0.0, 0, 1, 1])[:, None].expand(4, 3) + 10 * step)
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(state["keys"], queue.keys)
        assert state["pointer"] == queue.pointer == 4
