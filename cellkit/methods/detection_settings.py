"""Settings of learning to detect: without torch, so that help can list them fast."""

from __future__ import annotations

from dataclasses import dataclass

from cellkit.config import Spec
from cellkit.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class DetectionSettings(Spec):
    """Which anchors and regions a step of training looks at, and what they stand for.

    The defaults are those of detectron2-ResNeSt's cascades on COCO. Of LIVECell's own detectors ``before_nms`` is
    12000, ``proposals`` 3000.

    Attributes:
        anchor_overlaps: intersection over union with an object below which an anchor is background, and from which on
            it is an object; between the two it is not looked at. The best anchors of an object are always objects.
        anchors: of each image that are looked at.
        anchor_fraction: of them that may be objects.
        before_nms: proposals of each level that are compared, best first.
        proposals: that are left of an image.
        proposal_overlap: intersection over union above which the lesser of two proposals of a level is dropped.
        regions: of each image, proposals and true boxes, that the heads look at.
        region_fraction: of them that may be objects.
        region_overlaps: intersection over union from which on a region is an object, stage by stage.
    """

    anchor_overlaps: tuple[float, ...] = (0.3, 0.7)
    anchors: int = 256
    anchor_fraction: float = 0.5
    before_nms: int = 2000
    proposals: int = 2000
    proposal_overlap: float = 0.7
    regions: int = 512
    region_fraction: float = 0.25
    region_overlaps: tuple[float, ...] = (0.5, 0.6, 0.7)

    def __post_init__(self) -> None:
        """Refuse what gives no loss.

        Raises:
            UsageError: a number is out of range.
        """
        for name in ("anchors", "before_nms", "proposals", "regions"):
            if getattr(self, name) < 1:
                raise UsageError(name, f"{getattr(self, name)} is none", "give 1 or more")
        for name in ("anchor_fraction", "region_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(name, f"{getattr(self, name):g} is out of range", "give a number above 0, up to 1")
        if not 0 <= self.proposal_overlap <= 1:
            raise UsageError("proposal_overlap", f"{self.proposal_overlap:g} is out of range", "give 0 to 1")
        low_high = self.anchor_overlaps
        if len(low_high) != 2 or not 0 < low_high[0] <= low_high[1] <= 1:
            raise UsageError("anchor_overlaps", f"{low_high} is no range", "give low and high, above 0, up to 1")
        if not self.region_overlaps or not all(0 < overlap <= 1 for overlap in self.region_overlaps):
            raise UsageError(
                "region_overlaps", f"{self.region_overlaps} is out of range", "one a stage, above 0, up to 1"
            )
