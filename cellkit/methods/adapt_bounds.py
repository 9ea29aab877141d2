"""Supervised learning between which adaptation is measured: of the source alone, and of the labelled target.

The lower bound learns from the source as if there were no target; the upper bound is the same, given the labelled
target as its source (CULPICO, "Evaluation metrics of segmentation"). Both see the crops of the source that every other
method sees in the same step.

An honest lower bound knows nothing of the target, so the running statistics of batch norm, which prediction uses, are
those of the source. With ``bound_statistics=target`` they are those of the target, whose crops then go through without
a gradient: this is adaptive batch normalisation (Li et al. 2016), and tells how much of what a method gains comes from
statistics alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from cellkit.engine.distributed import rank, world_size
from cellkit.methods.adaptation import Adaptation, DomainBatch, domain_batches
from cellkit.methods.contrastive import unrecorded


class SourceOnly:
    """The network learns from labelled crops of the source."""

    members = 1
    settled = True

    def __init__(self, adaptation: Adaptation) -> None:
        self.adaptation = adaptation
        self.modules = adaptation.network
        self.shows_target = adaptation.settings.bound_statistics == "target"

    def batches(self, start: int) -> Iterator[DomainBatch]:
        """Crops from step ``start`` on; none of the target, (0, C, h, w), where it plays no part."""
        own = self.adaptation
        if self.shows_target:
            return domain_batches(own, start)
        labelled = own.source.batches(start, batch=own.batch, seed=own.seed, rank=rank(), world_size=world_size())
        return (DomainBatch(source, source.images[:0], ()) for source in labelled)

    def losses(self, batch: DomainBatch) -> dict[str, Tensor]:
        """``source TERM`` for each term of the representation's loss."""
        if self.shows_target:
            with unrecorded(self.modules):
                maps = self.modules(batch.source.images).maps
            with torch.no_grad():
                self.modules(batch.target)
        else:
            maps = self.modules(batch.source.images).maps
        terms = self.adaptation.representation.loss(maps.float(), batch.source.targets)
        return {f"source {name}": term for name, term in terms.items()}

    def split(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights of the network; nothing is left over."""
        return dict(state), {}
