"""Maximum classifier discrepancy: two decoders that differ where the target is unlike the source (Saito et al. 2018).

Crops of the target on whose cells two classifiers F1 and F2 differ, though both are right on the source, lie outside of
what the source supports. So the classifiers learn to differ there, and the generator G, which both share, to leave them
no occasion. Each batch has three steps (section 3.3):

- A: G, F1 and F2 minimise the loss of the source, that of F1 plus that of F2 (eq. 2 and 3);
- B: with G fixed, F1 and F2 minimise the loss of the source less the discrepancy on the target (eq. 4 and 5);
- C: with F1 and F2 fixed, G minimises the discrepancy (eq. 6), n times on the same crops (``mcd_n``).

The discrepancy is d(p1, p2) = 1/K sum over classes |p1k - p2k| (eq. 1), mean over pixels, as in the authors' code for
segmentation, where n = 4.

G is the encoder, F1 and F2 are two decoders with their skip connections (CULPICO: "two decoder models branching from a
single encoder model"); Saito et al. cut their networks near their end. There is one optimiser: what a step keeps fixed
has no gradient, and is left alone with all that the optimiser knows of it. Weight by weight these are the two
optimisers of the authors' code, of G and of F, so that momentum and scale of a weight are those of all its steps.

Left open by the paper: how many classifiers predict; here the mean of both. Batch norm: source and target are
normalised apart, as there; of the passes of the target only the last of step C enters the running statistics, which
would else be nearly those of one batch. Representations without classes (flow, hover, star) compare the probability of
a cell, and its counterpart, for which 1/K of the sum is |p1 - p2|; their other maps follow through the encoder alone.
The term by which the authors balance classes on VisDA is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn

from cellkit.engine.optimisers import Optimisers
from cellkit.methods.adaptation import (
    Adaptation,
    DomainBatch,
    check_probability,
    domain_batches,
    of_members,
    probability,
    under,
)
from cellkit.methods.contrastive import unrecorded
from cellkit.methods.culpico import summed
from cellkit.methods.mcd_decoders import TwoDecoders
from cellkit.representations import Representation

CLASSES = frozenset({"mask", "border"})  # representations whose maps are the logits of classes, all of them


class MaximumDiscrepancy:
    """One encoder against two decoders.

    Raises:
        UsageError: the representation has no probability of a cell.
        ModelError: the network has no decoder of which there could be two.
    """

    members = 2
    settled = True

    def __init__(self, adaptation: Adaptation) -> None:
        check_probability(adaptation.representation)
        self.adaptation = adaptation
        self.representation, self.settings = adaptation.representation, adaptation.settings
        self.modules = TwoDecoders(adaptation.network, adaptation.another(1))

    def batches(self, start: int) -> Iterator[DomainBatch]:
        """Crops of both domains from step ``start`` on."""
        return domain_batches(self.adaptation, start)

    def losses(self, batch: DomainBatch) -> dict[str, Tensor]:
        """``source TERM`` for each term of the representation's loss, the sum over both decoders (eq. 2 and 3)."""
        return self._source(batch, recorded=self.settings.statistics == "both")

    def step(self, batch: DomainBatch, optimisers: Optimisers) -> dict[str, Tensor]:
        """Steps A, B and C.

        Returns:
            the terms of A, and, only logged, the ``discrepancy`` on the target before the decoders have raised it (B),
            and the ``discrepancy left`` before the encoder lowers it for the last time (C).
        """
        with optimisers.autocast():
            source = self.losses(batch)
        optimisers.minimise(source)  # A
        with fixed(self.modules.encoder):
            with optimisers.autocast():
                again = self._source(batch, recorded=False)
                found = self._discrepancy(batch, recorded=False)
            optimisers.minimise(again | {"discrepancy": -found})  # B
        with fixed(self.modules.decoders):
            for turn in range(1, self.settings.mcd_n + 1):
                with optimisers.autocast():
                    left = self._discrepancy(batch, recorded=turn == self.settings.mcd_n)
                optimisers.minimise({"discrepancy": left})  # C
        return source | {"discrepancy": found.detach(), "discrepancy left": left.detach()}

    def split(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Two whole networks with the same encoder as an ensemble; nothing is left over."""
        first = under(state, "0.")
        return of_members(first, first | under(state, "1.")), {}

    def _source(self, batch: DomainBatch, *, recorded: bool) -> dict[str, Tensor]:
        with recording(self.modules, recorded):
            both = self.modules(batch.source.images)
        terms = [self.representation.loss(maps.float(), batch.source.targets) for maps in both]
        return summed("source", terms)

    def _discrepancy(self, batch: DomainBatch, *, recorded: bool) -> Tensor:
        with recording(self.modules, recorded):
            first, second = self.modules(batch.target)
        return discrepancy(first, second, self.representation)


def discrepancy(first: Tensor, second: Tensor, representation: Representation) -> Tensor:
    """Mean over pixels and classes of the difference of two probabilities (eq. 1), a scalar.

    Args:
        first: maps (B, C, H, W) of one decoder.
        second: maps of the other.
        representation: of the maps.
    """
    if representation.name in CLASSES:
        return (first.float().softmax(1) - second.float().softmax(1)).abs().mean()
    return (probability(first, representation) - probability(second, representation)).abs().mean()


@contextmanager
def fixed(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, parameters have no gradient: neither backward passes nor optimisers spend time on them."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def recording(network: nn.Module, recorded: bool) -> Iterator[None]:
    """Whether running statistics of batch norms follow what goes through inside."""
    with nullcontext() if recorded else unrecorded(network):
        yield
