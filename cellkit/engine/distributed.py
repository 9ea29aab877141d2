"""Several processes on one training, as torchrun starts them: one gradient, one writer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from cellkit.engine.device import Device

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)  # how long the others wait while the first process validates and saves


def rank() -> int:
    """Number of this process, 0 for a process alone (RANK of torchrun)."""
    return distributed.get_rank() if _is_joined() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together (WORLD_SIZE of torchrun)."""
    return distributed.get_world_size() if _is_joined() else int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that writes, validates and speaks."""
    return rank() == 0


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's part of a whole batch: every ``world_size``-th item, beginning at ``rank``.

    Let the batch be a multiple of ``world_size``: gradients are averaged over processes, each counted the same.
    """
    return items[rank() :: world_size()]


@contextmanager
def joined(device: Device) -> Iterator[None]:
    """Join the group that torchrun's environment describes, and leave it at the end; alone: nothing.

    GPUs talk through nccl, CPUs through gloo. A group that is there already is used and left alone.
    """
    if _is_joined() or world_size() == 1:
        yield
        return
    backend = "nccl" if device.is_cuda else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@torch.no_grad()
def broadcast_weights(module: nn.Module) -> None:
    """Give every process the weights of the first, in place."""
    if not _is_joined():
        return
    for tensor in (*module.parameters(), *module.buffers()):
        whole = tensor.detach().contiguous()
        distributed.broadcast(whole, src=0)
        tensor.copy_(whole)


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes; one that is missing counts as zero."""
    if not _is_joined():
        return
    for dtype in sorted({p.dtype for p in parameters}, key=str):
        group = [p for p in parameters if p.dtype == dtype]
        flat = torch.cat([_gradient(p).reshape(-1) for p in group])
        distributed.all_reduce(flat)
        flat /= world_size()
        for parameter, mean in zip(group, torch.split(flat, [p.numel() for p in group]), strict=True):
            _gradient(parameter).copy_(mean.view(parameter.shape))


def largest(value: int, device: Device) -> int:
    """The largest value that any process brings: how they agree to stop."""
    if not _is_joined():
        return value
    tensor = torch.tensor(value, device=device.torch_device)
    distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
    return int(tensor.item())


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _is_joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()
