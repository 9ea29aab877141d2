"""Means over the pixels of which something is known; of the others labels are -1."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

UNKNOWN = -1  # of labels and of classes


def known_mean(errors: Tensor, known: Tensor) -> Tensor:
    """Mean of the errors of known pixels, 0 where there are none; without a wait for the device.

    Args:
        errors: (B, H, W) or (B, C, H, W), finite also where nothing is known.
        known: (B, H, W) or (B, 1, H, W) booleans.

    Returns:
        (,) as ``errors.mean()``, to rounding, where all is known.
    """
    per_pixel = errors.numel() // known.numel()
    return (errors * known).sum() / (per_pixel * known.sum()).clamp(min=1)


def known_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of classes, mean over the known pixels, 0 where there are none.

    Args:
        logits: (B, K, H, W).
        classes: (B, H, W) int64; -1 where nothing is known.
    """
    total = F.cross_entropy(logits, classes, ignore_index=UNKNOWN, reduction="sum")
    return total / (classes != UNKNOWN).sum().clamp(min=1)
