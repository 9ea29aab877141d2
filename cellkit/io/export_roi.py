"""Zip files of ImageJ ROIs, as its ROI manager saves them: polygons along the edges of the pixels."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

from cellkit.errors import InputError
from cellkit.io.export_geojson import Polygons, Ring

LARGEST_SIDE = 60_535  # pixels; coordinates are 16 bits, of which ImageJ takes some for negative numbers
LONGEST_COMMENT = zipfile.ZIP_MAX_COMMENT
DIGITS = 5  # of the label in a name: sorted by name is sorted by label
DATE = (1980, 1, 1, 0, 0, 0)  # the first of zip files: the same objects give the same bytes
MOVE_TO, LINE_TO, CLOSE = 0.0, 1.0, 4.0  # of composite ROIs, see java.awt.geom.PathIterator


def encode_rois(name: str, shape: tuple[int, int], objects: Mapping[int, Polygons], comment: str = "") -> bytes:
    """A zip with one ROI per object: a traced polygon, or a composite where it has several pieces or holes.

    Args:
        name: of the image, for messages.
        shape: (H, W) of the image.
        objects: polygons by label; the label is the name of the ROI.
        comment: of the zip file, at most 65,535 bytes of ASCII; a longer one is left out.

    Raises:
        InputError: the image is larger than ROIs can tell.
    """
    if max(shape) > LARGEST_SIDE:
        problem = f"{shape[0]} x {shape[1]} pixels; ImageJ ROIs end at {LARGEST_SIDE}"
        raise InputError(name, problem, "choose --to geojson")
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for label, polygons in objects.items():
            text = f"{label:0{DIGITS}d}"
            single = len(polygons) == 1 and len(polygons[0]) == 1
            roi = _traced(polygons[0][0], text) if single else _composite(polygons, text)
            archive.writestr(zipfile.ZipInfo(f"{text}.roi", DATE), roi.tobytes())
        if len(comment) <= LONGEST_COMMENT:
            archive.comment = comment.encode("ascii")
    return memory.getvalue()


def _placed(rings: NDArray[np.int64], name: str) -> ImagejRoi:
    """A ROI with its bounding box."""
    roi = ImagejRoi()
    roi.options = ROI_OPTIONS.OVERLAY_LABELS
    roi.name = name
    roi.left, roi.top = rings.min(axis=0).tolist()
    roi.right, roi.bottom = rings.max(axis=0).tolist()
    return roi


def _traced(ring: Ring, name: str) -> ImagejRoi:
    roi = _placed(ring, name)
    roi.roitype = ROI_TYPE.TRACED
    roi.n_coordinates = len(ring)
    roi.integer_coordinates = (ring - ring.min(axis=0)).astype(np.int32)
    return roi


def _composite(polygons: Polygons, name: str) -> ImagejRoi:
    rings = [ring for polygon in polygons for ring in polygon]
    roi = _placed(np.concatenate(rings), name)
    roi.roitype = ROI_TYPE.RECT
    path: list[float] = []
    for ring in rings:
        steps = [MOVE_TO] + [LINE_TO] * (len(ring) - 1)
        path += [value for step, (x, y) in zip(steps, ring.tolist(), strict=True) for value in (step, x, y)]
        path.append(CLOSE)
    roi.multi_coordinates = np.array(path, np.float32)
    roi.shape_roi_size = len(path)
    return roi
