"""How long it takes until help is there: whole processes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

from benchmarks.harness import Bench, Goal, Measurement, cellkit_command, timed

NAME = "startup"
GOALS = {("--help",): Goal("value", 0.15), ("segment", "--help"): Goal("value", 0.2)}
ROUNDS = 15


def measure(bench: Bench) -> Iterator[Measurement]:
    """From the start of the process to its end."""
    for arguments, goal in GOALS.items():
        command = [*cellkit_command(), *arguments]
        run = timed(lambda command=command: subprocess.run(command, check=True, capture_output=True))  # type: ignore[misc]
        run()  # byte code, file cache
        seconds = tuple(run() for _ in range(bench.rounds(ROUNDS)))
        yield Measurement(comparison=NAME, case=" ".join(["cellkit", *arguments]), ours=seconds, goal=goal)
