"""A large image without labels: 10,000 x 10,000 uint16 through noisy passes and mean shift, by its peak memory."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from benchmarks.harness import Bench, Goal, Measurement, cellkit_command
from benchmarks.huge import CELL, GIGABYTE, cells_in, write_nuclei
from benchmarks.memory import peak_of

NAME = "huge-embedding"
GOAL = Goal("value", 4.0)
SIDE, QUICK_SIDE, LEARNED_SIDE = 10_000, 2_000, 1_200
STEPS, QUICK_STEPS = 200, 20
SIZE = 22  # px, of the nuclei that are drawn
COPIES = 1  # of salt and of pepper: one copy is in memory at a time, so that more take time alone


def measure(bench: Bench) -> Iterator[Measurement]:
    """Peak resident memory of ``segment`` with a model that has just learned without labels."""
    side = QUICK_SIDE if bench.quick else SIDE
    source, target, model = bench.scratch / "large.tif", bench.scratch / "large-cells.tif", bench.scratch / "oce.ckpt"
    small = bench.scratch / "small.tif"
    write_nuclei(source, side)
    write_nuclei(small, LEARNED_SIDE)
    steps = QUICK_STEPS if bench.quick else STEPS
    common = ["--device", "cpu", "-q"]
    learn = ["pretrain", str(small), "-o", str(model), "--method", "oce", "--object-size", str(SIZE)]
    subprocess.run([*cellkit_command(), *learn, "--steps", str(steps), "--set", "batch=4", *common], check=True)
    found = ["segment", str(source), "-o", str(target), "-m", str(model), "--set", "post=nucleus"]
    seconds, peak = peak_of([*cellkit_command(), *found, "--set", f"noise_copies={COPIES}", *common])
    yield Measurement(
        comparison=NAME,
        case=f"{side} x {side}",
        ours=(peak / GIGABYTE,),
        unit="GB",
        goal=GOAL,
        note=f"{2 * COPIES} copies; {seconds:.0f} s, {cells_in(target)} cells of {(side // CELL) ** 2} drawn",
    )
