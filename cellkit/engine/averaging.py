"""Running average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a module's parameters and buffers (Polyak and Juditsky 1992; Tarvainen 2017).

    Early averages forget faster, so that they do not stay at the random start: the decay of step t is
    ``min(decay, (1 + t) / (10 + t))``.

    Attributes:
        module: a copy of the module that holds the average.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False)
        self._averages, self._counts = _tensors(self.module)
        self._sources, self._source_counts = _tensors(module)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the module's present weights into the average, after so many steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._sources, 1 - decay)
        for count, source in zip(self._counts, self._source_counts, strict=True):
            count.copy_(source)


def _tensors(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Floating-point tensors, which are averaged, and the others (counters), which are copied."""
    tensors = [t.detach() for t in (*module.parameters(), *module.buffers())]
    return [t for t in tensors if t.is_floating_point()], [t for t in tensors if not t.is_floating_point()]
