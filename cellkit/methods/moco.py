"""Momentum contrast: features that tell an image from others, learnt without labels (He et al. 2020, Chen et al. 2020).

Two views of a crop shall have similar vectors, and views of different crops different ones (CUPre, eq. 4 to 6). The
query comes from the encoder that is trained, the keys from one whose weights follow as a running average, and the
negatives are the keys of former batches. The projection is dropped when training ends: the checkpoint is the network,
whose encoder has learned and whose other parts are as they were.

As MoCo, and unlike CUPre's eq. 6: the positive is in the denominator. As the authors' code: only parameters are
averaged, statistics of the key encoder come from its own batches; both vectors have unit length; the queue begins with
random ones. Theirs shuffles keys between GPUs, so that a query and its key are never normalised by the same batch. Here
keys are shuffled within a process, and pass through the encoder in groups (``key_groups``), each with statistics of
its own, while queries are normalised by the whole batch: that works on one GPU or CPU, too, and of other batch
normalisations than frozen ones a group needs two keys at least.

Left open by CUPre: temperature, queue, momentum, length of the vectors, batch. Those of MoCo v2 are taken, with a queue
of half as many keys as there are images, at most 4096: the 65,536 of ImageNet would hold every image of a collection of
cells several times, and each of them would be a false negative. Terms that are logged: ``contrast`` (eq. 6), and
``accuracy``, the part of the queries that are most similar to their own key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellkit.data.moco_views import ViewBatch
from cellkit.engine.distributed import rank, world_size
from cellkit.engine.optimisers import ParameterGroup
from cellkit.errors import UsageError
from cellkit.methods.moco_encoder import ImageEncoder
from cellkit.methods.moco_queue import KeyQueue, gathered, queue_size
from cellkit.methods.moco_settings import MoCoSettings

LEAST = 2  # keys of a group: batch normalisation of one pooled map has no variance


class Views(Protocol):
    """Images of which pairs of views are drawn."""

    def __len__(self) -> int:
        """Images."""

    def batches(
        self, start: int = 0, *, batch: int = 8, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[ViewBatch]:
        """As :meth:`cellkit.data.moco_views.ViewSet.batches`."""


class Projected(nn.Module):
    """Encoder and projection: (B, C, H, W) -> (B, projection), of unit length (eq. 4 and 5)."""

    def __init__(self, encoder: ImageEncoder, projection: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection

    def forward(self, x: Tensor) -> Tensor:
        """Float32 whatever the precision of the features."""
        return F.normalize(self.projection(self.encoder(x)).float(), dim=1)

    def weights(self) -> list[nn.Parameter]:
        """All that is averaged."""
        return [*self.encoder.weights(), *self.projection.parameters()]


class MoCo:
    """Momentum contrast on the encoder of a network.

    Args:
        network: on its device; only its encoder is trained.
        data: pairs of views of unlabelled images.
        settings: of loss, queue and key encoder.
        batch: crops per step, over all processes.
        seed: of batches, projection and queue.

    Attributes:
        modules: the network.
        query: encoder and projection that are trained.
        key: those that follow.
        queue: negatives.

    Raises:
        UsageError: the network has no encoder that learns, or groups of keys are smaller than two.
    """

    def __init__(self, network: nn.Module, data: Views, settings: MoCoSettings, *, batch: int, seed: int) -> None:
        self.modules = network
        self.data = data
        self.settings = settings
        self.batch = batch
        self.seed = seed
        encoder = ImageEncoder(network)
        if not any(weight.requires_grad for weight in encoder.weights()):
            raise UsageError("freeze_at", "nothing of the encoder is left to learn", "freeze less of it, e.g. 0")
        if batch // world_size() // settings.key_groups < LEAST:
            problem = f"{settings.key_groups} groups of {batch // world_size()} keys have fewer than {LEAST}"
            raise UsageError("key_groups", problem, "give a larger batch, or fewer groups")
        device = encoder.ground.device
        self.query = Projected(encoder, projection_of(encoder.features(), settings, seed).to(device))
        self.key = Projected(encoder.copied(), projection_of(encoder.features(), settings, seed).to(device))
        self.key.requires_grad_(False)
        size = queue_size(len(data), batch, settings.queue)
        self.queue = KeyQueue(size, settings.projection, seed=seed, device=device)
        self.fresh: Tensor | None = None  # keys of the step that is being done

    def parameter_groups(self) -> list[ParameterGroup]:
        """Encoder and projection; what else the network has is left alone."""
        return [{"params": [weight for weight in self.query.weights() if weight.requires_grad]}]

    def batches(self, start: int) -> Iterator[ViewBatch]:
        """Pairs of views from step ``start`` on."""
        return self.data.batches(start, batch=self.batch, seed=self.seed, rank=rank(), world_size=world_size())

    def losses(self, batch: ViewBatch) -> dict[str, Tensor]:
        """``contrast`` (eq. 6, with the positive in the denominator), and ``accuracy``, which is only logged."""
        queries = self.query(batch.queries)
        with torch.no_grad():
            keys = self._keys(batch)
            self.fresh = gathered(keys)
        with torch.autocast(queries.device.type, enabled=False):
            return contrast(queries, keys, self.queue.keys, self.settings.tau)

    def on_step_end(self, step: int) -> None:
        """The key encoder follows, and the keys of the step become negatives of those to come."""
        follow(self.key, self.query, self.settings.key_momentum)
        if self.fresh is not None:
            self.queue.push(self.fresh)
            self.fresh = None

    def restart(self) -> None:
        """Let the key encoder be the query encoder, which something else has changed; the queue stays."""
        self.key.encoder.load_state_dict(self.query.encoder.copied().state_dict())
        self.key.projection.load_state_dict(self.query.projection.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Projection, key encoder and queue."""
        return {
            "projection": self.query.projection.state_dict(),
            "key": self.key.state_dict(),
            "queue": self.queue.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.query.projection.load_state_dict(state["projection"])
        self.key.load_state_dict(state["key"])
        self.queue.load_state_dict(state["queue"])

    def _keys(self, batch: ViewBatch) -> Tensor:
        """(B, D) of the views in their order, which pass through the encoder in another, group by group."""
        count = len(batch.keys)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(batch.seed)).to(batch.keys.device)
        groups = batch.keys.index_select(0, order).tensor_split(self.settings.key_groups)
        keys = torch.cat([self.key(group) for group in groups])
        return torch.empty_like(keys).index_copy_(0, order, keys)


