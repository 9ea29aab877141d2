"""Flow decoding: maps -> cells, ours against cellpose's compute_masks with hole filling."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Bench, Goal, Measurement, alternate, timed
from benchmarks.samples import Sample, cases
from cellkit.representations import REPRESENTATIONS

NAME = "flow-decoding"
TASK = "decode"
GOAL = Goal("faster", 5.0)
ROUNDS = 5
FLOW_SCALE = 5.0  # networks put out five times the unit flow
LOGIT = 5.0  # of a cell pixel, and its negative in the background
NOISE = 0.5  # standard deviation, on all three maps


def measure(bench: Bench) -> Iterator[Measurement]:
    """Following, masks, flow-error check, hole filling, small cells removed; default settings on both sides."""
    _ = bench.device  # memory allocator as the commands set it
    flow = REPRESENTATIONS["flow"]
    settings = flow.settings()
    for case, samples in cases(bench.data, quick=bench.quick).items():
        maps = noisy_maps(samples)
        bench.peer.prepare(TASK, maps)
        ours, other = alternate(
            timed(lambda maps=maps: [flow.decode(one, settings) for one in maps]),  # type: ignore[misc]
            lambda: bench.peer.run(TASK),
            bench.rounds(ROUNDS),
        )
        found = sum(int(flow.decode(one, settings).labels.max()) for one in maps)
        theirs = sum(len(np.unique(masks)) - 1 for masks in bench.peer.results(TASK))
        true = sum(int(sample.labels.max()) for sample in samples)
        note = f"cells: ours {found}, peer {theirs}, true {true}"
        yield Measurement(comparison=NAME, case=case, ours=ours, other=other, goal=GOAL, note=note)


def noisy_maps(samples: list[Sample]) -> list[NDArray[np.float16]]:
    """(3, H, W) per sample: what a good network would put out, with noise."""
    random = np.random.default_rng(0)
    maps = []
    for sample in samples:
        clean = REPRESENTATIONS["flow"].targets(sample.labels)
        scaled = np.concatenate([FLOW_SCALE * clean[:2], LOGIT * (2 * clean[2:] - 1)])
        maps.append((scaled + random.normal(0, NOISE, scaled.shape)).astype(np.float16))
    return maps
