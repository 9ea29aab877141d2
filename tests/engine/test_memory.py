"""The ladder: batch, tile, CPU, end."""

from __future__ import annotations

import logging

import pytest
import torch

from cellkit.engine import Device, MemoryLadder
from cellkit.engine.memory import is_out_of_memory
from cellkit.errors import MemoryLimitError

GPU = Device(torch.device("cuda", 0), "fp32")


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (250_000_000, 8_000_000_000))


def test_what_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as real:
        torch.empty(2**50)
    assert is_out_of_memory(real.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator: can't allocate memory"))


def test_batch_halves_then_tile_halves_each_said(caplog):
    ladder = MemoryLadder()
    with caplog.at_level(logging.WARNING):
        ladder.step_down(GPU, 5, (256, 128), 72, None)
        assert (ladder.pixels, ladder.tile) == (2 * 256 * 128, None)
        ladder.step_down(GPU, 2, (256, 128), 72, None)
        ladder.step_down(GPU, 1, (256, 128), 72, None)
        assert ladder.tile == 128
    assert [record.message for record in caplog.records] == [
        "cuda:0: out of memory with 5 tiles at once, trying 2",
        "cuda:0: out of memory with 2 tiles at once, trying 1",
        "cuda:0: out of memory with a tile of 256 pixels, trying 128",
    ]


def test_the_cpu_is_the_last_rung_on_request(caplog):
    ladder = MemoryLadder()
    with caplog.at_level(logging.WARNING):
        ladder.step_down(GPU, 1, (64, 64), 8, "cpu")
    assert ladder == MemoryLadder(device=Device(torch.device("cpu"), "fp32"))
    assert caplog.messages == ["cuda:0: out of memory with a tile of 64 pixels, going on with the CPU"]


def test_the_end_says_what_would_help():
    with pytest.raises(MemoryLimitError) as caught:
        MemoryLadder().step_down(GPU, 1, (64, 64), 8, None)
    assert str(caught.value) == (
        "cuda:0: not even one tile of 64 pixels fits into its memory, of which 0.2 of 8.0 GB are free "
        "(free its memory, or use --device cpu or --oom-fallback cpu, or use a smaller model)"
    )
    assert caught.value.code == 137


def test_an_overlap_that_forbids_smaller_tiles_is_named(cpu):
    with pytest.raises(MemoryLimitError) as caught:
        MemoryLadder().step_down(cpu, 1, (256, 256), 200, "cpu")
    assert str(caught.value) == (
        "cpu: not even one tile of 256 pixels fits into its memory "
        "(use --overlap 64 or less, so that tiles of 128 are possible, or use a smaller model)"
    )
