"""Weights of others under our names: what fits, what does not and why, and what is left as it was.

Four families of files are known: ResNet and ResNeSt trained on ImageNet, MoCo on either, detectors of detectron2 and
detectron2-ResNeSt, and torchvision's Mask R-CNN. Nothing is read or executed here: dictionaries go in and come out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellkit.errors import ModelError

CheckpointKind = Literal["resnet", "resnest", "moco", "detectron", "mask-rcnn"]
KNOWN = "known are ResNet and ResNeSt of ImageNet, MoCo, detectron2's detectors and torchvision's Mask R-CNN"
CONTAINERS = ("model", "state_dict", "model_state_dict")  # where files keep the weights, beside optimisers and words

Rules = list[tuple[str, str]]  # pattern of the whole name and what it becomes; the first that matches counts

BLOCKS: Rules = [
    (r"layer(\d)\.(\d+)\.bn(\d)\.(.*)", r"layer\1.\2.conv\3.norm.\4"),
    (r"(layer\d\.\d+\.conv\d\..*)", r"\1"),
    (r"(fc\..*)", r"\1"),
]
RESNET: Rules = [
    (r"conv1\.(.*)", r"stem.conv1.\1"),
    (r"bn1\.(.*)", r"stem.conv1.norm.\1"),
    (r"layer(\d)\.(\d+)\.downsample\.0\.(.*)", r"layer\1.\2.shortcut.\3"),
    (r"layer(\d)\.(\d+)\.downsample\.1\.(.*)", r"layer\1.\2.shortcut.norm.\3"),
    *BLOCKS,
]
RESNEST: Rules = [
    (r"conv1\.0\.(.*)", r"stem.conv1_1.\1"),
    (r"conv1\.1\.(.*)", r"stem.conv1_1.norm.\1"),
    (r"conv1\.3\.(.*)", r"stem.conv1_2.\1"),
    (r"conv1\.4\.(.*)", r"stem.conv1_2.norm.\1"),
    (r"conv1\.6\.(.*)", r"stem.conv1_3.\1"),
    (r"bn1\.(.*)", r"stem.conv1_3.norm.\1"),
    (r"layer(\d)\.(\d+)\.downsample\.1\.(.*)", r"layer\1.\2.shortcut.\3"),  # 0 is the pooling
    (r"layer(\d)\.(\d+)\.downsample\.2\.(.*)", r"layer\1.\2.shortcut.norm.\3"),
    *BLOCKS,
]
DETECTRON: Rules = [
    (r"(?:backbone\.)?(?:bottom_up\.)?((?:stem|res[2-5])\..*)", r"\1"),
    (r"roi_heads\.box_head\.((?:conv|fc)\d.*)", r"roi_heads.box_head.0.\1"),  # of one stage: without its number
    (r"roi_heads\.box_predictor\.((?:cls|bbox)_.*)", r"roi_heads.box_predictor.0.\1"),
    (r"((?:backbone|proposal_generator|roi_heads)\..*)", r"\1"),
    (r"(?:linear|fc)\.(.*)", r"fc.\1"),
]
_LAST = r"(?:\.0)?\.((?:weight|bias))"  # newer files wrap each convolution
MASK_RCNN: Rules = [
    (rf"rpn\.head\.conv(?:\.0)?{_LAST}", r"proposal_generator.rpn_head.conv.\1"),
    (r"rpn\.head\.cls_logits\.(.*)", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (r"rpn\.head\.bbox_pred\.(.*)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (r"roi_heads\.box_head\.fc6\.(.*)", r"roi_heads.box_head.0.fc1.\1"),
    (r"roi_heads\.box_head\.fc7\.(.*)", r"roi_heads.box_head.0.fc2.\1"),
    (r"roi_heads\.box_predictor\.(.*)", r"roi_heads.box_predictor.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.(.*)", r"roi_heads.mask_head.mask_fcn\1.\2"),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(.*)", r"roi_heads.mask_head.deconv.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.*)", r"roi_heads.mask_head.predictor.\1"),
]
COUNTED: Rules = [  # torchvision counts levels and convolutions from 0
    (rf"backbone\.fpn\.inner_blocks\.(\d){_LAST}", r"backbone.fpn_lateral{}.\2"),
    (rf"backbone\.fpn\.layer_blocks\.(\d){_LAST}", r"backbone.fpn_output{}.\2"),
    (r"roi_heads\.mask_head\.(\d)\.0\.(.*)", r"roi_heads.mask_head.mask_fcn{}.\2"),
]


class Pixels(NamedTuple):
    """What the images were that weights were trained on.

    Attributes:
        order: of the channels.
        mean: of each channel in that order, where white is 255; it is subtracted.
        deviation: by which the rest is divided.
    """

    order: Literal["RGB", "BGR"]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


IMAGENET = Pixels("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
DETECTRON_RESNEST = Pixels("RGB", (123.68, 116.779, 103.939), (58.393, 57.12, 57.375))


class Translation(NamedTuple):
    """Weights of others under our names.

    Attributes:
        kind: family of the file.
        mapped: our name -> weight, of the shape that the model has.
        dropped: their name, without a leading ``module.``, -> why it has no place.
        missing: our names that keep the value they have; counters of batches and anchors do not count.
        pixels: what the images were, or None if the file does not tell.
    """

    kind: CheckpointKind
    mapped: dict[str, Tensor]
    dropped: dict[str, str]
    missing: list[str]
    pixels: Pixels | None


def weights_of(loaded: Mapping[str, object], source: str = "checkpoint") -> dict[str, Tensor]:
    """The weights in what a file holds.

    Args:
        loaded: the weights themselves, or what has them under ``model`` or ``state_dict``; tensors or NumPy arrays.
        source: the file, for the error.

    Raises:
        ModelError: there are none.
    """
    for name in CONTAINERS:
        inner = loaded.get(name)
        if isinstance(inner, Mapping):
            loaded = inner
    found = {name: _tensor(value) for name, value in loaded.items() if isinstance(value, Tensor | np.ndarray)}
    if not found:
        raise ModelError(source, "holds no weights", KNOWN)
    return found


def translate(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str = "checkpoint") -> Translation:
    """Find a place for each weight of a file.

    Args:
        state: as :func:`weights_of` gives it.
        wanted: ``state_dict()`` of a detector, a trunk or a pooled trunk; its shapes count, not its values.
        source: the file, for errors.

    Raises:
        ModelError: the file is of no known family, its network is not computed here, or none of its weights fits.
    """
    state = without_wrapper(state)
    kind = kind_of(state, source)
    renamed: dict[str, tuple[str, Tensor]] = {}
    dropped: dict[str, str] = {}
    trunk, split = _trunk_of(wanted), any(name.endswith("conv1.0.weight") for name in state)
    for theirs, value in state.items():
        ours = _our_name(theirs, kind, split, trunk)
        if ours is None:
            dropped[theirs] = _why_nameless(theirs)
        else:
            renamed[ours] = (theirs, _reordered(value, ours, kind))
    mapped: dict[str, Tensor] = {}
    for ours, (theirs, value) in renamed.items():
        reason = _why_not(ours, value, wanted, renamed)
        if reason is None:
            mapped[ours] = value
        else:
            dropped[theirs] = reason
    if not mapped:
        raise ModelError(source, "none of its weights fits the model", "choose the trunk that the file was made with")
    missing = [name for name in wanted if name not in mapped and not _is_constant(name)]
    return Translation(kind, mapped, dropped, missing, _pixels(kind, state))


def kind_of(state: Mapping[str, Tensor], source: str = "checkpoint") -> CheckpointKind:
    """The family of a file, by the names in it.

    Raises:
        ModelError: none that is known, or a member of it that these networks do not compute.
    """
    if any(".conv2_offset." in name for name in state):
        raise ModelError(
            source,
            "has deformable convolutions (conv2_offset), which these networks do not compute",
            "convert a checkpoint without 'dcn' in its name",
        )
    if "rpn.head.conv.1.0.weight" in state:
        raise ModelError(
            source,
            "is torchvision's second Mask R-CNN, whose proposal network has a convolution more",
            "convert maskrcnn_resnet50_fpn, the first",
        )
    return _family(state, source)


def _family(state: Mapping[str, Tensor], source: str) -> CheckpointKind:
    if any("encoder_q." in name for name in state):
        return "moco"
    if any(name.startswith("backbone.body.") for name in state):
        return "mask-rcnn"
    if any(re.match(r"(backbone\.)?(bottom_up\.)?(stem|res2)\.", name) for name in state):
        return "detectron"
    if "layer1.0.conv1.weight" in state:
        return "resnest" if "conv1.0.weight" in state else "resnet"
    raise ModelError(source, "holds weights of no network that can be converted", KNOWN)


def _our_name(name: str, kind: CheckpointKind, split: bool, trunk: str) -> str | None:
    """Our name of a weight; ``split``: its trunk has ResNeSt's deep stem; None: of no layer that is known."""
    own, rules = name, RESNEST if split else RESNET
    match kind:
        case "detectron":
            rules = DETECTRON
        case "moco":
            own = name.partition("encoder_q.")[2]
        case "mask-rcnn" if not name.startswith("backbone.body."):
            return _counted(name) or _renamed(name, MASK_RCNN)
        case "mask-rcnn":
            own = name.removeprefix("backbone.body.")
    return _placed(_renamed(own, rules), trunk)


