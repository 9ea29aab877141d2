"""Non-maximum suppression of boxes: exact, for tens of thousands.

By falling score a box survives unless its intersection over union with one that survived is more than a threshold. Of
equal scores the first comes first. Overlaps are computed and compared in the type of the boxes, float32 at least.
torchvision's kernel does the work where there is one; it may round an overlap of just the threshold the other way.

Boxes are judged in blocks by rank: those of a block that survive suppress what comes after, which then costs nothing
more. Within a block and after it, only boxes are compared whose places along both axes allow it. Two intervals of sides
a and b, whose centres are d apart, have an intersection over union above t only if b < a / t and
d < (1 - t) / (1 + t) * (a + b) / 2, so d < a * (1 - t) / (2 t); and that of boxes is at most that of their intervals.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor

from cellkit.ops.boxes import area, check, intersection
from cellkit.ops.boxes_kernels import kernels
from cellkit.ops.boxes_ranges import parts, spread

BLOCK = 1 << 10  # boxes judged together
PAIRS = 1 << 18  # compared at once
BANDS = 1 << 12  # that the image is cut into at most
TINY = 1e-12
SLACK = 1e-4  # of a side, added to how far boxes are looked for: more than rounding can make of an overlap


def nms(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """Indices (K,) int64 of the boxes that survive, best first.

    Args:
        boxes: (N, 4) pixels, finite.
        scores: (N,) finite.
        overlap: from 0 to 1; a box that overlaps a better one more than this does not survive.

    Raises:
        ValueError: boxes are not (N, 4) and finite, or the threshold is outside of [0, 1].
    """
    return nms_by_class(boxes, scores, torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device), overlap)


def nms_by_class(boxes: Tensor, scores: Tensor, classes: Tensor, overlap: float) -> Tensor:
    """As :func:`nms`, but boxes suppress only those of their own class.

    Args:
        boxes: as there.
        scores: as there.
        classes: (N,) integers: categories, or levels of a pyramid.
        overlap: as there.
    """
    check(boxes)
    if not 0 <= overlap <= 1:
        raise ValueError(f"overlap must be from 0 to 1, not {overlap}")
    boxes = boxes.detach().to(torch.promote_types(boxes.dtype, torch.float32))
    order = scores.detach().argsort(descending=True, stable=True)
    compiled = kernels()
    if compiled is not None:
        survives = _survivors_compiled(compiled, boxes, scores.detach(), classes, overlap)
    else:
        survives = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        survives[order[_survivors(boxes[order], classes[order], overlap)]] = True
    return order[survives[order]]


def _survivors_compiled(compiled: ModuleType, boxes: Tensor, scores: Tensor, classes: Tensor, overlap: float) -> Tensor:
    """Which (N,) survive; class by class, since torchvision's own way moves classes apart, which rounds their boxes."""
    survives = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for number in torch.unique(classes).tolist():
        own = (classes == number).nonzero()[:, 0]
        survives[own[compiled.nms(boxes[own], scores[own].to(boxes.dtype), overlap)]] = True
    return survives


def _survivors(boxes: Tensor, classes: Tensor, overlap: float) -> Tensor:
    """Which (N,) of boxes, best first, survive."""
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    rivals = _Rivals(boxes, classes, overlap)
    for begin in range(0, len(boxes), BLOCK):
        end = begin + BLOCK
        block = begin + alive[begin:end].nonzero()[:, 0]
        better, worse = (torch.cat(some) for some in zip(*rivals.pairs(block, block), strict=True))
        _settle(better, worse, alive)
        after = end + alive[end:].nonzero()[:, 0]
        for _, theirs in rivals.pairs(block[alive[block]], after):
            alive[theirs] = False
    return alive


