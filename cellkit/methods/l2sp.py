"""L2-SP: fine-tuning that is drawn back to its starting point.

Sources: Li, Grandvalet and Davoine 2018 (the penalty); CUPre, eq. 7 (the balance between it and weight decay).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cellkit.data.training import Batch
from cellkit.methods.classic import Classic
from cellkit.methods.tuning import Tuning


class L2SP(Classic):
    """Classic fine-tuning with a penalty for leaving the weights of the base.

    The penalty is on everything that is trained: Li et al. spare new layers, of which there are none here. The base is
    what the network holds when the method is made, so that a run that is resumed is made from the base again.
    """

    def __init__(self, tuning: Tuning) -> None:
        super().__init__(tuning)
        self.settings = tuning.l2sp_settings
        self.base = self._weights().detach()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named terms of the representation's loss, and ``l2sp``."""
        weights = self._weights()
        penalty = l2sp(weights, self.base, self.settings.balance)
        return super().losses(batch) | {"l2sp": self.settings.strength * penalty}

    def _weights(self) -> Tensor:
        """All trained parameters as one vector: one sum instead of hundreds."""
        return torch.cat([p.flatten() for p in self.modules.parameters() if p.requires_grad])


def l2sp(weights: Tensor, base: Tensor, balance: float) -> Tensor:
    """``a |w - w0|^2 + (1 - a) |w|^2`` (CUPre, eq. 7); the second term falls away with a = 1 (Li et al., eq. 2).

    Args:
        weights: (N,).
        base: (N,) starting point.
        balance: a, 0 to 1.
    """
    return balance * (weights - base).square().sum() + (1 - balance) * weights.square().sum()
