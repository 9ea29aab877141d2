"""Which weights of an adaptation are the best: those with the smallest loss on held-out images of the source.

Source and not target, as the paper has it (CULPICO, Methods): there are no labels of the target. So images
of the target that are labelled, for monitoring, choose nothing.

Batch norms normalise held-out crops by the statistics of their batch, as they normalise crops of the source in
training: the running statistics, which prediction uses, are those of the target.

What a method does before it begins with the target (the warm-up of class-balanced self-training, the alignment of whole
domains) gives no best weights: of two such validations the later one is better, and any other is better than both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from torch import nn

from cellkit.data.training import Batch, TrainingSet
from cellkit.engine import Device
from cellkit.engine.optimisers import total_of
from cellkit.representations import Representation
from cellkit.stages.adapt_monitor import Monitor
from cellkit.stages.adapt_networks import Deployed, normalised_by_batch

HELD = "held_score"  # minus the loss: the engine takes the highest
ORDER = "validation"  # number of the validation: the newest weights are the best where no image was held out
UNSETTLED = -1e6  # below any score; each is above those before it, so that none ends a training by patience
HELD_CROPS = 16  # at least; of many images one crop of each


def held_batches(held: TrainingSet, batch: int, seed: int) -> list[Batch]:
    """The crops of held-out images, the same in every validation: each image comes as often as any other.

    Args:
        held: labelled images of the source.
        batch: crops in a batch.
        seed: of the crops.
    """
    steps = max(held.steps_per_epoch(batch), -(-HELD_CROPS // batch))
    return list(islice(held.batches(batch=batch, seed=seed), steps))


class HeldLoss:
    """The representation's loss on crops of held-out images, mean over crops and over the members of a model.

    Args:
        batches: the crops.
        representation: targets and loss.
        device: where the networks run.
    """

    def __init__(self, batches: Sequence[Batch], representation: Representation, device: Device) -> None:
        self.batches, self.representation, self.device = batches, representation, device

    @torch.no_grad()
    def __call__(self, members: Sequence[nn.Module]) -> float:
        """The mean loss of the members; they are afterwards in evaluation mode."""
        return sum(self._of(network) for network in members) / len(members)

    def _of(self, network: nn.Module) -> float:
        losses = []
        with normalised_by_batch(network):
            for images, targets in self.batches:
                with self.device.autocast():
                    maps = network(images).maps
                losses.append(total_of(self.representation.loss(maps.float(), targets)))
        return float(torch.stack(losses).mean())


class AdaptValidation:
    """Scores of what a method would be saved as.

    Args:
        deployed: what would be saved.
        held: loss on held-out images, which chooses; None: the newest weights are the best.
        monitor: what is only watched; None: nothing.
        done: validations of the run that this one goes on from.
    """

    def __init__(
        self, deployed: Deployed, held: HeldLoss | None = None, monitor: Monitor | None = None, done: int = 0
    ) -> None:
        self.deployed, self.held, self.monitor, self.done = deployed, held, monitor, done

    @property
    def score(self) -> str:
        """Name of the score that chooses."""
        return ORDER if self.held is None else HELD

    def __call__(self, modules: nn.Module) -> Mapping[str, float]:
        """The score that chooses, and those of the monitor."""
        self.done += 1
        self.deployed.load(modules)
        if self.held is None:
            chooses = float(self.done)
        elif self.deployed.method.settled:
            chooses = -self.held(self.deployed.members)
        else:
            chooses = UNSETTLED + self.done
        watched = {} if self.monitor is None else self.monitor(self.deployed)
        return {self.score: chooses} | watched
