"""Images of any size -> the objects that a detector finds; tiles of several images share batches on a GPU.

An image is seen whole up to the size that a dense network sees whole, else in overlapping tiles; which tile an object
belongs to is told by ``ops.detections_tiles``. Pixels of large images are read tile by tile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellkit.config import DetectSettings, Spec
from cellkit.data.predicted_objects import counts_of_masks
from cellkit.engine.device import Device, prepare
from cellkit.engine.inference import CPU_TILE, GPU_BATCH_PIXELS, GPU_TILE, WHOLE_PIXELS, Tiling
from cellkit.engine.memory import MemoryLadder, is_out_of_memory
from cellkit.engine.tiles import divide, rounded_up
from cellkit.errors import UsageError
from cellkit.io.detections import ObjectPrediction
from cellkit.io.maps import PredictionInfo
from cellkit.networks import Detector
from cellkit.networks.detector_inference import detect
from cellkit.ops.detections import Detections
from cellkit.ops.detections_tiles import Piece, Spans, owned, put_together, scaled
from cellkit.stages.large_images import LargePixels

Tag = TypeVar("Tag")
Pixels: TypeAlias = NDArray[np.float32] | LargePixels
Find: TypeAlias = Callable[[Detector, Tensor, DetectSettings, Sequence[tuple[int, int]]], list[Detections]]

DETECTING = frozenset(field.name for field in fields(DetectSettings))
LONGEST_OBJECT = 256  # px; tiles overlap by the largest anchor, but for that of photographs


def detect_settings(settings: Spec) -> DetectSettings:
    """What of the settings of decoding is decided while objects are found."""
    return DetectSettings.from_dict({name: v for name, v in settings.to_dict().items() if name in DETECTING})


def as_objects(info: PredictionInfo, found: Detections, names: tuple[str, ...]) -> ObjectPrediction:
    """Objects at the scale of the network -> a prediction in pixels of the source.

    Args:
        info: all that is known of the image.
        found: objects on (h, w), the image at the scale of the network.
        names: of the categories.
    """
    found = scaled(found, info.shape)
    return ObjectPrediction(
        boxes=found.boxes,
        scores=found.scores,
        categories=found.categories,
        masks=counts_of_masks(found.masks, len(found), found.shape),
        names=names,
        **vars(info),
    )


def tile_overlap(detector: Detector) -> int:
    """Pixels that tiles of a model without working diameter share: they hold the objects that it was made for."""
    return int(min(max(detector.spec.anchor_sizes), LONGEST_OBJECT))


@dataclass(frozen=True, eq=False)
class _Plan:
    """How one image is cut.

    Attributes:
        pixels: of the image.
        shape: (h, w) of it.
        size: (h, w) of each tile, multiples of the stride; those at the end may reach over the image.
        rows: tiles down the image.
        columns: tiles across it.
    """

    pixels: Pixels
    shape: tuple[int, int]
    size: tuple[int, int]
    rows: Spans
    columns: Spans

    def inside(self, place: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of the image that a tile shows."""
        down, across = (
            slice(int(spans.starts[i]), int(spans.stops[i]))
            for spans, i in zip((self.rows, self.columns), place, strict=True)
        )
        return down, across

    def read(self, place: tuple[int, int]) -> NDArray[np.float32]:
        """(C, h, w) of a tile, without what reaches over the image."""
        down, across = self.inside(place)
        if isinstance(self.pixels, LargePixels):
            return self.pixels.window((down, across))
        return self.pixels[:, down, across]

    def places(self) -> list[tuple[int, int]]:
        """Row and column of each tile, row by row."""
        return [(i, j) for i in range(len(self.rows)) for j in range(len(self.columns))]


