"""CULPICO: two networks that learn from the source, and on the target from each other (Miyaki, Morikura et al.).

Each network takes what the other says of the target for the truth, pixel by pixel the less the more their
probabilities differ, and both are updated at once (eq. 1 to 5). The prediction is the mean of both.

As the paper: no threshold of reliability, weights without gradient, no ramp (``ramp`` is one), pseudo-cells where the
probability is above 0.5, the whole loss of both networks from one backward pass. The means over pixels (1/N) are over
all of a batch.

Unlike the authors' code: the best epoch is chosen by the loss of source images that were held out, as the paper says,
not by that of the training; and the running statistics of batch norm follow the crops of the target in training, where
theirs are those of the last validation images of the target (their networks never leave training mode). Source and
target are normalised apart, as there.

Beyond the paper: any representation with a probability of a cell. Pseudo-labels of instances are decoded cells, of
which targets are made again, and each term of the representation's loss is weighed by the same discrepancy. And a
guard (``adapt_collapse``): while nearly all pseudo-labels are background, or cell, only the source counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cellkit.engine.optimisers import Optimisers
from cellkit.methods.adapt_collapse import CollapseGuard
from cellkit.methods.adapt_ramp import risen
from cellkit.methods.adaptation import (
    Adaptation,
    DomainBatch,
    check_probability,
    domain_batches,
    of_members,
    probability,
    pseudo_targets,
    under,
)
from cellkit.methods.contrastive import unrecorded


class Culpico:
    """Cooperative self-learning of two networks with different initial weights.

    Raises:
        UsageError: the representation has no probability of a cell.
    """

    members = 2
    settled = True

    def __init__(self, adaptation: Adaptation) -> None:
        check_probability(adaptation.representation)
        self.adaptation = adaptation
        self.settings = adaptation.settings
        self.modules = nn.ModuleList([adaptation.network, adaptation.another(1)])
        self.guard = CollapseGuard(self.settings, next(adaptation.network.parameters()).device)
        self.steps = 0

    def batches(self, start: int) -> Iterator[DomainBatch]:
        """Crops of both domains from step ``start`` on."""
        return domain_batches(self.adaptation, start)

    def losses(self, batch: DomainBatch) -> dict[str, Tensor]:
        """``source TERM`` and ``target TERM``, each summed over both networks (eq. 1, 2), and two that are only logged.

        ``discrepancy`` is the mean over the target of |p1 - p2| (eq. 4), ``pseudo cells`` the part of its pixels that
        are pseudo-cells, mean over both.
        """
        source = [self._source(network, batch) for network in self.modules]
        return summed("source", source) | self._target(batch)

    def step(self, batch: DomainBatch, optimisers: Optimisers) -> dict[str, Tensor]:
        """Both networks at once down :meth:`losses`, of which one pass of the source lies in memory at a time."""
        source = []
        for network in self.modules:
            with optimisers.autocast():
                terms = self._source(network, batch)
            optimisers.accumulate(terms)
            source.append(terms)
        with optimisers.autocast():
            target = self._target(batch)
        optimisers.minimise(target)
        return summed("source", source) | target

    def _source(self, network: nn.Module, batch: DomainBatch) -> dict[str, Tensor]:
        """Terms of a network on the source."""
        with unrecorded(network) if self.settings.statistics == "target" else nullcontext():
            maps = network(batch.source.images).maps
        return self.adaptation.representation.loss(maps.float(), batch.source.targets)

    def _target(self, batch: DomainBatch) -> dict[str, Tensor]:
        """Terms of both networks on the target, from each other, and what is only logged."""
        representation, decoding = self.adaptation.representation, self.adaptation.decoding
        first, second = (network(batch.target).maps.float() for network in self.modules)
        with torch.no_grad():
            discrepancy = (probability(first, representation) - probability(second, representation)).abs()  # eq. 4
            of_first, of_second = (pseudo_targets(maps.detach(), representation, decoding) for maps in (first, second))
            share = torch.stack([(pseudo > 0).any(1).float().mean() for pseudo in (of_first, of_second)]).mean()
            weights = 1 - discrepancy if self.settings.discrepancy else None
        target = [
            representation.loss(first, of_second, weights),
            representation.loss(second, of_first, weights),
        ]  # eq. 2
        sound, factor = self.guard.sound(share, self.steps), risen(self.steps, self.settings.ramp)
        learned = {name: torch.where(sound, factor * term, 0.0) for name, term in summed("target", target).items()}
        return learned | {"discrepancy": discrepancy.mean(), "pseudo cells": share}

    def on_step_end(self, step: int) -> None:
        """Count, and say what the guard has noticed."""
        self.steps = step
        self.guard.tell(step)

    def split(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights of an ensemble of both networks; nothing is left over."""
        return of_members(under(state, "0."), under(state, "1.")), {}

    def state_dict(self) -> dict[str, Any]:
        """Steps done, and what the guard knows."""
        return {"steps": self.steps, "guard": self.guard.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.steps = state["steps"]
        self.guard.load_state_dict(state["guard"])


def summed(domain: str, terms: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Each term summed over several networks, named ``DOMAIN TERM``."""
    return {f"{domain} {name}": torch.stack([each[name] for each in terms]).sum() for name in terms[0]}
