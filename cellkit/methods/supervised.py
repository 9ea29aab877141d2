"""Supervised learning of dense maps from labelled images."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from cellkit.data.training import Batch, TrainingSet
from cellkit.engine.distributed import rank, world_size
from cellkit.representations import Representation


class Supervised:
    """Each batch: crops of labelled images, their maps predicted, the representation's loss.

    Args:
        network: what is trained.
        representation: targets and loss.
        data: labelled images with their targets; its batches depend only on (seed, step).
        batch: crops per step, over all processes.
        seed: of the batches.
    """

    def __init__(
        self, network: nn.Module, representation: Representation, data: TrainingSet, *, batch: int, seed: int
    ) -> None:
        self.modules = network
        self.representation = representation
        self.data = data
        self.batch = batch
        self.seed = seed

    def batches(self, start: int) -> Iterator[Batch]:
        """Batches from step ``start`` on: images (B, C, H, W), targets (B, T, H, W)."""
        return self.data.batches(start, batch=self.batch, seed=self.seed, rank=rank(), world_size=world_size())

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named terms of the representation's loss."""
        maps = self.modules(batch.images).maps
        return self.representation.loss(maps.float(), batch.targets)
