"""Class-balanced self-training: rounds of pseudo-labels, each of the surest part of every class (Zou et al. 2018).

The network first learns from the source alone. Then in each round it labels the target once, and learns from the
source and from these labels until the next round. A pixel n gets the class c of the largest p(c) / exp(-k_c), if that
is not below 1, and none otherwise ("Class-balanced self-training", the solution of its step a). exp(-k_c) is the
probability down to which lies the portion p of the pixels of which c is the most probable class (algorithm 2), so that
rare classes are not crowded out by frequent ones. p is 0.2 in the first round, 0.05 more in each, and at most 0.5, as
in the paper's experiments.

With two classes, cell and background, this is a threshold on either side of the cell's logit, where all is computed:
probabilities near 1 are equal in float32, their logits are not. A pixel of the threshold's own value is labelled, as in
the authors' code, and unlike the paper's "> 1": so no tie, of which bf16 makes many, leaves a class without labels.

The loss is the sum over pixels of both domains (step b), so that a labelled pixel of the target counts as much as one
of the source: target terms are means over all pixels, in which those without label are 0.

As in the paper, labels stay as they are for a whole round, while the network learns: a copy of the network as it was at
the round's beginning labels the crops, as training shows them. So labels fit crops that are turned and mirrored, and
nothing but the copy is kept. Thresholds come from ``cbst_batches`` batches of crops, the same in all processes. In
every pass, batch norms normalise the crops of a domain by their own statistics, the copy's too; the paper's labels come
from an ordinary test.

Not ours: spatial priors (CBST-SP), test by flipping and at several scales, patches that are mined for rare classes, the
growing share of source images and the falling rate of the authors' code.

Beyond the paper: any representation with a probability of a cell. Pseudo-labels are then decoded cells, and a pixel
counts if what it was decoded as, cell or background, is among the surest of that class.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cellkit.engine.distributed import rank, world_size
from cellkit.methods.adapt_settings import AdaptSettings
from cellkit.methods.adaptation import Adaptation, DomainBatch, check_probability, domain_batches, pseudo_targets
from cellkit.methods.contrastive import unrecorded
from cellkit.methods.meta_losses import CELL_LOGITS

THRESHOLD_STREAM = 2  # of the crops of one seed: those of training are drawn apart


class RoundBatch(NamedTuple):
    """What one step sees.

    Attributes:
        domains: crops of both; none of the target, (0, C, h, w), in the warm-up.
        round: 1, 2, ...; 0 in the warm-up.
    """

    domains: DomainBatch
    round: int


class PseudoLabels(NamedTuple):
    """What the network of the round's beginning says of crops.

    Attributes:
        targets: (B, T, H, W) float32.
        cells: (B, H, W) booleans, what is a cell in them.
        kept: (B, H, W) booleans, which pixels are sure enough.
    """

    targets: Tensor
    cells: Tensor
    kept: Tensor


class ClassBalanced:
    """The network learns from the source, and in rounds from what it is surest of on the target.

    Attributes:
        round: the present one; 0 before the first.
        labeller: the network as it was when the round began.
        thresholds: (2,) logits of a cell, at most which background, and at least which cells are labelled.

    Raises:
        UsageError: the representation has no probability of a cell.
    """

    members = 1

    def __init__(self, adaptation: Adaptation) -> None:
        check_probability(adaptation.representation)
        self.adaptation = adaptation
        self.representation, self.settings = adaptation.representation, adaptation.settings
        self.modules = adaptation.network
        self.round = 0
        self.labeller = copy.deepcopy(adaptation.network).requires_grad_(False)
        self.thresholds = next(adaptation.network.parameters()).new_tensor([-math.inf, math.inf])  # nothing is sure

    def batches(self, start: int) -> Iterator[RoundBatch]:
        """Crops from step ``start`` on, with the round of each."""
        own, first = self.adaptation, round(self.settings.cbst_warmup * self.adaptation.steps)
        share = {"batch": own.batch, "seed": own.seed, "rank": rank(), "world_size": world_size()}
        for _, source in zip(range(start, first), own.source.batches(start, **share), strict=False):
            yield RoundBatch(DomainBatch(source, source.images[:0], ()), 0)
        start = max(start, first)
        for step, domains in zip(itertools.count(start), domain_batches(own, start), strict=False):
            yield RoundBatch(domains, round_of(step - first, own.steps - first, self.settings.cbst_rounds))

    def losses(self, batch: RoundBatch) -> dict[str, Tensor]:
        """``source TERM`` and, after the warm-up, ``target TERM`` for each term of the representation's loss.

        Only logged: ``kept cells`` and ``kept background``, the parts of the target's pixels of either class that are
        labelled, near the portion of the round, and ``pseudo cells``, the part that is cell, labelled or not.
        """
        if batch.round > self.round:
            self.begin(batch.round)
        source, target = batch.domains.source, batch.domains.target
        alone = batch.round > 0 and self.settings.statistics == "target"  # before, there is no target to follow
        with unrecorded(self.modules) if alone else nullcontext():
            maps = self.modules(source.images).maps.float()
        terms = _named("source", self.representation.loss(maps, source.targets))
        if batch.round == 0:
            return terms
        pseudo = self.labels(target)
        maps = self.modules(target).maps.float()
        return (
            terms
            | _named("target", self.representation.loss(maps, pseudo.targets, pseudo.kept.float()))
            | {
                "kept cells": _part(pseudo.kept, pseudo.cells),
                "kept background": _part(pseudo.kept, ~pseudo.cells),
                "pseudo cells": pseudo.cells.float().mean(),
            }
        )

    @property
    def settled(self) -> bool:
        """Whether the rounds have begun, or there are none."""
        return self.round > 0 or self.settings.cbst_warmup >= 1

    @torch.no_grad()
    def begin(self, number: int) -> None:
        """Begin a round: the present network labels from now on, by new thresholds. Run it under autocast."""
        self.labeller.load_state_dict(self.modules.state_dict())
        seed = int(np.random.SeedSequence((self.adaptation.seed, THRESHOLD_STREAM)).generate_state(1)[0])
        count = self.settings.cbst_batches
        drawn = self.adaptation.target.batches(number * count, batch=self.adaptation.batch, seed=seed)
        logits = [self._logits(self._labeller_maps(each.images)).flatten() for each in itertools.islice(drawn, count)]
        self.thresholds = class_thresholds(torch.cat(logits), portion_of(number, self.settings))
        self.round = number

    @torch.no_grad()
    def labels(self, images: Tensor) -> PseudoLabels:
        """Pseudo-labels of crops (B, C, h, w) of the target, in a round."""
        maps = self._labeller_maps(images)
        targets = pseudo_targets(maps, self.representation, self.adaptation.decoding)
        cells = (targets > 0).any(1)
        logits, (below, above) = self._logits(maps), self.thresholds
        return PseudoLabels(targets, cells, torch.where(cells, logits >= above, logits <= below))

    def split(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights of the network; nothing is left over."""
        return dict(state), {}

    def state_dict(self) -> dict[str, Any]:
        """The round, and what labels in it."""
        return {"round": self.round, "thresholds": self.thresholds, "labeller": self.labeller.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.round = state["round"]
        self.labeller.load_state_dict(state["labeller"])
        self.thresholds = state["thresholds"].to(self.thresholds.device)

    def _labeller_maps(self, images: Tensor) -> Tensor:
        with unrecorded(self.labeller):
            maps: Tensor = self.labeller(images).maps
        return maps.float()

    def _logits(self, maps: Tensor) -> Tensor:
        return CELL_LOGITS[self.representation.name](maps)


def class_thresholds(logits: Tensor, portion: float) -> Tensor:
    """Logits down to which, and up to which, the surest portion of the pixels of either class lies (algorithm 2).

    With the logit x of a cell, p(cell) / exp(-k) >= 1 is x >= t, where k = log(1 + exp(-t)); for background likewise.
    Waits for the device, once.

    Args:
        logits: (N,) of pixels; those above 0 are cells.
        portion: of the pixels of a class, rounded down.

    Returns:
        (2,): for background, at most which, and for cells, at least which; infinite where nothing is to be labelled.
    """
    ordered = logits.sort().values
    cells = int((logits > 0).sum())
    ground, count = math.floor(portion * (len(logits) - cells)), math.floor(portion * cells)
    below = ordered[ground - 1] if ground else ordered.new_tensor(-math.inf)
    above = ordered[len(logits) - count] if count else ordered.new_tensor(math.inf)
    return torch.stack([below, above])


def portion_of(number: int, settings: AdaptSettings) -> float:
    """Part of the pixels of each class that is labelled in round 1, 2, ..."""
    return min(settings.cbst_portion + (number - 1) * settings.cbst_growth, settings.cbst_most)


def round_of(step: int, steps: int, rounds: int) -> int:
    """The round, from 1 on, of a step counted from the first round on: rounds share the steps; the last goes on."""
    return min(1 + step * rounds // max(steps, 1), rounds)


def _named(domain: str, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{domain} {name}": term for name, term in terms.items()}


def _part(kept: Tensor, of: Tensor) -> Tensor:
    """Part of some pixels that is kept; 0 where there are none."""
    return (kept & of).sum() / of.sum().clamp(min=1)
