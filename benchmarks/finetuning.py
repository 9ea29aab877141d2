"""Fine-tuning on eight images: the whole command, from a base to a model of one's own, against the clock."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from benchmarks.harness import Bench, Goal, Measurement, cellkit_command, timed
from benchmarks.samples import SMALL, pairs

NAME = "finetuning"
FIVE_MINUTES = Goal("value", 300.0)
STEPS, QUICK_STEPS = 100, 2
SHOTS = 8


def measure(bench: Bench) -> Iterator[Measurement]:
    """The bundled model (width 32), classic, 100 steps of 8 crops of 224; reading and writing count."""
    shots = pairs(bench.data, SMALL[:SHOTS])
    table = bench.scratch / "shots.csv"
    rows = [f"{pair.image},{pair.labels.name}" for pair in shots]
    table.write_text("\n".join(["image,labels", *rows]) + "\n")
    steps = QUICK_STEPS if bench.quick else STEPS
    output = bench.scratch / "tuned.ckpt"
    command = [*cellkit_command(), "finetune", str(table), "-m", "nuclei", "-o", str(output), "--steps", str(steps)]
    command += ["--on-exists", "overwrite", "-q"]
    seconds = timed(lambda: subprocess.run(command, check=True))()
    yield Measurement(comparison=NAME, case=f"{steps} steps, {len(shots)} shots", ours=(seconds,), goal=FIVE_MINUTES)
