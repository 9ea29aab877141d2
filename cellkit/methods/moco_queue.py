"""The keys of former batches that momentum contrast tells a query from."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed

from cellkit.engine.distributed import is_main, world_size

MOST = 4096  # keys; CUPre's 9,666 images would be 7 times in the 65,536 of ImageNet, each a false negative of itself

log = logging.getLogger(__name__)


class KeyQueue:
    """The last keys, first in, first out; before there are any, random unit vectors.

    Args:
        size: keys (K).
        projection: their length (D).
        seed: of the random ones; equal in all processes.
        device: where they are.

    Attributes:
        keys: (D, K) float32, one in each column; the columns form a ring.
        pointer: column of the oldest, which is the next to go.
    """

    def __init__(self, size: int, projection: int, *, seed: int, device: torch.device) -> None:
        numbers = torch.randn(projection, size, generator=torch.Generator().manual_seed(seed))
        self.keys = F.normalize(numbers, dim=0).to(device)
        self.pointer = 0

    def push(self, keys: Tensor) -> None:
        """Put the keys of a batch, (B, D), in place of the oldest.

        Raises:
            ValueError: the ring is no multiple of the batch.
        """
        size, count = self.keys.shape[1], len(keys)
        if size % count:
            raise ValueError(f"a queue of {size} is no multiple of {count} keys")
        self.keys[:, self.pointer : self.pointer + count] = keys.T
        self.pointer = (self.pointer + count) % size

    def state_dict(self) -> dict[str, Any]:
        """Keys and pointer."""
        return {"keys": self.keys, "pointer": self.pointer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.keys.copy_(state["keys"])
        self.pointer = state["pointer"]


def queue_size(images: int, batch: int, wanted: int | None = None) -> int:
    """How many keys are kept: a multiple of the batch, and no more than there are images.

    The first process says where it is another number than was wanted, or where not even one batch of images is there.

    Args:
        images: different ones.
        batch: keys of a step, over all processes.
        wanted: by the user; None: half of the images, at most 4096.
    """
    whole = min(MOST, images // 2) if wanted is None else min(wanted, images)
    size = max(batch, whole - whole % batch)
    if size > images and is_main():
        counted = "1 image is" if images == 1 else f"{images} images are"
        log.warning("%s fewer than a batch of %d: a query is told from its own image, too", counted, batch)
    if wanted is not None and size != wanted and is_main():
        log.warning(
            "a queue of %d is taken, not of %d: there are %d images in batches of %d", size, wanted, images, batch
        )
    return size


@torch.no_grad()
def gathered(keys: Tensor) -> Tensor:
    """The keys (B, D) of all processes, in the order of their ranks, on each of them."""
    if world_size() == 1:
        return keys
    parts = [torch.empty_like(keys) for _ in range(world_size())]
    distributed.all_gather(parts, keys.contiguous())
    return torch.cat(parts)
