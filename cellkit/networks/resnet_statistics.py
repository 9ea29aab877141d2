"""Batch normalisation over the batches of all processes, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class SyncBatchNorm(nn.SyncBatchNorm):
    """``nn.SyncBatchNorm`` that works between processes on CPUs too, where torch's own refuses."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...), with the statistics of all processes while training."""
        if not (self.training and input.device.type == "cpu" and is_shared()):
            result: Tensor = super().forward(input)
            return result
        axes = [axis for axis in range(input.ndim) if axis != 1]
        wide = input.float() if input.dtype != torch.float64 else input
        count = wide.new_tensor([input.numel() // input.shape[1]])
        total = summed(torch.cat([wide.sum(axes), count]))
        count, mean = total[-1].detach(), total[:-1] / total[-1]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        centred = wide - mean.view(shape)  # squares of what is centred: no difference of two large sums
        variance = summed(centred.square().sum(axes)) / count
        self._track(mean.detach(), variance.detach(), float(count))
        y = centred * (self.weight * torch.rsqrt(variance + self.eps)).view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: float) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked.add_(1)
        momentum = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        unbiased = variance * (count / max(count - 1, 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def is_shared() -> bool:
    """Whether other processes work on the same batch."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - torch has no public type of it
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        total = gradients[0].clone()  # each process has a loss of its own, and x is part of all of them
        distributed.all_reduce(total)
        return total


def summed(x: Tensor) -> Tensor:
    """The sum of a tensor over all processes, with a gradient; each of them must call it."""
    result: Tensor = _Summed.apply(x)  # type: ignore[no-untyped-call]
    return result
