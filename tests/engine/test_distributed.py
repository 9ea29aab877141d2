"""Several processes: one gradient, one writer, one decision to stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cellkit.engine import distributed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def launch(tmp_path):
    """Start tiny_run.py in two gloo processes, as torchrun does; gives exit codes and errors."""

    def run(*arguments):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).with_name("tiny_run.py")), str(tmp_path), *arguments]
        processes = [
            subprocess.Popen(
                command,
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(ROOT)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        errors = [process.communicate(timeout=120)[1] for process in processes]
        return [process.returncode for process in processes], errors

    return run


def test_two_processes_are_one_with_the_whole_batch(tiny, launch, tmp_path):
    codes, errors = launch("--method", "shared")
    assert codes == [0, 0], errors
    first, second = (torch.load(tmp_path / f"weights{rank}", weights_only=True) for rank in range(2))
    (tmp_path / "alone").mkdir()
    alone, _ = tiny.run(tmp_path / "alone", tiny.SharedMethod())
    for name, weight in alone.modules.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], weight, rtol=1e-4, atol=1e-5)
    saved = tiny.load(tmp_path / "last")
    assert torch.equal(saved["training"]["modules"]["0.weight"], first["0.weight"])


def test_a_signal_to_one_stops_both_at_the_same_step(tiny, launch, tmp_path):
    number = str(int(signal.SIGTERM))
    codes, errors = launch("--method", "shared", "--signal", number, "--step", "7", "--rank", "1")
    assert codes == [1, 1]
    assert all("InterruptedRunError" in text and "after step 7 of 24" in text for text in errors)
    assert tiny.load(tmp_path / "last")["training"]["step"] == 7


def test_alone_there_is_nothing_to_agree_on(cpu, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.share([1, 2, 3]) == [1, 2, 3]
    assert distributed.largest(15, cpu) == 15
    with distributed.joined(cpu):
        assert not torch.distributed.is_initialized()


def test_shares_are_disjoint_and_whole(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shares += distributed.share(list(range(9)))
    assert sorted(shares) == list(range(9))
