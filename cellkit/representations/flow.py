"""Flows: each pixel of a cell points to the centre of its cell (Scellseg; Stringer 2021)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cellkit.ops.diffusion import flows_from_labels

CHANNELS = 3  # flow y, flow x, cell logit
VECTORS = ((0, 1),)  # (y, x) channel pairs that rotate with the image
FLOW_SCALE = 5.0  # a network learns 5 x the unit flow: it balances the squared error against the cross-entropy


def targets(labels: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """What the network should put out for a label image.

    Args:
        labels: (H, W), 0 is background.

    Returns:
        (3, H, W) float32: unit flow y, unit flow x (not scaled), cell mask in {0, 1}.
    """
    return np.concatenate([flows_from_labels(labels), (labels != 0)[None].astype(np.float32)])


def loss(outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Squared error of the flow and cross-entropy of the cell map (Scellseg, eq. 1).

    Args:
        outputs: (B, 3, H, W); 5 x flow y, 5 x flow x, cell logit.
        targets: (B, 3, H, W); unit flow y, unit flow x, cell mask in {0, 1}.
    """
    flow = 0.5 * F.mse_loss(outputs[:, :2], FLOW_SCALE * targets[:, :2])
    return {"flow": flow, "cell": F.binary_cross_entropy_with_logits(outputs[:, 2], targets[:, 2])}
