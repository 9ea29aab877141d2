"""Metrics of label images: against stardist's matching, and on 10,000 x 10,000 pixels by time and peak memory."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Bench, Goal, Measurement, Unavailable, alternate, timed
from benchmarks.memory import peak_of
from benchmarks.samples import pairs
from cellkit.metrics import THRESHOLDS, score
from cellkit.metrics.surfaces import surface_distances

NAME = "scoring"
KEY = "07fb37aafa662660"  # 520 x 696 with 313 nuclei
FASTER = Goal("faster", 10.0)
CELLULUS = 1.46  # seconds of its own evaluation of 56 nuclei on 512 x 512, on two such cores
HUNDREDTH = Goal("value", CELLULUS / 100)
SECONDS, MEMORY = Goal("value", 10.0), Goal("value", 3.0)
ROUNDS = 50
REPEATS = 10  # of ours in a round: one takes a millisecond
SIDE, QUICK_SIDE = 10_000, 2_000
PITCH = 31  # pixels from cell to cell: 104,329 cells
RADIUS = 14.2
MISSED = 0.05  # share of the cells
GIGABYTE = 1e9


def measure(bench: Bench) -> Iterator[Measurement]:
    """One real image of many nuclei, then a raster of cells that is large or hard."""
    yield from _one_image(bench)
    yield from _large(bench, "2 px aside", (2, 2), MISSED)
    yield from _large(bench, "half a cell aside, none missed", (PITCH // 2, PITCH // 2), 0.0)


def _one_image(bench: Bench) -> Iterator[Measurement]:
    truth = _labels(bench.data)
    prediction = disturbed(truth)
    peer = _stardist()
    whole = timed(lambda: [score(truth, prediction, surfaces=False) for _ in range(REPEATS)])
    ours, other = alternate(
        lambda: whole() / REPEATS,
        timed(lambda: peer.matching(truth, prediction, thresh=THRESHOLDS)),
        bench.rounds(ROUNDS),
    )
    same = [int(one.tp) for one in peer.matching(truth, prediction, thresh=THRESHOLDS)]
    counts = score(truth, prediction, surfaces=False).counts
    agree = "equal" if same == [counts[f"tp@{t:g}"] for t in THRESHOLDS] else "DIFFERENT"
    yield Measurement(
        comparison=NAME,
        case=f"{len(np.unique(truth)) - 1} nuclei, all metrics of labels",
        ours=ours,
        other=other,
        goal=FASTER,
        note=f"peer: stardist, ten thresholds; matched pairs {agree}",
    )
    yield Measurement(
        comparison=NAME,
        case="the same against the clock",
        ours=ours,
        goal=HUNDREDTH,
        note=f"a hundredth of the {CELLULUS} s of Cellulus's own evaluation (of 56 nuclei)",
    )
    both = timed(lambda: score(truth, prediction))
    both()
    seconds = tuple(both() for _ in range(bench.rounds(ROUNDS)))
    yield Measurement(comparison=NAME, case="the same and outlines", ours=seconds, note="hd95 and asd take the rest")


def _large(bench: Bench, case: str, shift: tuple[int, int], missed: float) -> Iterator[Measurement]:
    """In a process of its own, by the peak of which the memory is known; labels are part of it."""
    side = QUICK_SIDE if bench.quick else SIDE
    for surfaces in (False, True):
        told = bench.scratch / "scoring.json"
        arguments = json.dumps(
            {"side": side, "shift": shift, "missed": missed, "surfaces": surfaces, "told": str(told)}
        )
        _, peak = peak_of([sys.executable, "-m", "benchmarks.scoring", arguments])
        found = json.loads(told.read_text())
        name = f"{side} x {side}, {found['cells']} cells, {case}{', outlines alone' if surfaces else ''}"
        goals = (None, MEMORY) if surfaces else (SECONDS, MEMORY)
        yield Measurement(comparison=NAME, case=name, ours=(found["seconds"],), goal=goals[0], note=found["note"])
        yield Measurement(comparison=NAME, case=name, ours=(peak / GIGABYTE,), unit="GB", goal=goals[1])


def disturbed(truth: NDArray[np.int32]) -> NDArray[np.int32]:
    """As a network would: moved, every tenth cell missed, every tenth merged with another; other ids."""
    random = np.random.default_rng(0)
    ids = 1 + random.permutation(int(truth.max()))
    merged = np.arange(1, ids.size - 1, 10)
    ids[merged] = ids[merged + 1]
    ids[::10] = 0
    moved = np.roll(truth, (2, -2), (0, 1))
    return np.concatenate(([0], ids))[moved].astype(np.int32)


def raster(side: int, shift: tuple[int, int] = (0, 0), missed: float = 0.0) -> NDArray[np.int32]:
    """(side, side) round cells in rows and columns; moved down and right, and some of them left out."""
    random = np.random.default_rng(0)
    y, x = np.ogrid[:PITCH, :PITCH]
    cell = (y - PITCH // 2) ** 2 + (x - PITCH // 2) ** 2 <= RADIUS**2
    number = -(-side // PITCH)
    labels = np.zeros((side, side), np.int32)
    for row in range(number):
        ids = np.arange(row * number + 1, (row + 1) * number + 1, dtype=np.int32)
        ids[random.random(number) < missed] = 0
        cells = (cell[:, None, :] * ids[None, :, None]).reshape(PITCH, number * PITCH)
        top = row * PITCH + shift[0]
        strip = labels[top : top + PITCH, shift[1] :]
        strip[:] = cells[: strip.shape[0], : strip.shape[1]]
    return labels


def _labels(data: Path) -> NDArray[np.int32]:
    pair = pairs(data, (KEY,))[0]
    read = pair.read()
    labels = pair.labels.read((int(read.pixels.shape[1]), int(read.pixels.shape[2]))).labels
    return np.asarray(labels, np.int32)


def _stardist() -> ModuleType:
    """Its matching module alone; importing it changes how warnings look."""
    shown = warnings.formatwarning
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from stardist import matching
    except ImportError as error:
        raise Unavailable("stardist is not installed (pip install '.[dev]')") from error
    finally:
        warnings.formatwarning = shown
    module: ModuleType = matching
    return module


def _score_once(side: int, shift: tuple[int, int], missed: float, surfaces: bool, told: str) -> None:
    """The work of the child process."""
    truth, prediction = raster(side), raster(side, shift, missed)

    def outlines() -> str:
        distances = surface_distances(truth, prediction)
        return "" if distances is None else f"{distances.size} surface points, mean distance {distances.mean():.2f} px"

    def matching() -> str:
        values = score(truth, prediction, surfaces=False).values
        return f"f1@0.5 {values['f1@0.5']:.3f}, aji_plus {values['aji_plus']:.3f}"

    work: Callable[[], str] = outlines if surfaces else matching
    begun = time.perf_counter()
    note = work()
    seconds = time.perf_counter() - begun
    cells = (-(-side // PITCH)) ** 2
    Path(told).write_text(json.dumps({"seconds": seconds, "cells": cells, "note": note}), encoding="utf-8")


if __name__ == "__main__":
    _score_once(**json.loads(sys.argv[1]))
