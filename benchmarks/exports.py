"""Files for other tools: whole commands from a label image on the disk to the written files, against the clock."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from benchmarks.harness import Bench, Goal, Measurement, cellkit_command, timed
from benchmarks.scoring import PITCH, raster
from cellkit.io.labels import LabelImage, write_labels

NAME = "exports"
SECONDS = Goal("value", 5.0)
ROUNDS = 5
CELLS, CROPS, QUICK_CELLS = 30_000, 1_000, 100
FORMATS = {"ImageJ ROIs": "cells.zip", "QuPath GeoJSON": "cells.geojson", "COCO": "cells.json"}
SEED = 0


def measure(bench: Bench) -> Iterator[Measurement]:
    """A raster of round cells to each format, read back from outlines; and each cell of a smaller one as an image."""
    labels = _written(bench.scratch, QUICK_CELLS if bench.quick else CELLS)
    cells = _count(labels)
    for name, file in FORMATS.items():
        command = ["convert", str(labels), "-o", str(bench.scratch / file), "--on-exists", "overwrite", "-q"]
        seconds = _seconds(command, bench.rounds(ROUNDS))
        yield Measurement(comparison=NAME, case=f"{cells} cells to {name}", ours=seconds, goal=SECONDS)
    for name, file in list(FORMATS.items())[:2]:
        back = bench.scratch / "back.tif"
        command = ["convert", str(bench.scratch / file), "-o", str(back), "--on-exists", "overwrite", "-q"]
        seconds = _seconds(command, bench.rounds(ROUNDS))
        same = np.array_equal(tifffile.imread(back), tifffile.imread(labels))
        note = "the same labels" if same else "OTHER LABELS"
        yield Measurement(comparison=NAME, case=f"{name} of {cells} cells to labels", ours=seconds, note=note)
    yield _crops(bench)


def _crops(bench: Bench) -> Measurement:
    labels = _written(bench.scratch, QUICK_CELLS if bench.quick else CROPS)
    image = bench.scratch / "image.tif"
    shape = tifffile.imread(labels).shape
    tifffile.imwrite(image, np.random.default_rng(SEED).integers(0, 1 << 16, shape, np.uint16))
    outputs = ["-o", str(bench.scratch / "cells.csv"), "--crops", str(bench.scratch / "crops")]
    command = ["measure", str(labels), "--image", str(image), *outputs, "--on-exists", "overwrite", "-q"]
    seconds = _seconds(command, bench.rounds(ROUNDS))
    written = len(list((bench.scratch / "crops").glob("*.tif")))
    return Measurement(comparison=NAME, case=f"{written} crops by measure", ours=seconds, goal=SECONDS)


def _written(folder: Path, cells: int) -> Path:
    """A label image with at least so many cells."""
    side = PITCH * int(np.ceil(np.sqrt(cells)))
    path = folder / f"cells_{cells}.tif"
    write_labels(path, LabelImage(key=path.stem, labels=raster(side)))
    return path


def _count(labels: Path) -> int:
    return int(tifffile.imread(labels).max())


def _seconds(arguments: list[str], rounds: int) -> tuple[float, ...]:
    """Whole processes, after one that does not count."""
    command = [*cellkit_command(), *arguments]
    once = timed(lambda: subprocess.run(command, check=True))
    once()
    return tuple(once() for _ in range(rounds))