def _settle(better: Tensor, worse: Tensor, alive: Tensor) -> None:
    """Mark as no longer alive what others suppress, given pairs (P,) of better and worse that cannot both survive.

    In rounds: who has no better rival left survives for certain, and whom such a one beats does not. The best of all
    that are in doubt is always among the former, so that each round ends some doubts.
    """
    while len(better):
        contested = torch.zeros_like(alive)
        contested[worse] = True
        doubtful = contested[better]
        alive[worse[~doubtful]] = False
        doubtful &= alive[better] & alive[worse]
        better, worse = better[doubtful], worse[doubtful]


class _Rivals:
    """Pairs of boxes of one class, best first, that overlap more than a threshold.

    Boxes are sorted by class, by band of the image and by place along x, so that those near one are few ranges.
    """

    def __init__(self, boxes: Tensor, classes: Tensor, overlap: float) -> None:
        self.boxes, self.areas, self.overlap = boxes, area(boxes), overlap
        start, stop = boxes.double().T.chunk(2)  # (2, N) along x and y
        sides = (stop - start).clamp(min=0)
        looked = torch.minimum(sides * ((1 - overlap) / max(2 * overlap, TINY)), (sides + _most(sides)) / 2)
        self.reach = looked + SLACK * sides
        centres = (start + stop) / 2
        self.places = centres + _most(-centres)  # from 0 on
        width, height = _most(self.places).flatten().tolist()
        step = max(2 * float(self.reach[1].sum()) / max(len(boxes), 1), height / BANDS, TINY)
        bands = (self.places[1] / step).long()
        self.low, self.high = (
            torch.clamp((self.places[1] + reach) / step, 0, height / step).long()
            for reach in (-self.reach[1], self.reach[1])
        )
        self.first_band = torch.unique(classes, return_inverse=True)[1] * (int(height / step) + 1)
        self.span: float = width + 1  # of a band among the keys: a pixel of nothing keeps classes apart
        self.keys = self._keys(self.first_band + bands, self.places[0])
        self.reach[0] += 4 * torch.finfo(torch.float64).eps * (self.keys.max() if len(boxes) else 0)  # keys are rounded

    def pairs(self, ours: Tensor, theirs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each of ours with those of theirs of lower rank that it would suppress; some pairs at a time."""
        order = theirs[self.keys[theirs].argsort()]
        across, reach = self.places[1], self.reach[1]
        across_sorted = across[order]
        ours, first, count = self._ranges(ours, self.keys[order])
        taken = parts(count, PAIRS)
        for mine, begin, length in zip(*(torch.split(values, taken) for values in (ours, first, count)), strict=True):
            mine, other = mine.repeat_interleave(length), spread(begin, length)
            near = ((across_sorted[other] - across[mine]).abs() <= reach[mine]).nonzero()[:, 0]
            mine, other = mine[near], order[other[near]]
            later = other > mine
            mine, other = mine[later], other[later]
            shared = intersection(self.boxes[mine], self.boxes[other])
            rival = shared / (self.areas[mine] + self.areas[other] - shared) > self.overlap  # not where 0 / 0
            yield mine[rival], other[rival]

    def _ranges(self, ours: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ours once for each band in reach; and the first of the sorted keys, and how many, in reach along x there."""
        bands = self.high[ours] - self.low[ours] + 1
        band = spread((self.first_band + self.low)[ours], bands)
        ours = ours.repeat_interleave(bands)
        place, reach = self.places[0][ours], self.reach[0][ours]
        first = torch.searchsorted(keys, self._keys(band, place - reach))
        return ours, first, torch.searchsorted(keys, self._keys(band, place + reach), right=True) - first

    def _keys(self, band: Tensor, place: Tensor) -> Tensor:
        return band.double() * self.span + place.clamp(-0.25, self.span - 0.75)


def _most(values: Tensor) -> Tensor:
    """The largest (2, 1) of values (2, N) along each axis; 0 if there are none."""
    if not values.numel():
        return values.new_zeros(2, 1)
    return values.amax(1, keepdim=True)
