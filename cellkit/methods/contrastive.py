"""Contrastive fine-tuning (Scellseg, eq. 2 and 3): labelled shots, unlabelled query images, images of other styles.

Batch normalisation: each of the three sets of crops is normalised by its own statistics, as in the authors' code; of
those, only the shots' enter the running statistics that inference uses. So the pass of the shots is that of classic
fine-tuning to the last bit, contrast images leave no trace in the model but through the gradient, and both ways of
fine-tuning differ in the loss alone. In the authors' code all three sets enter (the setting statistics=all): contrast
images, which come from what the base has learned from, then keep its statistics alive. Normalising all crops together
would mix the styles that are to be told apart, and would make the maps of the shots depend on the others.

Query and contrast crops go through the encoder alone, which their styles come from: their maps have no loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cellkit.data.style_crops import StyleCrops
from cellkit.data.training import Batch
from cellkit.engine.distributed import rank, world_size
from cellkit.engine.optimisers import ParameterGroup
from cellkit.errors import ModelError, UsageError
from cellkit.methods.classic import Classic
from cellkit.methods.tuning import Tuning
from cellkit.networks import Output, Styled

NETWORK, ALPHA = "network", "alpha"  # of the modules' state


class ContrastBatch(NamedTuple):
    """What one step sees.

    Attributes:
        shots: labelled crops, images (B, C, h, w) with targets (B, T, h, w).
        query: (B, C, h, w) crops of unlabelled images of the experiment.
        contrast: (B, C, h, w) crops of one other style.
    """

    shots: Batch
    query: Tensor
    contrast: Tensor


class WeighedNetwork(nn.Module):
    """A network with alpha, the trained weight of the contrast term; predicts as the network does."""

    def __init__(self, network: nn.Module, alpha: float) -> None:
        super().__init__()
        self.network = network
        device = next(network.parameters()).device
        self.alpha = nn.Parameter(torch.tensor(alpha, dtype=torch.float32, device=device))

    def forward(self, x: Tensor) -> Output:
        """(B, C, H, W) -> the output of the network."""
        output: Output = self.network(x)
        return output


class Contrastive:
    """Classic fine-tuning with a term that brings styles of query crops near and keeps those of other styles away.

    Several processes compare the crops of their own share alone; the gradient is the mean over processes.

    Raises:
        UsageError: crops of query or contrast are missing, or the encoder, which the term trains, is frozen.
        ModelError: the network tells no style.
    """

    def __init__(self, tuning: Tuning) -> None:
        self.query, self.contrast = _crops(tuning)
        self.network = _styled(tuning)
        self.classic = Classic(tuning)
        self.settings = tuning.contrast_settings
        self.modules = WeighedNetwork(tuning.network, self.settings.alpha)

    def batches(self, start: int) -> Iterator[ContrastBatch]:
        """Batches from step ``start`` on; as many query and contrast crops as shots."""
        share = self.classic.batch // world_size()
        first = rank() * share
        for step, shots in zip(itertools.count(start), self.classic.batches(start), strict=False):
            yield ContrastBatch(
                shots,
                self.query.crops(step, share, first=first),
                self.contrast.crops(step, share, first=first),
            )

    def losses(self, batch: ContrastBatch) -> dict[str, Tensor]:
        """The representation's terms, ``contrast`` with its weight, and ``alpha``, which is only logged."""
        output = self.modules(batch.shots.images)
        with unrecorded(self.modules.network) if self.settings.statistics == "shots" else nullcontext():
            query, contrast = self.network.styles(batch.query), self.network.styles(batch.contrast)
        ratio = contrast_ratio(output.style, query, contrast, self.settings.epsilon)
        alpha = self.modules.alpha
        terms = self.classic.representation.loss(output.maps.float(), batch.shots.targets)
        return terms | {
            "contrast": torch.sigmoid(alpha) * ratio,  # eq. 3
            ALPHA: alpha.detach().clone(),  # of this step: the optimiser changes it in place
        }

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Alpha has a learning rate of its own and no weight decay."""
        trained = [p for p in self.modules.network.parameters() if p.requires_grad]
        alpha = {"params": [self.modules.alpha], "lr": self.settings.alpha_rate, "weight_decay": 0.0}
        return [{"params": trained}, alpha]

    def split(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights of the network, and alpha."""
        prefix = f"{NETWORK}."
        weights = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        return weights, {ALPHA: state[ALPHA]}


def contrast_ratio(shots: Tensor, query: Tensor, contrast: Tensor, epsilon: float) -> Tensor:
    """Distance of shots to query over their distance to contrast, summed over all pairs (Scellseg, eq. 2).

    Alpha's gradient has its sign, which is never negative: training lowers alpha in every step, so that in effect it
    fades the term out.

    Args:
        shots: (N, S) styles.
        query: (M, S) styles of the same experiment.
        contrast: (K, S) styles of another.
        epsilon: keeps the denominator above 0.
    """
    return pair_errors(shots, query) / (pair_errors(shots, contrast) + epsilon)


def pair_errors(first: Tensor, second: Tensor) -> Tensor:
    """Sum over all pairs of rows (N, S), (M, S) of their mean squared error, in float32.

    By differences, not by products of the rows: near styles would cancel.
    """
    return (first.float()[:, None] - second.float()[None]).square().mean(2).sum()


@contextmanager
def unrecorded(network: nn.Module) -> Iterator[None]:
    """Inside, batch norms in training mode normalise by the batch but leave their running statistics alone."""
    recording = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for module in recording:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in recording:
            module.track_running_stats = True


def _crops(tuning: Tuning) -> tuple[StyleCrops, StyleCrops]:
    """Crops of query and contrast images."""
    if tuning.part != "all":
        problem = f"with {tuning.part!r} the encoder is frozen, which contrastive fine-tuning trains"
        raise UsageError("--train", problem, "use --train all, or --method classic")
    if tuning.query is None:
        repair = "give --query DIR with unlabelled images of the experiment"
        raise UsageError("--query", "contrastive fine-tuning needs images to compare the shots with", repair)
    if tuning.contrast is None:
        problem = "contrastive fine-tuning needs images of other styles"
        raise UsageError("--contrast", problem, "give --contrast DIR with a folder of images per style")
    return tuning.query, tuning.contrast


def _styled(tuning: Tuning) -> Styled:
    if not isinstance(tuning.network, Styled):
        raise ModelError(tuning.base, "its network has no style output", "use --method classic")
    return tuning.network