def projection_of(features: int, settings: MoCoSettings, seed: int) -> nn.Module:
    """From features to the vectors that are compared: one layer, of v2 two; equal seeds give equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        last = nn.Linear(features, settings.projection)
        if settings.version == "v1":
            return last
        return nn.Sequential(nn.Linear(features, features), nn.ReLU(), last)


def contrast(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> dict[str, Tensor]:
    """-log of exp(q k / tau) over its sum with that of all negatives (CUPre, eq. 6; He et al., eq. 1), and accuracy.

    Args:
        queries: (B, D) float32 of unit length.
        keys: (B, D) of the same crops.
        negatives: (D, K).
        temperature: tau.

    Returns:
        ``contrast``, the mean over queries, and ``accuracy``, without gradient.
    """
    positive = (queries * keys).sum(1, keepdim=True)
    logits = torch.cat([positive, queries @ negatives], 1) / temperature
    own = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    accuracy = (logits.detach().argmax(1) == 0).float().mean()
    return {"contrast": F.cross_entropy(logits, own), "accuracy": accuracy}


@torch.no_grad()
def follow(key: Projected, query: Projected, momentum: float) -> None:
    """Move the weights, not the statistics, of the key encoder: theta_k = m theta_k + (1 - m) theta_q (He, eq. 2)."""
    torch._foreach_lerp_([*key.weights()], [*query.weights()], 1 - momentum)