def _renamed(name: str, rules: Rules) -> str | None:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return None


def _counted(name: str) -> str | None:
    for pattern, replacement in COUNTED:
        match = re.fullmatch(pattern, name)
        if match:
            first = 1 if "mask_fcn" in replacement else 2  # mask_fcn1, fpn_lateral2
            return match.expand(replacement).format(int(match[1]) + first)
    return None


def _placed(name: str | None, trunk: str) -> str | None:
    """A name of a trunk where that trunk lies in the model; ``layer1`` is res2."""
    if name is None:
        return None
    stage = re.match(r"layer(\d)\.", name)
    if stage:
        name = f"res{int(stage[1]) + 1}." + name[stage.end() :]
    return trunk + name if re.match(r"stem\.|res[2-5]\.", name) else name


def _trunk_of(wanted: Mapping[str, Tensor]) -> str:
    """What stands before the names of the trunk's weights in a model."""
    return next((name.partition("stem.")[0] for name in wanted if "stem.conv1" in name), "")


def _reordered(value: Tensor, name: str, kind: CheckpointKind) -> Tensor:
    """torchvision's background is the first category and has a mask of its own; ours is the last and has none."""
    if kind == "mask-rcnn" and ".cls_score." in name:
        return value.roll(-1, 0)
    if kind == "mask-rcnn" and ".mask_head.predictor." in name:
        return value[1:]
    return value


