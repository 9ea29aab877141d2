"""Shared fixtures: the real images, where they are, and named synthetic situations."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# the same examples in every run, and no clock: tests are never timed
settings.register_profile("cellkit", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("cellkit")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _audible_log():
    """What a command that ran in this process, also for a fixture of many tests, set up for its log is gone."""
    log = logging.getLogger("cellkit")
    log.handlers.clear()
    log.setLevel(logging.NOTSET)
    log.propagate = True


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of real annotated images; CELLKIT_DATA names another place."""
    folder = Path(os.environ.get("CELLKIT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real images are absent: {folder} (set CELLKIT_DATA)")
    return folder


@pytest.fixture(scope="session")
def two_processes() -> Callable[..., list[str]]:
    """Runs a script in two gloo processes, as torchrun does: ``run(script, *words)`` gives what each of them said.

    A script that meets ``ports`` times gets as many free ports, with commas between, as its last word.
    """

    def run(script: str, *words: object, ports: int = 1) -> list[str]:
        with contextlib.ExitStack() as stack:
            probes = [stack.enter_context(socket.socket()) for _ in range(ports)]
            for probe in probes:
                probe.bind(("127.0.0.1", 0))
            free = [str(probe.getsockname()[1]) for probe in probes]
        command = [sys.executable, script, *map(str, words), *([",".join(free)] if ports > 1 else [])]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free[0]}
        shared = os.environ | group | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        processes = [
            subprocess.Popen(
                command,
                env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        errors = [process.communicate(timeout=600)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], errors
        return errors

    return run


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    """Boolean disc (H, W)."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


@pytest.fixture
def two_touching_cells() -> np.ndarray:
    """Labels (64, 80): two discs of radius 14 that share a straight border."""
    labels = np.zeros((64, 80), np.int32)
    labels[disc(labels.shape, (32, 26), 14)] = 1
    labels[disc(labels.shape, (32, 50), 14) & (labels == 0)] = 2
    return labels


@pytest.fixture
def cell_on_border() -> np.ndarray:
    """Labels (48, 48): one cell cut by the upper edge, one whole."""
    labels = np.zeros((48, 48), np.int32)
    labels[disc(labels.shape, (2, 20), 9)] = 1
    labels[disc(labels.shape, (32, 30), 8)] = 2
    return labels


@pytest.fixture
def empty_field() -> np.ndarray:
    """Labels (40, 56) without any cell."""
    return np.zeros((40, 56), np.int32)


@pytest.fixture
def crowded_field() -> np.ndarray:
    """Labels (128, 128): a grid of 6 x 6 cells of radius 4 to 9, many touching, ids with gaps."""
    labels = np.zeros((128, 128), np.int32)
    for i in range(36):
        centre = (12 + 20 * (i // 6), 12 + 20 * (i % 6))
        labels[disc(labels.shape, centre, 4 + i % 6) & (labels == 0)] = 3 * i + 1
    return labels
