"""Supported supervision: the labels of a few cells, and a segmentation of all that nobody has looked at (Cellulus).

Half of a batch are crops of images of which some cells are labelled, each showing such a cell; the loss of the other
pixels is off, but for background near labelled cells. The other half are crops of a segmentation, most often of a model
that has learned without labels, in which labelled cells take the place of what was found there. The loss is
(1 - alpha) L_sparse + alpha L_pseudo, each of them the representation's on its half of the batch (Wolf et al.,
"Unsupervised Learning of Object-Centric Embeddings", section 4.2). With alpha 0 the whole batch is of the first kind:
supervised learning, as far as the labels go. With alpha 1, or without any label, it is of the second.

From the paper are the halves, the loss, the background of 30 px, Adam, batches of 8, and the network's depth of three
(appendix B). The authors' published code has no supervised part to compare with. Where we differ:

- The mini U-Net of depth three has 24, 48, 96 and 192 features by default, 1.3 million parameters, instead of 64, 192,
  576 and 1728: it sees the same 100 px, and its levels cost about the same each. --set widths=64,192,576,1728 is the
  paper's. Batches go through it once, both halves together.
- The paper trains 200 epochs at a rate of 1e-5, a tenth of it after 30, 80 and 160; the rate here is 1e-3, a tenth
  after two fifths of the steps and a hundredth after three. --steps 100 is for a model that can do something already: a
  fresh network wants a few thousand.
- Maps have the size of the crop, whose edges are mirrored for the network, as those of images are in prediction. The
  paper's valid convolutions give smaller maps.

The paper leaves open, and we chose: all crops of both halves have one magnification, which brings the median cell to 30
px and is that of prediction (with few labels the cells of one image say little of its scale); images are drawn equally
often, however many of their cells are labelled; crops are turned, mirrored, scaled and changed in intensity; any
representation can take the place of stars, and any network that of the mini U-Net, a trained one too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cellkit.data.training import Batch, TrainingSet
from cellkit.engine.distributed import rank, world_size
from cellkit.errors import UsageError
from cellkit.methods.settings import SupportedSettings
from cellkit.representations import Representation

SPARSE, PSEUDO = "sparse", "pseudo"  # the halves, in the names of their terms
PSEUDO_STREAM = 1  # of the crops of one seed: both halves may show the same images, and shall not show the same places


class SupportedBatch(NamedTuple):
    """What one step sees; a half that has no weight is not there.

    Attributes:
        sparse: crops of images of which some cells are labelled.
        pseudo: crops of images that were segmented.
    """

    sparse: Batch | None
    pseudo: Batch | None


class Supported:
    """Each batch: crops with sparse and with pseudo labels, their maps predicted together, the loss of each half.

    Args:
        network: what is trained.
        representation: targets and loss; pixels of label -1 have no loss.
        sparse: images of which some cells are labelled; None with alpha 1.
        pseudo: images with pseudo labels; None with alpha 0.
        settings: alpha.
        batch: crops per step, over all processes and both halves.
        seed: of the batches.

    Raises:
        UsageError: the batch cannot be halved, or a half is missing that has a weight.
    """

    def __init__(
        self,
        network: nn.Module,
        representation: Representation,
        *,
        sparse: TrainingSet | None,
        pseudo: TrainingSet | None,
        settings: SupportedSettings,
        batch: int,
        seed: int,
    ) -> None:
        self.modules = network
        self.representation = representation
        self.weights = {SPARSE: 1 - settings.alpha, PSEUDO: settings.alpha}
        sets = {SPARSE: sparse, PSEUDO: pseudo}
        self.sets = {name: data for name, data in sets.items() if data is not None and self.weights[name] > 0}
        missing = [name for name, weight in self.weights.items() if weight > 0 and name not in self.sets]
        if missing:
            raise UsageError("--alpha", f"{settings.alpha:g} needs {missing[0]} labels", "give them, or another alpha")
        if batch % len(self.sets):
            raise UsageError("batch", f"{batch} crops cannot be halved", f"give an even number such as {batch + 1}")
        self.share = batch // len(self.sets)
        self.seeds = {SPARSE: seed, PSEUDO: _stream(seed, PSEUDO_STREAM)}

    def batches(self, start: int) -> Iterator[SupportedBatch]:
        """Batches from step ``start`` on, each half made as those of :class:`cellkit.methods.supervised.Supervised`."""
        sparse, pseudo = (self._half(name, start) for name in (SPARSE, PSEUDO))
        for pair in zip(sparse, pseudo, strict=True):
            yield SupportedBatch(*pair)

    def losses(self, batch: SupportedBatch) -> dict[str, Tensor]:
        """The representation's terms of each half, weighed: ``sparse cell``, ``pseudo cell`` and so on."""
        halves = {name: half for name, half in batch._asdict().items() if half is not None}
        maps = self.modules(torch.cat([half.images for half in halves.values()])).maps.float()
        parts = maps.split([len(half.images) for half in halves.values()])
        terms: dict[str, Tensor] = {}
        for (name, half), part in zip(halves.items(), parts, strict=True):
            terms |= weighed(self.representation.loss(part, half.targets), name, self.weights[name])
        return terms

    def _half(self, name: str, start: int) -> Iterator[Batch | None]:
        data = self.sets.get(name)
        if data is None:
            return itertools.repeat(None)
        return data.batches(start, batch=self.share, seed=self.seeds[name], rank=rank(), world_size=world_size())


def weighed(terms: Mapping[str, Tensor], name: str, weight: float) -> dict[str, Tensor]:
    """The terms of one half, multiplied by its weight and called after it."""
    return {f"{name} {term}": weight * value for term, value in terms.items()}


def _stream(seed: int, number: int) -> int:
    """Another seed that follows from a seed."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