def _why_nameless(name: str) -> str:
    if "encoder_k." in name:
        return "the key encoder is a mean of the query encoder"
    if name.endswith(("queue", "queue_ptr")):
        return "the queue belongs to the training that is over"
    if name.startswith("pixel_"):
        return "a statistic of pixels, not a weight"
    return "of no layer that is known"


def _why_not(
    ours: str, value: Tensor, wanted: Mapping[str, Tensor], renamed: Mapping[str, tuple[str, Tensor]]
) -> str | None:
    """Why a weight under our name has no place in the model; None: it has."""
    if ".cell_anchors." in ours:
        return "anchors are those of the specification"
    statistic = ours.rpartition(".")[0] + ".running_mean"
    if (statistic in wanted) != (statistic in renamed) and statistic.removesuffix("running_mean") + "bias" in wanted:
        return "of another kind of normalisation"
    if ours not in wanted:
        return _why_absent(ours)
    if value.shape != wanted[ours].shape:
        return f"shape {tuple(value.shape)}, the model has {tuple(wanted[ours].shape)}"
    return None


def _why_absent(ours: str) -> str:
    if ours.endswith(".num_batches_tracked"):
        return "frozen normalisation counts no batches"
    if re.search(r"(^|\.)fc\.", ours) and "conv2" not in ours:
        return "a classifier or projection, which the model has not"
    return "the model has no such layer"


def _is_constant(name: str) -> bool:
    return name.endswith(".num_batches_tracked") or ".cell_anchors." in name


def _pixels(kind: CheckpointKind, state: Mapping[str, Tensor]) -> Pixels | None:
    if kind != "detectron":
        return IMAGENET
    if "pixel_mean" in state and "pixel_std" in state:
        mean, deviation = (tuple(state[name].flatten().tolist()) for name in ("pixel_mean", "pixel_std"))
        return Pixels("BGR" if mean[0] < mean[-1] else "RGB", mean, deviation)  # photographs have the least blue
    return DETECTRON_RESNEST if any("conv2.bn0." in name for name in state) else None


def without_wrapper(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Without the ``module.`` that parallel training puts before each name."""
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _tensor(value: Tensor | NDArray[Any]) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
