"""Flow targets: labels -> flows, ours against cellpose's masks_to_flows on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Bench, Goal, Measurement, alternate, timed
from benchmarks.samples import Sample, cases
from cellkit.representations.flow import targets

NAME = "flow-targets"
TASK = "targets"
GOAL = Goal("faster", 5.0)
ROUNDS = 7


def measure(bench: Bench) -> Iterator[Measurement]:
    """Ours also makes the cell mask; cellpose's is made elsewhere and is not timed."""
    _ = bench.device  # memory allocator as the commands set it
    for case, samples in cases(bench.data, quick=bench.quick).items():
        labels = [sample.labels for sample in samples]
        bench.peer.prepare(TASK, labels)
        ours, other = alternate(
            timed(lambda labels=labels: [targets(label) for label in labels]),  # type: ignore[misc]
            lambda: bench.peer.run(TASK),
            bench.rounds(ROUNDS),
        )
        note = f"median angle between the two {_median_angle(samples, bench.peer.results(TASK)):.1f} degrees"
        yield Measurement(comparison=NAME, case=case, ours=ours, other=other, goal=GOAL, note=note)


def _median_angle(samples: list[Sample], theirs: list[NDArray[np.float64]]) -> float:
    """Over the pixels of cells; says that both compute the same thing."""
    angles = []
    for sample, other in zip(samples, theirs, strict=True):
        inside = sample.labels > 0
        cosine = (targets(sample.labels)[:2] * other).sum(0)[inside]
        angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    return float(np.median(np.concatenate(angles)))
