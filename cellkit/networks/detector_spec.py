"""What a detector is made of: the specification that its checkpoints carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cellkit.config import Spec
from cellkit.errors import ModelError

TrunkName = Literal[
    "resnet-18",
    "resnet-34",
    "resnet-50",
    "resnet-101",
    "resnet-tiny",
    "resnest-50",
    "resnest-101",
    "resnest-200",
    "resnest-tiny",
]
NormName = Literal["bn", "sync-bn", "group-norm", "frozen-bn", "none"]

LEVELS = (2, 3, 4, 5, 6)  # of the pyramid: P2 has a quarter of the image's height, each further one half of that before
STAGES = 4  # res2 to res5
FREEZABLE = STAGES + 1  # and the stem before them


@dataclass(frozen=True, kw_only=True)
class DetectorSpec(Spec):
    """Cascade Mask R-CNN or Mask R-CNN on a feature pyramid.

    The default is the detector of CUPre: detectron2-ResNeSt's cascade with ResNeSt-200, as trained on COCO.

    Attributes:
        trunk: what turns the image into features; the ``tiny`` ones have one block in each stage.
        channels: channels of the image.
        width: channels of the bottlenecks of res2 (of the blocks, in ``resnet-18`` and ``resnet-34``); twice as many in
            each further stage. 64 in all that is published.
        pyramid: channels of the pyramid and of the convolutions of all heads.
        hidden: width of the fully connected layers of the box heads.
        norm: normalisation of the trunk.
        head_norm: normalisation of pyramid and heads; ``none``: convolutions have a bias instead.
        freeze_at: how much of the trunk is never trained: 0 nothing, 1 the stem, 2 also res2, ... 5 all of it.
        checkpointing: training keeps the inputs of the trunk's blocks alone and computes the rest a second time.
        classes: categories of objects, without the background.
        anchor_sizes: square root of the area in pixels of the anchors of each entry of ``anchor_levels``.
        anchor_ratios: height / width of the anchors of each cell.
        anchor_levels: levels of the pyramid that propose, 2 to 6; one may be there twice, with two sizes.
        cascade_stages: 1 (Mask R-CNN) or 3 (Cascade R-CNN).
        box_convs: convolutions of each box head, before one fully connected layer; 0: two fully connected layers.
        mask_convs: convolutions of the mask head: 8 with ResNeSt-200, 4 in the smaller ones.
        mean: of each channel, where white is 1; the detector subtracts it from its images. Empty: nothing is done.
        std: of each channel, by which the rest is divided.

    Raises:
        ModelError: a number that no detector has.
    """

    trunk: TrunkName = "resnest-200"
    channels: int = 3
    width: int = 64
    pyramid: int = 256
    hidden: int = 1024
    norm: NormName = "bn"
    head_norm: NormName = "bn"
    freeze_at: int = 2
    checkpointing: bool = False
    classes: int = 80
    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1, 2)
    anchor_levels: tuple[int, ...] = LEVELS
    cascade_stages: int = 3
    box_convs: int = 4
    mask_convs: int = 8
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.norm == "none":
            raise _refused("a trunk without normalisation does not train", "norm: bn, sync-bn, group-norm or frozen-bn")
        if self.cascade_stages not in (1, 3):
            raise _refused(f"{self.cascade_stages} cascade stages", "1 or 3")
        if not 0 <= self.freeze_at <= FREEZABLE:
            raise _refused(f"freeze_at {self.freeze_at}", f"0 (nothing) to {FREEZABLE} (the whole trunk)")
        if min(self.classes, self.width, self.pyramid, self.hidden, self.mask_convs, self.box_convs + 1) < 1:
            raise _refused("a size below 1", "classes, width, pyramid, hidden and mask_convs are 1 or more")
        self._check_anchors()
        self._check_statistics()

    @property
    def anchors_per_cell(self) -> int:
        """Anchors at each pixel of a level: COCO's detectors have 3, LIVECell's 5."""
        return len(self.anchor_ratios)

    def _check_statistics(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (0, self.channels):
            problem = f"{len(self.mean)} means and {len(self.std)} deviations for {self.channels} channels"
            raise _refused(problem, "give one of each a channel, or none")
        if min(self.std, default=1) <= 0:
            raise _refused("a deviation that is not above 0", "pixels are divided by it")

    def _check_anchors(self) -> None:
        if not self.anchor_ratios or min(*self.anchor_ratios, *self.anchor_sizes) <= 0:
            raise _refused("anchors without extent", "give sizes and ratios above 0")
        if len(self.anchor_sizes) != len(self.anchor_levels):
            problem = f"{len(self.anchor_sizes)} anchor sizes for {len(self.anchor_levels)} anchor levels"
            raise _refused(problem, "give one size a level")
        if not set(self.anchor_levels) <= set(LEVELS):
            raise _refused(f"anchor levels {self.anchor_levels}", "levels are 2 to 6")


def _refused(problem: str, repair: str) -> ModelError:
    return ModelError("detector", problem, repair)


RESNEST_200_CASCADE = DetectorSpec()
RESNEST_50_CASCADE = DetectorSpec(trunk="resnest-50", mask_convs=4)
MASK_RCNN_50 = DetectorSpec(
    trunk="resnet-50", norm="frozen-bn", head_norm="none", cascade_stages=1, box_convs=0, mask_convs=4
)
TINY_CASCADE = DetectorSpec(
    trunk="resnest-tiny", width=8, pyramid=16, hidden=32, freeze_at=0, classes=1, box_convs=1, mask_convs=1
)
