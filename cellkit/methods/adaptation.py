"""What every way of unsupervised domain adaptation is given, what it offers, and what several of them share.

A model for one kind of cells, the source, of which images are labelled, becomes one for another, the target, of which
images are there without labels. Crops of both come in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cellkit.data.training import Batch, TrainingSet
from cellkit.data.unlabelled import UnlabelledSet
from cellkit.engine.distributed import rank, world_size
from cellkit.engine.method import Method
from cellkit.errors import UsageError
from cellkit.methods.adapt_settings import AdaptSettings
from cellkit.methods.meta_losses import CELL_LOGITS
from cellkit.representations import DecodeSettings, Representation

TARGET_STREAM = 1  # of the crops of one seed, so that source and target are drawn apart


class DomainBatch(NamedTuple):
    """Crops of both domains.

    Attributes:
        source: labelled.
        target: (B, C, h, w) without labels.
        seeds: one per target crop, for what a method draws on it.
    """

    source: Batch
    target: Tensor
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Adaptation:
    """What a way of adaptation is made from; each takes of it what it needs.

    Attributes:
        network: on its device, in training mode.
        another: number 1, 2, ... -> a network of the same kind and mode with other initial weights: those of the base
            with a head of its own where there is a base, as ``network`` has them otherwise.
        representation: targets and loss.
        decoding: settings by which pseudo-labels become cells.
        source: labelled images.
        target: images without labels.
        settings: of all methods.
        batch: crops per step of each domain, over all processes.
        steps: of the whole run.
        seed: of the batches.
    """

    network: nn.Module
    another: Callable[[int], nn.Module]
    representation: Representation
    decoding: DecodeSettings
    source: TrainingSet
    target: UnlabelledSet
    settings: AdaptSettings = field(default_factory=AdaptSettings)
    batch: int = 8
    steps: int = 1000
    seed: int = 0


class AdaptMethod(Method[Any], Protocol):
    """A way of adaptation: a method that trains more than what is predicted with.

    Attributes:
        members: networks whose mean prediction is the model's.
        settled: whether it is past what only comes before its own way of learning, so that its weights may be chosen.
    """

    members: int

    @property
    def settled(self) -> bool:
        """See the class."""

    def split(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The state of its modules as the weights of the model (of several members as those of an ensemble of them,
        ``members.0.NAME``, ``members.1.NAME``), and what was trained beside it."""


def domain_batches(adaptation: Adaptation, start: int) -> Iterator[DomainBatch]:
    """Crops of both domains from step ``start`` on; batch number s depends on the seed and on s alone.

    Raises:
        UsageError: the processes cannot share a batch equally.
    """
    own = {"batch": adaptation.batch, "rank": rank(), "world_size": world_size()}
    other = int(np.random.SeedSequence((adaptation.seed, TARGET_STREAM)).generate_state(1)[0])
    labelled = adaptation.source.batches(start, seed=adaptation.seed, **own)
    unlabelled = adaptation.target.batches(start, seed=other, **own)
    for source, target in zip(labelled, unlabelled, strict=True):
        yield DomainBatch(source, target.images, target.seeds)


def check_probability(representation: Representation) -> None:
    """Adaptation compares probabilities of cells.

    Raises:
        UsageError: the representation has none.
    """
    if representation.name not in CELL_LOGITS:
        problem = f"'{representation.name}' has no map of the probability of a cell"
        raise UsageError("--representation", problem, f"choose from {', '.join(CELL_LOGITS)}")


def probability(maps: Tensor, representation: Representation) -> Tensor:
    """Probability of a cell, (B, H, W) float32, of the maps (B, C, H, W) of a network."""
    return CELL_LOGITS[representation.name](maps.float()).sigmoid()


@torch.no_grad()
def pseudo_targets(maps: Tensor, representation: Representation, decoding: DecodeSettings) -> Tensor:
    """What maps say, as if it were the truth: targets (B, T, H, W) float32 of their cells.

    Masks are where a cell is more probable than not (CULPICO, eq. 3), on the device of the maps. Any other
    representation is decoded into cells and made targets of again, image by image on the CPU, so that the flows of a
    pseudo-label are those of whole cells.

    Args:
        maps: (B, C, H, W).
        representation: of the maps.
        decoding: settings by which they become cells.
    """
    if representation.name == "mask":
        return (CELL_LOGITS["mask"](maps) > 0).float()[:, None]
    found = (representation.decode(each, decoding).labels for each in maps.float().cpu().numpy())
    return torch.from_numpy(np.stack([representation.targets(labels) for labels in found])).to(maps.device)


def of_members(*networks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of several networks as those of an ensemble of them."""
    return {f"members.{i}.{name}": tensor for i, weights in enumerate(networks) for name, tensor in weights.items()}


def under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The part of a state below a prefix, by names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
