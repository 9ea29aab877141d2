"""An image that does not fit: 20,000 x 20,000 uint16 through ``cellkit segment``, by its peak memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from benchmarks.harness import Bench, Goal, Measurement, cellkit_command
from benchmarks.memory import peak_of
from benchmarks.models import model

NAME = "huge"
GOAL = Goal("value", 4.0)
SIDE, QUICK_SIDE = 20_000, 2_000
CELL = 40  # pixels of the raster in which nuclei lie, one each
STRIP = 400  # rows written at once
GIGABYTE = 1e9


def measure(bench: Bench) -> Iterator[Measurement]:
    """Peak resident memory of the process and of all that it starts."""
    side = QUICK_SIDE if bench.quick else SIDE
    source, target = bench.scratch / "huge.tif", bench.scratch / "cells.tif"
    write_nuclei(source, side)
    name, words = model(bench.scratch)
    command = [*cellkit_command(), "segment", str(source), "-o", str(target), "-m", name, "--device", "cpu", "-q"]
    seconds, peak = peak_of(command)
    cells = (side // CELL) ** 2
    yield Measurement(
        comparison=NAME,
        case=f"{side} x {side}",
        ours=(peak / GIGABYTE,),
        unit="GB",
        goal=GOAL,
        note=f"{words}; {seconds:.0f} s, {cells_in(target)} cells of {cells} drawn",
    )


def write_nuclei(path: Path, side: int) -> None:
    """A TIFF (side, side) uint16 of bright soft discs, radius 8 to 14 pixels, on a dark noisy ground; strip by strip.

    Args:
        path: of the file.
        side: a multiple of 400 pixels.
    """
    random = np.random.default_rng(0)
    pixels = tifffile.memmap(path, shape=(side, side), dtype=np.uint16, photometric="minisblack")
    for row in range(0, side, STRIP):
        pixels[row : row + STRIP] = _strip(random, side)
    pixels.flush()


def _strip(random: np.random.Generator, side: int) -> NDArray[np.uint16]:
    """(STRIP, side): each square of the raster holds one nucleus."""
    squares = (STRIP // CELL, 1, side // CELL, 1)
    y, x = random.uniform(CELL / 2 - 5, CELL / 2 + 5, (2, *squares)).astype(np.float32)
    radius = random.uniform(8, 14, squares).astype(np.float32)
    brightness = random.uniform(4_000, 12_000, squares).astype(np.float32)
    place = np.arange(CELL, dtype=np.float32)
    distance = np.hypot(place[None, :, None, None] - y, place[None, None, None, :] - x)
    nuclei = brightness * np.clip((radius - distance) / 3, 0, 1)  # the edge is 3 pixels wide
    ground = random.normal(800, 60, (STRIP, side)).astype(np.float32)
    return np.asarray(np.clip(nuclei.reshape(STRIP, side) + ground, 0, 65_535), np.uint16)


def cells_in(path: Path) -> int:
    """Largest label, read in strips."""
    with tifffile.TiffFile(path) as file:
        return max((int(part.max()) for part, _, _ in file.pages.first.segments() if part is not None), default=0)