@dataclass(frozen=True, kw_only=True)
class Finder:
    """What turns images into objects.

    Attributes:
        detector: the network.
        settings: how many objects, and which.
        device: where it runs.
        tiling: how images are cut.
        ladder: what was found to fit into memory.
        find: finds the objects of a batch.
    """

    detector: Detector
    settings: DetectSettings
    device: Device
    tiling: Tiling
    ladder: MemoryLadder
    find: Find = detect

    def objects(self, images: Iterable[tuple[Tag, Pixels]]) -> Iterator[tuple[Tag, Detections]]:
        """Objects of images, in their order, in pixels of what is given.

        Args:
            images: tag and (C, h, w), normalised.

        Raises:
            UsageError: the tile leaves no room beside the overlap.
            MemoryLimitError: the smallest tile does not fit into memory.
            ModelError: the images do not fit the detector, or what it says is not finite.
        """
        for group in self._groups(images):
            found: list[Detections] | None = None
            while found is None:  # after memory ran out, with smaller batches or tiles
                found = self._found([pixels for _, pixels in group])
            yield from zip((tag for tag, _ in group), found, strict=True)

    def _groups(self, images: Iterable[tuple[Tag, Pixels]]) -> Iterator[list[tuple[Tag, Pixels]]]:
        """Images that are worked on together: one on a CPU, as many as fill a batch on a GPU."""
        group: list[tuple[Tag, Pixels]] = []
        for tag, pixels in images:
            group.append((tag, pixels))
            sizes = sum(int(np.prod(_shape(own))) for _, own in group)
            if self._device.is_cpu or sizes >= GPU_BATCH_PIXELS:
                yield group
                group = []
        if group:
            yield group

    @property
    def _device(self) -> Device:
        return self.ladder.device or self.device

    def _found(self, images: Sequence[Pixels]) -> list[Detections] | None:
        """Objects of images; None when memory ran out, and the ladder was stepped down."""
        plans = [self._plan(pixels) for pixels in images]
        network = self.detector.eval()
        prepare(network, self._device)
        waiting: defaultdict[tuple[int, int], list[tuple[int, tuple[int, int]]]] = defaultdict(list)
        for number, plan in enumerate(plans):
            waiting[plan.size] += [(number, place) for place in plan.places()]
        pieces: list[dict[tuple[int, int], Piece]] = [{} for _ in plans]
        for size, tiles in waiting.items():
            step = self._batch(size)
            for begin in range(0, len(tiles), step):
                batch = tiles[begin : begin + step]
                found = self._run(network, [(plans[number], place) for number, place in batch])
                if found is None:
                    self._step_down(len(batch), size)
                    return None
                for (number, place), objects in zip(batch, found, strict=True):
                    plan = plans[number]
                    pieces[number][place] = owned(objects, plan.rows, plan.columns, place, plan.shape)
        return [
            put_together([own[place] for place in plan.places()], plan.rows, plan.columns, self.settings.overlap)
            for plan, own in zip(plans, pieces, strict=True)
        ]

    def _run(self, network: Detector, tiles: Sequence[tuple[_Plan, tuple[int, int]]]) -> list[Detections] | None:
        """Objects of tiles of one size, in pixels of the tiles; None when memory ran out."""
        try:
            with torch.inference_mode(), self._device.autocast():
                images = torch.stack([self._tile(network, plan, place) for plan, place in tiles])
                images = images.contiguous(memory_format=torch.channels_last)
                shapes = [_size(plan.inside(place)) for plan, place in tiles]
                return self.find(network, images, self.settings, shapes)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None  # here, where the error and what it holds in memory are gone

    def _tile(self, network: Detector, plan: _Plan, place: tuple[int, int]) -> Tensor:
        """(C, h, w) of a tile on the device; over the image lies what counts as 0 in the network."""
        pixels = torch.from_numpy(np.ascontiguousarray(plan.read(place)))
        tile = network.ground.expand(-1, *plan.size).clone()
        tile[:, : pixels.shape[1], : pixels.shape[2]] = pixels.to(tile.device)
        return tile

    def _plan(self, pixels: Pixels) -> _Plan:
        stride = self.detector.stride
        shape = _shape(pixels)
        overlap = rounded_up(self.tiling.overlap, stride)
        least = overlap + stride
        if self.tiling.tile is not None and self.tiling.tile < least:
            problem = f"{self.tiling.tile} pixels leave no room beside an overlap of {overlap}"
            raise UsageError("tile", problem, f"use a tile of {least} or more, or a smaller overlap")
        limit = self._limit(shape, overlap, least)
        axes = [divide(rounded_up(length, stride), limit, overlap, stride) for length in shape]
        rows, columns = (Spans.of(axis.starts, axis.size, n) for axis, n in zip(axes, shape, strict=True))
        return _Plan(pixels, shape, (axes[0].size, axes[1].size), rows, columns)

    def _limit(self, shape: tuple[int, int], overlap: int, least: int) -> int:
        """Longest side of a tile; ``engine.inference`` has the same sizes for dense networks."""
        limit = self.tiling.tile
        if limit is None:
            on_cpu = self._device.is_cpu
            whole = on_cpu and shape[0] * shape[1] <= WHOLE_PIXELS
            limit = rounded_up(max(shape), self.detector.stride) if whole else CPU_TILE if on_cpu else GPU_TILE
            limit = max(limit, 2 * overlap)
        return limit if self.ladder.tile is None else max(least, min(limit, self.ladder.tile))

    def _batch(self, size: tuple[int, int]) -> int:
        """Tiles of a size at once."""
        pixels = size[0] * size[1]
        batch = self.tiling.batch or (1 if self._device.is_cpu else GPU_BATCH_PIXELS // pixels)
        return max(1, batch if self.ladder.pixels is None else min(batch, self.ladder.pixels // pixels))

    def _step_down(self, batch: int, size: tuple[int, int]) -> None:
        least = rounded_up(self.tiling.overlap, self.detector.stride) + self.detector.stride
        self.ladder.step_down(self._device, batch, size, least, self.tiling.oom_fallback)
        if self.device.is_cuda:
            torch.cuda.empty_cache()


def _shape(pixels: Pixels) -> tuple[int, int]:
    return pixels.shape if isinstance(pixels, LargePixels) else (int(pixels.shape[1]), int(pixels.shape[2]))


def _size(window: tuple[slice, slice]) -> tuple[int, int]:
    rows, columns = window
    return rows.stop - rows.start, columns.stop - columns.start
