"""Which detector a file of others is, by the names and shapes of its weights.

Files that hold a trunk alone (ImageNet, MoCo) become the trunk of a detector whose other parts begin at random.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from cellkit.errors import ModelError
from cellkit.networks.detector import BASIC, BLOCKS, NARROW_STEMS
from cellkit.networks.detector_keys import CheckpointKind, kind_of, without_wrapper
from cellkit.networks.detector_spec import FREEZABLE, LEVELS, DetectorSpec, NormName, TrunkName

State = Mapping[str, Tensor]

WHOLE: tuple[CheckpointKind, ...] = ("detectron", "mask-rcnn")  # of these the file tells all
USUAL_FREEZE = 2  # of detectron2 and torchvision, whose frozen norms do not tell how far the rest is frozen
COCO_SIZES, COCO_RATIOS = (32.0, 64.0, 128.0, 256.0, 512.0), (0.5, 1.0, 2.0)
CELL_LEVELS = (2, 2, 3, 4, 5, 6)  # LIVECell's detectors propose twice from P2
CELL_SIZES, CELL_RATIOS = (4.0, 9.0, 17.0, 31.0, 64.0, 127.0), (0.25, 0.5, 1.0, 2.0, 4.0)
KNOWN_ANCHORS = {  # ratios -> what files without anchors were trained with
    len(COCO_RATIOS): (COCO_SIZES, COCO_RATIOS, LEVELS),
    len(CELL_RATIOS): (CELL_SIZES, CELL_RATIOS, CELL_LEVELS),
}
EQUAL_AREA = 1e-3  # relative; anchors of one level differ in shape alone
DIGITS = 3  # of anchors, which went through float32


class _Anchors(NamedTuple):
    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    levels: tuple[int, ...]


class _Shapes:
    """Shapes of weights by patterns of their names.

    Args:
        state: the weights.
        source: the file, for errors.
    """

    def __init__(self, state: State, source: str) -> None:
        self.state, self.source = state, source

    def find(self, pattern: str) -> tuple[int, ...] | None:
        """Shape of the first weight whose name a pattern fits from its beginning to its end."""
        found = next((name for name in self.state if re.fullmatch(pattern, name)), None)
        return None if found is None else tuple(self.state[found].shape)

    def need(self, pattern: str, what: str) -> tuple[int, ...]:
        """The same, or an error that says what is missing."""
        shape = self.find(pattern)
        if shape is None or not shape:
            raise ModelError(self.source, f"has no {what}", "give a whole checkpoint")
        return shape

    def numbers(self, pattern: str) -> list[int]:
        """The different numbers that stand in the group of a pattern, ascending."""
        matches = (re.fullmatch(pattern, name) for name in self.state)
        return sorted({int(match[1]) for match in matches if match})


def spec_of(state: State, source: str = "checkpoint", classes: int = 1) -> DetectorSpec:
    """The detector whose weights are in a file.

    Args:
        state: as ``detector_keys.weights_of`` gives it.
        source: the file, for errors.
        classes: categories of a detector of which the file has the trunk alone.

    Raises:
        ModelError: no family or trunk that is known, or a part of a detector is missing.
    """
    state = without_wrapper(state)
    kind = kind_of(state, source)
    shapes = _Shapes(state, source)
    trunk, width, channels = _trunk(shapes, kind)
    if kind not in WHOLE:
        return DetectorSpec(
            trunk=trunk,
            channels=channels,
            width=width,
            pyramid=4 * width,
            hidden=16 * width,
            freeze_at=0,
            classes=classes,
        )
    norm, freeze_at = _trunk_norm(shapes)
    anchors = _anchors(shapes)
    return DetectorSpec(
        trunk=trunk,
        channels=channels,
        width=width,
        pyramid=shapes.need(r"backbone\.(fpn_lateral2|fpn\.inner_blocks\.0(\.0)?)\.weight", "feature pyramid")[0],
        hidden=shapes.need(r"roi_heads\.box_head\.(0\.)?(fc1|fc6)\.weight", "box head")[0],
        norm=norm,
        head_norm=_norm_of(shapes, r"backbone\.(fpn_lateral2\.norm|fpn\.inner_blocks\.0\.1)"),
        freeze_at=freeze_at,
        classes=shapes.need(r"roi_heads\.box_predictor\.(0\.)?cls_score\.weight", "classifier of boxes")[0] - 1,
        anchor_sizes=anchors.sizes,
        anchor_ratios=anchors.ratios,
        anchor_levels=anchors.levels,
        cascade_stages=max(1, len(shapes.numbers(r"roi_heads\.box_predictor\.(\d)\.cls_score\.weight"))),
        box_convs=len(shapes.numbers(r"roi_heads\.box_head\.(?:0\.)?conv(\d)\.weight")),
        mask_convs=len(shapes.numbers(r"roi_heads\.mask_head\.(?:mask_fcn)?(\d)(?:\.0)?\.weight")),
    )


def _trunk(shapes: _Shapes, kind: CheckpointKind) -> tuple[TrunkName, int, int]:
    """Name of the trunk, its width, and the channels of its images."""
    own = {"moco": r".*encoder_q\.", "mask-rcnn": r"backbone\.body\."}.get(kind, r"(?:backbone\.)?(?:bottom_up\.)?")
    stage = own + r"(?:layer|res)"
    first = 2 if kind == "detectron" else 1
    blocks = tuple(len(shapes.numbers(rf"{stage}{first + i}\.(\d+)\.conv1\.weight")) for i in range(4))
    split = shapes.find(rf"{stage}{first}\.0\.conv2\.conv\.weight") is not None
    basic = shapes.find(rf"{stage}{first}\.0\.conv3\.weight") is None
    width = shapes.need(rf"{stage}{first}\.0\.conv1\.weight", "first block")[0]
    stem = shapes.need(own + r"(?:stem\.)?conv1(?:_1|\.0)?\.weight", "stem")
    for name, known in BLOCKS.items():
        same = known == blocks and name.startswith("resnest") == split and (name in BASIC) == basic
        if same and stem[0] == (width // 2 if name in NARROW_STEMS else width):
            _check_groups(shapes, rf"{stage}{first}\.0\.conv2\.weight", width)
            return name, width, stem[1]
    made = "-".join(map(str, blocks))
    raise ModelError(
        shapes.source, f"its trunk of {made} blocks is none that is known", f"known are {', '.join(BLOCKS)}"
    )


def _check_groups(shapes: _Shapes, pattern: str, width: int) -> None:
    shape = shapes.find(pattern)
    if shape is not None and shape[1] != width:
        raise ModelError(shapes.source, "has grouped convolutions (ResNeXt), which these networks do not compute")


def _norm_of(shapes: _Shapes, layer: str) -> NormName:
    """Normalisation of a layer: with statistics, with a scale alone, or none."""
    if shapes.find(layer + r"\.running_mean") is not None:
        return "bn"
    return "none" if shapes.find(layer + r"\.weight") is None else "group-norm"


def _trunk_norm(shapes: _Shapes) -> tuple[NormName, int]:
    """Normalisation of the trunk of a detector, and how much of it is frozen: frozen norms count no batches."""
    body = r"backbone\.(?:bottom_up|body)\."
    norm = _norm_of(shapes, body + r"(?:res2|layer1)\.0\.(?:conv1\.norm|bn1)")
    if norm != "bn":
        return norm, USUAL_FREEZE
    parts = [r"stem\..*", *(rf"res{stage}\..*" for stage in range(2, FREEZABLE + 1))]
    counted = [shapes.find(body + part + r"\.num_batches_tracked") is not None for part in parts]
    return ("bn", counted.index(True)) if any(counted) else ("frozen-bn", USUAL_FREEZE)


def _anchors(shapes: _Shapes) -> _Anchors:
    """Those that the file holds, else those that detectors with so many at each pixel are published with."""
    levels = shapes.numbers(r"proposal_generator\.anchor_generator\.cell_anchors\.(\d)")
    if levels:
        stored = [shapes.state[f"proposal_generator.anchor_generator.cell_anchors.{level}"] for level in levels]
        return _stored_anchors([anchors.float() for anchors in stored], shapes.source)
    count = shapes.need(
        r"(?:proposal_generator\.rpn_head\.objectness_logits|rpn\.head\.cls_logits)\.weight", "proposal network"
    )[0]
    known = KNOWN_ANCHORS.get(count)
    if known is None:
        problem = f"does not tell its anchors, and {count} at each pixel are none that are known"
        raise ModelError(shapes.source, problem, "give a checkpoint with cell_anchors")
    return _Anchors(*known)


def _stored_anchors(stored: list[Tensor], source: str) -> _Anchors:
    sizes, ratios = [], []
    for anchors in stored:
        width, height = (anchors[:, 2] - anchors[:, 0]).tolist(), (anchors[:, 3] - anchors[:, 1]).tolist()
        areas = [w * h for w, h in zip(width, height, strict=True)]
        if max(areas) - min(areas) > EQUAL_AREA * max(areas):
            raise ModelError(source, "has anchors of several sizes at one level, which these networks do not have")
        sizes.append(round(math.sqrt(areas[0]), DIGITS))
        ratios.append(tuple(round(h / w, DIGITS) for w, h in zip(width, height, strict=True)))
    levels = {len(LEVELS): LEVELS, len(CELL_LEVELS): CELL_LEVELS}.get(len(stored))
    if levels is None or len(set(ratios)) > 1:
        raise ModelError(
            source, f"has anchors of {len(stored)} levels, of which it does not tell which", "5 or 6 are known"
        )
    return _Anchors(tuple(sizes), ratios[0], levels)
