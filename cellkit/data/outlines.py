"""Drawn outlines as annotations: zips of ImageJ ROIs, and GeoJSON of QuPath.

A biologist draws cells in ImageJ or QuPath; a pixel belongs to a cell when its centre lies inside of the outline. Where
all names are different whole numbers, as ``cellkit convert`` writes them, they are the labels; else the objects are
numbered from 1 in the order of the file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellkit.data.outlines_geojson import read_geojson
from cellkit.data.outlines_parts import Drawn, Outline
from cellkit.data.outlines_roi import is_rois, read_rois
from cellkit.data.truth import LARGEST, Truth, check_shape, left_out, paint
from cellkit.errors import InputError
from cellkit.io.images import ReadOptions, describe
from cellkit.io.keys import safe_key, suffix_of
from cellkit.io.stored import decoding
from cellkit.ops.contours_filling import filled, runs_of_pixels
from cellkit.ops.run_lengths import encode_runs
from cellkit.provenance import History

READERS: dict[str, Callable[[bytes, str], Drawn]] = {  # the longer before the shorter
    ".geojson.gz": read_geojson,
    ".geojson": read_geojson,
    ".zip": read_rois,
    ".roi": read_rois,
}
MARK = "_rois"  # NAME_rois.zip beside NAME
LARGEST_SCORED = 10_000_000  # labels above are ids of a database: a table up to them would fill the memory

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutlineFile:
    """The outlines of the cells of one image.

    Attributes:
        name: the file, or the member of a stream.
        image: the image on which they were drawn, which tells the size; or None.
        size: (H, W) where it is known; or None.
        data: the bytes of a member of a stream; or None.
    """

    name: str
    image: str | None = None
    size: tuple[int, int] | None = None
    data: bytes | None = field(default=None, repr=False)

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """Read it; see :class:`cellkit.data.truth.LabelRef`.

        Raises:
            InputError: it cannot be read, is none of these files, has cells of several planes, or nothing tells the
                size of the image: neither the argument nor ``size`` nor ``image`` nor, as in our own files, the file.
        """
        return self.read_with_history(shape)[0]

    def read_with_history(self, shape: tuple[int, int] | None = None) -> tuple[Truth, History]:
        """The same, and the commands that made the file where ``cellkit convert`` wrote it."""
        drawn = self._drawn()
        pixel_size = drawn.header.pixel_size
        known = shape or self.size
        if self.image is not None and (known is None or pixel_size is None):
            info = describe(self.image, ReadOptions())
            known, pixel_size = known or info.size, pixel_size or info.pixel_size
        if known is not None and drawn.shape is not None:
            check_shape(self.name, drawn.shape, known)
        size = known or drawn.shape
        if size is None:
            raise InputError(self.name, "nothing tells the size of its image", "add --image IMAGE or --shape H,W")
        return _painted(self.name, drawn.outlines, size, pixel_size), drawn.header.history

    def _drawn(self) -> Drawn:
        try:
            data = Path(self.name).read_bytes() if self.data is None else self.data
        except OSError as error:
            raise InputError(self.name, f"cannot be read: {error.strerror}", "check its name and rights") from error
        with decoding(self.name):
            drawn = READERS[outline_suffix(self.name)](data, self.name)
        _check(drawn, self.name)
        return drawn


def _check(drawn: Drawn, name: str) -> None:
    """Say what is passed over; refuse cells of several planes."""
    if len(drawn.planes) > 1:
        problem = f"its cells lie on {len(drawn.planes)} planes or frames"
        raise InputError(name, problem, "save those of one plane at a time")
    if drawn.passed_over:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(drawn.passed_over.items()))
        logger.warning("%s: objects that are no cells are passed over: %s", name, kinds)


def outline_suffix(name: str) -> str:
    """The suffix of a file of outlines, lower case; '' when it has none of them."""
    lowered = name.lower()
    return next((suffix for suffix in READERS if lowered.endswith(suffix)), "")


def outline_key(name: str) -> str:
    """The key of the image that a file of outlines is of: NAME of NAME_rois.zip and NAME.tif.geojson.

    Raises:
        InputError: the name makes no key.
    """
    stem = Path(name).name
    stem = stem[: len(stem) - len(outline_suffix(stem))]
    stem = stem[: len(stem) - len(suffix_of(stem))]
    return safe_key(stem.removesuffix(MARK) or stem, source=name)


def is_outlines(path: Path) -> bool:
    """Whether a file is one of outlines: GeoJSON by its name, a zip by the ROIs in it."""
    suffix = outline_suffix(path.name)
    return is_rois(path) if suffix == ".zip" else bool(suffix)


def _painted(name: str, outlines: Sequence[Outline], shape: tuple[int, int], pixel_size: float | None) -> Truth:
    """Outlines filled: a label image, and masks where they overlap."""
    rings = [ring for outline in outlines for ring in outline.rings]
    owners = [index for index, outline in enumerate(outlines) for _ in outline.rings]
    owner, pixels = filled(rings, owners, shape)
    present = np.flatnonzero(np.bincount(owner, minlength=len(outlines)))
    if len(present) < len(outlines):
        logger.warning("%s: %s", name, left_out(len(outlines) - len(present), "outline"))
    ids = _labels(outlines)[present]
    order = np.argsort(ids, kind="stable")
    scores = np.array([outlines[index].score for index in present.tolist()], np.float32)
    number = np.zeros(len(outlines), np.int32)
    number[present] = ids
    labels = np.zeros(shape, np.int32)
    labels.ravel()[pixels] = number[owner]
    if np.count_nonzero(labels) == len(pixels):  # none was painted twice
        return Truth(labels=labels, scores=_by_label(ids, scores), pixel_size=pixel_size)
    if not np.array_equal(ids[order], np.arange(1, len(ids) + 1)):
        logger.warning("%s: cells overlap, so that their numbers are new, from 1", name)
    masks = encode_runs(runs_of_pixels(owner, pixels, shape), len(outlines), shape)
    truth = paint([masks[index] for index in present[order]], shape)
    return Truth(
        labels=truth.labels,
        masks=truth.masks,
        overlapping=truth.overlapping,
        scores=_by_label(np.arange(1, len(ids) + 1), scores[order]),
        pixel_size=pixel_size,
    )


def _labels(outlines: Sequence[Outline]) -> NDArray[np.int64]:
    """The names, where all are different numbers; else 1 to N."""
    names = [outline.name for outline in outlines]
    if all(name.isascii() and name.isdecimal() and len(name) <= len(str(LARGEST)) for name in names):
        numbers = [int(name) for name in names]
        if len(set(numbers)) == len(numbers) and all(0 < number <= LARGEST for number in numbers):
            return np.array(numbers, np.int64)
    return np.arange(1, len(names) + 1)


def _by_label(ids: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Scores as label images carry them, up to the largest label; NaN where there is none."""
    if not np.isfinite(scores).any() or ids.max() > LARGEST_SCORED:
        return None
    found = np.full(int(ids.max()), np.nan, np.float32)
    found[ids - 1] = scores
    return found
