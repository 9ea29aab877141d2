"""What every representation offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cellkit.config import RepresentationName, Spec
from cellkit.errors import UsageError
from cellkit.ops.detections import Detections
from cellkit.ops.instances import Instances
from cellkit.ops.runs import Runs
from cellkit.representations.blend import mean_maps

Limits: TypeAlias = dict[str, tuple[bool, str]]
ReadWindow: TypeAlias = Callable[[slice, slice], NDArray[np.floating[Any]]]
"""Rows and columns of a plane -> maps (C, h, w) of that window."""


class DecodeSettings(Spec):
    """Base of the settings of decoding."""

    @property
    def wants_brightness(self) -> bool:
        """Whether decoding needs the image itself as one more map."""
        return False

    def limits(self) -> Limits:
        """Of each setting that can be wrong: whether it is right, and what it may be."""
        raise NotImplementedError

    def check(self) -> None:
        """Refuse values that cannot be meant.

        Raises:
            UsageError: names the setting, its value and what it may be.
        """
        for name, (good, choices) in self.limits().items():
            if not good:
                raise UsageError(name, f"cannot be {getattr(self, name)}", f"give {choices}")

    def for_window(self, window: tuple[int, int], plane: tuple[int, int]) -> Self:
        """The settings for a window (h, w) of a plane (H, W): what is measured against the image must be scaled."""
        return self

    def for_plane(self, read: ReadWindow, plane: tuple[int, int]) -> Self:
        """The settings for a plane (H, W) that is decoded in windows: what all of them share is found out before.

        Args:
            read: gives a window of the maps, in any order.
            plane: size of the maps.
        """
        return self


class Loss(Protocol):
    """How far the outputs of a network are from what they should be."""

    def __call__(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Named terms, each a mean over pixels.

        Args:
            outputs: (B, C, H, W).
            targets: (B, T, H, W).
            weights: (B, H, W), how much each pixel counts; None: 1.
        """


@dataclass(frozen=True, kw_only=True)
class Decodable:
    """What all representations have: whatever a prediction holds, settings say how it becomes cells.

    Attributes:
        name: as in ``config.RepresentationName``.
        settings: dataclass of the settings of decoding.
        optional: further maps that a prediction may have: the brightness of the image.
    """

    name: RepresentationName
    settings: type[DecodeSettings]
    optional: int = 0


@dataclass(frozen=True, kw_only=True)
class ObjectRepresentation(Decodable):
    """How objects that a network found by itself, and that may overlap, become cells of which each pixel has one.

    Attributes:
        flatten: objects of an image, settings -> cells on (H, W).
        flat_runs: the same as runs that tile the image, numbered in raster order, and the score of each cell.
    """

    flatten: Callable[[Detections, Any], Instances]
    flat_runs: Callable[[Detections, Any], tuple[Runs, NDArray[np.float32]]]


@dataclass(frozen=True, kw_only=True)
class Representation(Decodable):
    """How labels become targets, and dense maps become cells.

    Attributes:
        channels: maps of a prediction: those that a network puts out that learns from labels.
        vectors: (y, x) pairs of target channels that rotate with the image.
        targets: labels (H, W) -> (T, H, W) float32.
        loss: outputs and targets -> named terms.
        decode: maps (C, H, W) of any floating type, settings -> cells on (H, W).
        searched: settings of decoding that are searched on labelled images after training, with the values to try.
        blend: maps (B, channels, H, W) of several networks -> maps.
    """

    channels: int
    vectors: tuple[tuple[int, int], ...]
    targets: Callable[[NDArray[np.integer[Any]]], NDArray[np.float32]]
    loss: Loss
    decode: Callable[[NDArray[np.floating[Any]], Any], Instances]
    searched: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    blend: Callable[[Sequence[Tensor]], Tensor] = mean_maps
