"""Cellulus: a training step and the noisy passes of one image, against the authors' arithmetic in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import Bench, Goal, Measurement, alternate, timed
from cellkit.data.unlabelled import UnlabelledBatch
from cellkit.engine.device import Device, prepare
from cellkit.engine.inference import Tiling, infer
from cellkit.engine.optimisers import Optimisers, parameters_of
from cellkit.engine.settings import FitSettings
from cellkit.methods.oce import draw_pairs, oce_loss
from cellkit.methods.oce_settings import OceSettings
from cellkit.networks.mini_unet import MiniUNet
from cellkit.ops.noisy_passes import Maps, Noise, Pixels, mean_and_spread

Copies: TypeAlias = Iterator[tuple[str, Callable[[], Pixels]]]

NAME, PASSES = "cellulus-step", "cellulus-passes"
STEP_GOAL, PASSES_GOAL = Goal("faster", 3.0), Goal("faster", 4.0)
ROUNDS = 3
BATCH, CROP, SIDE = 8, 252, 512
MARGIN = 8  # pixels that the network takes from each side
SEED = 0


def measure(bench: Bench) -> Iterator[Measurement]:
    """Ours as the commands run it; the other side in fp32 and torch's default layout, with its way of pairing.

    The authors' code needs packages that cannot be installed here: the other side is its network, with the shapes and
    the order of its work, in the same process. As the memory allocator is tuned for both, the ratio is too small.
    """
    batch, side = (2, 128) if bench.quick else (BATCH, CROP)
    images = torch.rand(batch, 1, side, side, generator=torch.Generator().manual_seed(SEED))
    ours, other = alternate(timed(_our_step(bench.device, images)), timed(_plain_step(images)), bench.rounds(ROUNDS))
    yield Measurement(
        comparison=NAME,
        case=f"{batch} crops of {side}, width 24",
        ours=ours,
        other=other,
        goal=STEP_GOAL,
        note=f"ours in {bench.device.precision}, other in fp32",
    )
    yield _passes(bench)


def _passes(bench: Bench) -> Measurement:
    side, noise = (128, Noise(repeats=1)) if bench.quick else (SIDE, Noise())
    network = prepare(_network(), bench.device)
    image = np.random.default_rng(SEED).random((1, side, side), np.float32)
    ours, other = alternate(
        timed(lambda: list(mean_and_spread([("image", image)], _run(network, bench.device), noise))),
        timed(lambda: _plain_passes(_network().eval(), image, noise)),
        bench.rounds(ROUNDS),
        warm_up=bench.quick,
    )
    return Measurement(
        comparison=PASSES,
        case=f"{noise.copies} copies of {side} x {side}, width 24",
        ours=ours,
        other=other,
        goal=PASSES_GOAL,
        note=f"ours in {bench.device.precision}, other in fp32",
    )


def _network() -> MiniUNet:
    torch.manual_seed(SEED)
    return MiniUNet()


def _run(network: nn.Module, device: Device) -> Callable[[Copies], Iterator[tuple[str, Maps]]]:
    return lambda copies: infer(network, copies, device, Tiling())


def _our_step(device: Device, images: Tensor) -> Callable[[], None]:
    network, settings = _network(), OceSettings()
    prepare(network, device)
    optimisers = Optimisers(parameters_of(network), FitSettings(optimiser="adam"), device)
    batch = UnlabelledBatch(images, tuple(range(len(images))))

    def step() -> None:
        with device.autocast():
            offsets = network.valid(batch.images).maps.float()
            pairs = draw_pairs(batch.seeds, (offsets.shape[2], offsets.shape[3]), settings, offsets.device)
            losses = oce_loss(offsets, pairs, settings)
        optimisers.minimise(losses)

    return step


def _plain_step(images: Tensor) -> Callable[[], None]:
    """Absolute embeddings of all pixels, gathered by pairs of 64-bit coordinates."""
    network, settings = _network().train(), OceSettings()
    optimiser = torch.optim.Adam(network.parameters())
    side = images.shape[2] - 2 * MARGIN

    def step() -> None:
        pairs = draw_pairs(range(len(images)), (side, side), settings, torch.device("cpu"))
        references = pairs.references.long()
        where = torch.stack([references % side, references // side % side], -1)
        crop = references // side**2
        anchor = where - pairs.shifts.permute(1, 2, 0).flip(-1).long()
        place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"))
        embeddings = network.valid(images).maps + place
        first, second = (embeddings[crop, :, at[..., 1], at[..., 0]] for at in (anchor, where))
        near = torch.exp(-(first - second.detach()).square().sum(-1) / settings.temperature)
        loss = (1 - near).sum() + settings.regularisation * first.norm(dim=-1).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


@torch.inference_mode()
def _plain_passes(network: MiniUNet, image: Pixels, noise: Noise) -> Tensor:
    """One copy after the other through the whole network, all maps kept."""
    pixels = np.pad(image, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)), mode="reflect")
    random = np.random.default_rng(noise.seed)
    maps = []
    for value in noise.values:
        for _ in range(noise.repeats):
            copy = np.where(random.random(pixels.shape) < noise.fraction, value, pixels).astype(np.float32)
            maps.append(network.valid(torch.from_numpy(copy)[None]).maps[0])
    stacked = torch.stack(maps)
    return torch.cat([stacked.mean(0), stacked.std(0, correction=0).sum(0, keepdim=True)])
