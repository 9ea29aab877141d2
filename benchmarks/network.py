"""Network and tiling: our engine against cellpose's run_net, the same residual U-Net with random weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.harness import Bench, Goal, Measurement, alternate, timed
from benchmarks.samples import Sample, cases
from cellkit.config import NetworkSpec, Preprocessing
from cellkit.engine.device import Device, open_device, prepare
from cellkit.engine.inference import infer
from cellkit.networks import build
from cellkit.stages.prediction import PredictSettings, tiling_of

NAME = "network"
GOAL = Goal("faster", 2.0)
ROUNDS = {True: 3, False: 2}  # for ten images, and for the large one: the peer takes a minute each


def measure(bench: Bench) -> Iterator[Measurement]:
    """Normalised images in memory -> maps; the commands' own precision and tiling on our side.

    cellpose runs as its users have it (MKL-DNN on). Told for information: against cellpose with MKL-DNN off, which
    spares it a conversion of the network per batch; and the same with us in 32 bits.
    """
    fp32 = open_device("cpu", "fp32")
    for case, samples in cases(bench.data, quick=bench.quick).items():
        several = len(samples) > 1
        rounds = bench.rounds(ROUNDS[several])
        yield _compare(bench, case, samples, bench.device, rounds=rounds, mkldnn=True, goal=GOAL)
        if several and not bench.quick:
            yield _compare(bench, f"{case}, peer without MKL-DNN", samples, bench.device, rounds=rounds, mkldnn=False)
            yield _compare(bench, f"{case}, both in fp32", samples, fp32, rounds=rounds, mkldnn=False)


def _compare(
    bench: Bench,
    case: str,
    samples: list[Sample],
    device: Device,
    *,
    rounds: int,
    mkldnn: bool,
    goal: Goal | None = None,
) -> Measurement:
    torch.manual_seed(0)
    network = prepare(build(NetworkSpec(channels=2, widths=(32, 64, 128, 256))).eval(), device)
    tiling = tiling_of(PredictSettings(), Preprocessing())
    images = [(sample.key, sample.image) for sample in samples]
    bench.peer.prepare(NAME, [image for _, image in images], mkldnn=mkldnn)
    ours, other = alternate(
        timed(lambda: list(infer(network, images, device, tiling))), lambda: bench.peer.run(NAME), rounds
    )
    return Measurement(
        comparison=NAME,
        case=case,
        ours=ours,
        other=other,
        goal=goal,
        note=f"ours in {device.precision}, peer in fp32, MKL-DNN {'on' if mkldnn else 'off'}",
    )
