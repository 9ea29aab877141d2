"""What to do when memory runs out: smaller batches, smaller tiles, the CPU on request, else a clear end."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from cellkit.engine.device import Device, open_device
from cellkit.errors import MemoryLimitError

logger = logging.getLogger(__name__)

Fallback: TypeAlias = Literal["cpu"]

# Where torch has no class of its own for an allocation that fails.
MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
)
SMALLEST_TILE = 64  # pixels; below it a tile is little more than its border
GIGABYTE = 1e9


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)


@dataclass
class MemoryLadder:
    """What was found to fit so far; give the same one to every call of a run.

    Attributes:
        pixels: of all tiles of a batch together at most, or None while nothing failed.
        tile: longest side of a tile in pixels, or None while no tile failed.
        device: the CPU after the fallback to it, else None.
    """

    pixels: int | None = None
    tile: int | None = None
    device: Device | None = None

    def step_down(
        self, device: Device, batch: int, shape: tuple[int, int], smallest: int, fallback: Fallback | None
    ) -> None:
        """Take the next rung after a batch did not fit: half the tiles, half the side, the CPU, the end.

        Args:
            device: where it did not fit.
            batch: tiles it held.
            shape: of a tile, in pixels.
            smallest: side that a tile must have at least, so that there is room between its overlaps.
            fallback: ``cpu``: go on there when the smallest tile does not fit.

        Raises:
            MemoryLimitError: there is no rung left.
        """
        name, side, area = device.torch_device, max(shape), shape[0] * shape[1]
        if batch > 1:
            self.pixels = batch // 2 * area
            logger.warning("%s: out of memory with %d tiles at once, trying %d", name, batch, batch // 2)
        elif side // 2 >= max(SMALLEST_TILE, smallest):
            self.pixels, self.tile = area // 2, side // 2
            logger.warning("%s: out of memory with a tile of %d pixels, trying %d", name, side, self.tile)
        elif fallback == "cpu" and not device.is_cpu:
            self.device, self.pixels, self.tile = _open_cpu(device), None, None
            logger.warning("%s: out of memory with a tile of %d pixels, going on with the CPU", name, side)
        else:
            problem = f"not even one tile of {side} pixels fits into its memory{_room(device)}"
            raise MemoryLimitError(str(name), problem, _repair(device, side))


def _open_cpu(device: Device) -> Device:
    """The CPU in place of a device, with as many threads as before."""
    return open_device("cpu", "fp32" if device.precision == "fp32" else "auto", torch.get_num_threads())


def _room(device: Device) -> str:
    """How much memory there is, where the device tells."""
    if not device.is_cuda:
        return ""
    free, total = torch.cuda.mem_get_info(device.torch_device)
    return f", of which {free / GIGABYTE:.1f} of {total / GIGABYTE:.1f} GB are free"


def _repair(device: Device, side: int) -> str:
    """What would make a difference."""
    choices = [] if device.is_cpu else ["free its memory", "use --device cpu or --oom-fallback cpu"]
    if side // 2 >= SMALLEST_TILE:  # it was the overlap that forbade a smaller tile
        choices.append(f"use --overlap {side // 4} or less, so that tiles of {side // 2} are possible")
    return ", or ".join([*choices, "use a smaller model"])
