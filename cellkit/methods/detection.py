"""Learning to detect: boxes, categories and masks of objects that may overlap, from annotated images.

The detector is Mask R-CNN (He et al. 2017) or its cascade (Cai and Vasconcelos 2018); losses and numbers are those of
detectron2-ResNeSt, which CUPre starts from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cellkit.data.detection import DetectionBatch
from cellkit.engine.distributed import rank, world_size
from cellkit.engine.optimisers import ParameterGroup
from cellkit.errors import UsageError
from cellkit.methods.detection_losses import detection_losses
from cellkit.methods.detection_settings import DetectionSettings
from cellkit.networks.detector import Detector


class DetectionData(Protocol):
    """Annotated images from which batches of crops are drawn for ever."""

    def batches(self, start: int, *, batch: int, seed: int, rank: int, world_size: int) -> Iterator[DetectionBatch]:
        """Batches number ``start``, ``start + 1``, ...; this process's share of ``batch`` crops."""


class Detection:
    """Each batch: crops of annotated images, what the detector says of them, and how far it is from the truth.

    Args:
        network: what is trained; its frozen parts stay as they are.
        data: annotated images; their crops depend only on (seed, step).
        settings: anchors and regions that a step looks at.
        batch: crops per step, over all processes.
        seed: of the batches.

    Raises:
        UsageError: a stage of the cascade has no overlap of its own.
    """

    def __init__(
        self, network: Detector, data: DetectionData, settings: DetectionSettings, *, batch: int, seed: int
    ) -> None:
        self.modules = network
        self.data = data
        self.settings = settings
        self.batch = batch
        self.seed = seed
        stages, overlaps = network.spec.cascade_stages, settings.region_overlaps
        if len(overlaps) < stages:
            problem = f"{len(overlaps)} for the {stages} stages of the detector"
            raise UsageError("region_overlaps", problem, "give one a stage, e.g. 0.5,0.6,0.7")

    def batches(self, start: int) -> Iterator[DetectionBatch]:
        """Batches from step ``start`` on: images (B, C, H, W), their objects, and a seed for the draws of each."""
        return self.data.batches(start, batch=self.batch, seed=self.seed, rank=rank(), world_size=world_size())

    def losses(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """Terms of proposals, stages and masks; see :func:`detection_losses`."""
        return detection_losses(self.modules, batch, self.settings)

    def parameter_groups(self) -> list[ParameterGroup]:
        """All that is trained; scales and shifts of normalisations do not decay."""
        return decay_groups(self.modules)


def decay_groups(module: nn.Module) -> list[ParameterGroup]:
    """What is trained of a detector in two groups: with the weight decay of the run, and normalisations without."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm | nn.GroupNorm)]
    kept = {id(parameter) for norm in norms for parameter in norm.parameters()}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups: list[ParameterGroup] = [
        {"params": [parameter for parameter in trained if id(parameter) not in kept]},
        {"params": [parameter for parameter in trained if id(parameter) in kept], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
