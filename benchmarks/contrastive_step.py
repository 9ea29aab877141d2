"""A step of contrastive fine-tuning: ours against the way of Scellseg's authors, time and memory."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.harness import Bench, Goal, Measurement, timed
from benchmarks.memory import peak_of
from benchmarks.samples import pairs
from cellkit.config import NetworkSpec, Preprocessing
from cellkit.data.augment import Augmentation
from cellkit.data.examples import Targets
from cellkit.data.style_crops import StyleCrops, pack
from cellkit.data.style_images import stored_styles
from cellkit.data.training import TrainingSet
from cellkit.engine.device import open_device, prepare
from cellkit.engine.optimisers import Optimisers
from cellkit.engine.settings import FitSettings
from cellkit.methods import Tuning
from cellkit.methods.contrastive import Contrastive
from cellkit.networks import build
from cellkit.representations import REPRESENTATIONS

NAME = "contrastive-step"
SPEED_GOAL = Goal("faster", 3.0)
MEMORY_GOAL = Goal("cost", 0.5)
AUTHORS_SECONDS = 20.9  # a step of the authors' own code on two cores, measured once, elsewhere
ROUNDS = 3
BATCH, CROP, QUICK_CROP = 8, 224, 64
STYLES, PER_STYLE, STORED = 7, 5, 290  # contrast crops as a checkpoint carries them
STEPS = 2  # timed per process, after one that is not
SEED = 0
GREY = ("00071198d059ba7f", "10ba6cbee4873b32", "003cee89357d9fe1", "07fb37aafa662660")  # the shots; of SMALL
GIGABYTE = 1e9

Step = Callable[[], None]


def measure(bench: Bench) -> Iterator[Measurement]:
    """The style-aware U-Net at full width; each side in processes of its own, in turns.

    Ours: the method by the parts of the engine, memory allocator tuned, bf16 where the processor has it, crops cut from
    real images in the time that counts. The other side: the authors' way written down literally, on crops that are
    there already: three whole passes in float32 with a gradient through all, the pairs one by one.
    """
    crop, steps = (QUICK_CROP, 1) if bench.quick else (CROP, STEPS)
    rounds = [{side: _run(side, bench, crop, steps) for side in SIDES} for _ in range(bench.rounds(ROUNDS))]
    ours, other = (tuple(taken[side].seconds for taken in rounds) for side in SIDES)
    case = f"3 x {BATCH} crops of {crop}"
    note = f"ours in {bench.device.precision}, the authors' way in fp32"
    yield Measurement(comparison=NAME, case=case, ours=ours, other=other, goal=SPEED_GOAL, note=note)
    if not bench.quick:
        yield Measurement(
            comparison=NAME,
            case=f"{case}, authors' own code",
            ours=ours,
            other=(AUTHORS_SECONDS,) * len(ours),
            goal=SPEED_GOAL,
            note="theirs measured once, elsewhere",
        )
    ours, other = (tuple(taken[side].peak / GIGABYTE for taken in rounds) for side in SIDES)
    yield Measurement(comparison=NAME, case=f"{case}, peak memory", ours=ours, other=other, unit="GB", goal=MEMORY_GOAL)


@dataclass(frozen=True)
class _Taken:
    """What one process took: seconds per step, bytes at its peak."""

    seconds: float
    peak: int


def _run(side: str, bench: Bench, crop: int, steps: int) -> _Taken:
    """Steps in a process of its own."""
    result = bench.scratch / f"{side}.json"
    command = [sys.executable, "-m", "benchmarks.contrastive_step", side, str(result), str(bench.data)]
    _, peak = peak_of([*command, str(crop), str(steps)])
    return _Taken(float(json.loads(result.read_text())["seconds"]), peak)


def our_step(data: Path, crop: int) -> Step:
    """What the training loop of the engine does in one step of contrastive fine-tuning."""
    device = open_device("cpu")
    preprocessing = Preprocessing(channels=2)
    flow = REPRESENTATIONS["flow"]
    augmentation = Augmentation(crop=crop)
    shots = TrainingSet(
        pairs(data, GREY), preprocessing, Targets(compute=flow.targets, vectors=flow.vectors), augmentation
    )
    torch.manual_seed(SEED)
    stored = {f"style{i}": pack(torch.rand(PER_STYLE, 2, STORED, STORED)) for i in range(STYLES)}
    styles = stored_styles(stored, preprocessing, base="random")
    method = Contrastive(
        Tuning(
            network=prepare(build(NetworkSpec(name="style-unet")), device),
            representation=flow,
            shots=shots,
            batch=BATCH,
            seed=SEED,
            query=StyleCrops(styles[:1], augmentation, 2, seed=SEED, stream=1),
            contrast=StyleCrops(styles, augmentation, 2, seed=SEED, stream=2),
        )
    )
    optimisers = Optimisers(method.parameter_groups(), FitSettings(optimiser="adam", weight_decay=0.0), device)
    batches = method.batches(0)

    def step() -> None:
        batch = next(batches)
        with device.autocast():
            losses = method.losses(batch)
        optimisers.minimise(losses)

    return step


def authors_step(data: Path, crop: int) -> Step:
    """The authors' way: nothing is shared, spared or lowered in precision; memory is glibc's as it comes."""
    torch.manual_seed(SEED)
    network = build(NetworkSpec(name="style-unet")).train()
    alpha = torch.tensor(0.2, requires_grad=True)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    optimiser.add_param_group({"params": [alpha], "lr": 0.1})
    shots, query, contrast = (torch.rand(BATCH, 2, crop, crop) for _ in range(3))
    targets = torch.rand(BATCH, 3, crop, crop).round()
    loss = REPRESENTATIONS["flow"].loss

    def step() -> None:
        shot, near, far = network(shots), network(query), network(contrast)
        positive = sum(F.mse_loss(a, b) for a in shot.style for b in near.style)
        negative = sum(F.mse_loss(a, b) for a in shot.style for b in far.style)
        terms = loss(shot.maps, targets)
        total = terms["flow"] + terms["cell"] + positive / (negative + 1e-5) * torch.sigmoid(alpha)
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


SIDES: dict[str, Callable[[Path, int], Step]] = {"ours": our_step, "authors": authors_step}


def main() -> None:
    """Run one side in this process and write seconds per step."""
    parser = argparse.ArgumentParser(description="One side of the comparison.")
    parser.add_argument("side", choices=list(SIDES))
    parser.add_argument("result", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("crop", type=int)
    parser.add_argument("steps", type=int)
    options = parser.parse_args()
    step = SIDES[options.side](options.data, options.crop)
    step()  # compilers, caches, first pages
    seconds = timed(lambda: [step() for _ in range(options.steps)])()
    options.result.write_text(json.dumps({"seconds": seconds / options.steps}))


if __name__ == "__main__":
    main()
