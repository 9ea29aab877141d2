"""L2-SP for a detector: its trunk is drawn back to the weights that it begins with; pyramid and heads learn freely.

Sources: Li, Grandvalet and Davoine 2018 (the penalty); CUPre, section III-D and eq. 7 (on the backbone alone, and the
balance between it and weight decay).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cellkit.data.detection import DetectionBatch
from cellkit.engine.optimisers import ParameterGroup
from cellkit.errors import UsageError
from cellkit.methods.detection import Detection, DetectionData, decay_groups
from cellkit.methods.detection_settings import DetectionSettings
from cellkit.methods.l2sp import l2sp
from cellkit.methods.settings import L2SPSettings
from cellkit.networks.detector import Detector


class DetectionL2SP(Detection):
    """Learning to detect with a penalty for leaving the trunk's first weights.

    The weights to stay near are those that the trunk has when the method is made. The penalty takes the place of the
    weight decay of the trunk: eq. 7 has a decay of its own.

    Args:
        network: with the weights of the base.
        data: as :class:`Detection`.
        settings: as there.
        batch: as there.
        seed: as there.
        penalty: strength and balance.

    Raises:
        UsageError: the whole trunk is frozen.
    """

    def __init__(
        self,
        network: Detector,
        data: DetectionData,
        settings: DetectionSettings,
        *,
        batch: int,
        seed: int,
        penalty: L2SPSettings,
    ) -> None:
        super().__init__(network, data, settings, batch=batch, seed=seed)
        self.penalty = penalty
        self.held = [p for p in network.backbone.bottom_up.parameters() if p.requires_grad]
        if not self.held:
            problem = "l2sp holds on to a trunk that learns, and all of it is frozen"
            raise UsageError("--method", problem, "lower freeze_at, or use --method classic")
        self.base = self._weights().detach()

    def losses(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """Terms of :class:`Detection`, and ``l2sp``."""
        penalty = self.penalty.strength * l2sp(self._weights(), self.base, self.penalty.balance)
        return super().losses(batch) | {"l2sp": penalty}

    def parameter_groups(self) -> list[ParameterGroup]:
        """As of :class:`Detection`, but the trunk does not decay."""
        own = {id(parameter) for parameter in self.held}
        groups: list[ParameterGroup] = [{"params": self.held, "weight_decay": 0.0}]
        for group in decay_groups(self.modules):
            rest = [parameter for parameter in group["params"] if id(parameter) not in own]
            if rest:
                groups.append({**group, "params": rest})
        return groups

    def _weights(self) -> Tensor:
        """All trained parameters of the trunk as one vector: one sum instead of hundreds."""
        return torch.cat([parameter.flatten() for parameter in self.held])
