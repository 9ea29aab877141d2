"""Object-centric embeddings: offsets towards the middle of the cell, learnt without a single label.

Pairs of neighbouring pixels shall agree on where their object is. Inside a cell they can; between cells the offsets are
random and cancel (Wolf et al., "Unsupervised Learning of Object-Centric Embeddings", equations 4 and 5). The network's
maps are offsets (y, x) in pixels: pixel p embeds itself at p + maps(p), which is the paper's p - r(p).

As the authors' code, and unlike the paper: distances are damped by 1 - exp(-d^2 / tau), which begins at 0 (the paper's
sigmoid is damping=sigmoid), and anchors are compared with references of their own, all in the disc around them, not
with one common set. Unlike their code: references learn, too (detach_reference=true leaves them as they are), the
regulariser is on offsets, as in the paper, not on absolute places, which it would draw to the corner of the image, and
there is no weight decay. Left open by the paper: how crops are deformed (as in the code: by scale, angle and elastic
jitter; mirrored as well), and the rate for short trainings: 1e-3, falling as a cosine, over crops of 128 learns in a
thousand steps what 4e-5 takes 50 epochs for (lr 4e-5, schedule=tenths and crop=252 are the paper's).

Objects are brought to one size before the network sees them: one for all images, or, where images differ in
magnification, one for each (--object-size each), which the paper does by hand per dataset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cellkit.data.unlabelled import UnlabelledBatch, UnlabelledSet
from cellkit.engine.distributed import rank, world_size
from cellkit.errors import UsageError
from cellkit.methods.oce_settings import OceSettings
from cellkit.networks.mini_unet import MiniUNet

SHORT = torch.int32  # of positions: half the memory of what torch takes by itself


class Pairs(NamedTuple):
    """Pixels that are compared, A anchors per crop with R references each.

    Attributes:
        anchors: (B * A,) positions of the anchors in a map whose (B, H, W) are flattened.
        references: (B * A, R) positions of their references.
        shifts: (2, B * A, R) float32 rows and columns from anchor to reference.
    """

    anchors: Tensor
    references: Tensor
    shifts: Tensor


class ObjectCentric:
    """Each batch: crops of unlabelled images, the network's offsets, and how much pairs of pixels disagree.

    Args:
        network: what is trained, with two maps.
        data: unlabelled images; their crops depend only on (seed, step).
        settings: of pairs and loss.
        batch: crops per step, over all processes.
        seed: of the batches.

    Raises:
        UsageError: the crops leave no room for pairs.
    """

    def __init__(self, network: MiniUNet, data: UnlabelledSet, settings: OceSettings, *, batch: int, seed: int) -> None:
        self.modules = network
        self.data = data
        self.settings = settings
        self.batch = batch
        self.seed = seed
        least = 2 * (network.margin + int(settings.kappa)) + 1
        if data.crop < least:
            raise UsageError("crop", f"{data.crop} pixels leave no room for pairs", f"use a crop of {least} or more")

    def batches(self, start: int) -> Iterator[UnlabelledBatch]:
        """Batches from step ``start`` on: images (B, C, H, W) and a seed for the pairs of each."""
        return self.data.batches(start, batch=self.batch, seed=self.seed, rank=rank(), world_size=world_size())

    def losses(self, batch: UnlabelledBatch) -> dict[str, Tensor]:
        """``embedding`` and ``regulariser``; see :func:`oce_loss`."""
        offsets = self.modules.valid(batch.images).maps.float()
        pairs = draw_pairs(batch.seeds, (offsets.shape[2], offsets.shape[3]), self.settings, offsets.device)
        return oce_loss(offsets, pairs, self.settings)


def draw_pairs(seeds: Sequence[int], size: tuple[int, int], settings: OceSettings, device: torch.device) -> Pairs:
    """Draw anchors all over each map but its border of kappa, and references in the disc around each anchor.

    Args:
        seeds: one per crop; equal seeds give equal pairs on equal devices.
        size: (H, W) of the maps.
        settings: kappa and density.
        device: where pairs are drawn and wanted.
    """
    height, width = size
    border = int(settings.kappa)
    inner = (height - 2 * border, width - 2 * border)
    disc = _disc(settings.kappa).to(device)  # (2, D)
    anchor_count = max(1, int(settings.density * inner[0] * inner[1]))
    reference_count = max(1, int(settings.density * math.pi * settings.kappa**2))
    generator = torch.Generator(device)
    anchors, chosen = [], []
    for crop, seed in enumerate(seeds):
        generator.manual_seed(seed)
        place = torch.randint(inner[0] * inner[1], (anchor_count,), generator=generator, device=device, dtype=SHORT)
        row, column = place // inner[1] + border, place % inner[1] + border
        anchors.append((crop * height + row) * width + column)
        size_of_choice = (anchor_count, reference_count)
        chosen.append(torch.randint(disc.shape[1], size_of_choice, generator=generator, device=device, dtype=SHORT))
    anchor, choice = torch.cat(anchors), torch.cat(chosen)
    steps = disc[0] * width + disc[1]  # in the flattened map
    return Pairs(anchor, anchor[:, None] + steps[choice], disc.float()[:, choice])


def oce_loss(offsets: Tensor, pairs: Pairs, settings: OceSettings) -> dict[str, Tensor]:
    """How far the embeddings of the pixels of a pair lie apart, far ones damped (Wolf et al., equation 5).

    With e(i) = i + offset(i), sum of damping(|e(i) - e(j)|^2) + lambda |offset(i)| over anchors i and references j.

    Args:
        offsets: (B, 2, H, W) float32: y, x in pixels.
        pairs: as :func:`draw_pairs` gives them.
        settings: temperature, lambda, damping, reduction.

    Returns:
        ``embedding`` and ``regulariser``, scalars.
    """
    # one map at a time: gathering from and adding to a plane is twice as fast as with pairs of numbers
    squares, length = torch.zeros((), device=offsets.device), torch.zeros((), device=offsets.device)
    for axis in range(2):
        plane = offsets[:, axis].reshape(-1)
        at_anchor = plane.index_select(0, pairs.anchors)
        target = plane.detach() if settings.detach_reference else plane
        at_reference = target.index_select(0, pairs.references.flatten()).view(pairs.references.shape)
        squares = squares + (at_anchor[:, None] - at_reference - pairs.shifts[axis]).square()
        length = length + at_anchor.square()
    near = torch.exp(squares / -settings.temperature)
    damped = 1 - near if settings.damping == "gaussian" else 1 / (1 + near)
    # the smallest normal number keeps the gradient of the root finite where an offset is zero
    regulariser = settings.regularisation * length.clamp(min=torch.finfo(length.dtype).tiny).sqrt()
    if settings.reduction == "mean":
        return {"embedding": damped.mean(), "regulariser": regulariser.mean()}
    return {"embedding": damped.sum(), "regulariser": regulariser.sum() * damped.shape[1]}


def _disc(radius: float) -> Tensor:
    """(2, D) int32: rows and columns of the pixels not further than ``radius`` from the middle, without it."""
    reach = torch.arange(-int(radius), int(radius) + 1, dtype=torch.int32)
    y, x = torch.meshgrid(reach, reach, indexing="ij")
    square = y**2 + x**2
    inside = (square > 0) & (square <= radius**2)
    return torch.stack([y[inside], x[inside]])
