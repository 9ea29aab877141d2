"""ImageJ ROIs, alone or in a zip as its ROI manager saves them, as outlines of cells."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from cellkit.data.outlines_parts import Drawn, Outline, Ring, parse_header
from cellkit.errors import InputError

if TYPE_CHECKING:
    from roifile import ImagejRoi

ROI_MAGIC, ZIP_MAGIC = b"Iout", b"PK"
LARGEST_ROI = 1 << 26  # bytes: eight million corners; a zip that claims more would fill the memory
ELLIPSE_CORNERS = 720  # of an oval, which ImageJ fills by the centres of pixels too
AREAS = ("POLYGON", "FREEHAND", "TRACED", "RECT", "OVAL")
OTHERS = ("TEXT", "ARROW", "IMAGE")  # kinds of rectangles and lines that are no outlines
REPAIR = "save it anew from ImageJ's ROI manager"


def is_rois(path: Path) -> bool:
    """Whether a zip has ROIs in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(map(_is_roi, archive.namelist()))
    except (OSError, zipfile.BadZipFile):
        return False


def _is_roi(name: str) -> bool:
    return name.lower().endswith(".roi") and not PurePosixPath(name).name.startswith(".")


def read_rois(data: bytes, name: str) -> Drawn:
    """The outlines of a ROI zip or a single ROI; the names of its members are never those of files.

    Points, lines, angles and texts are passed over; composite ROIs are taken with their holes and pieces.

    Args:
        data: the file.
        name: for messages.

    Raises:
        InputError: it is damaged, or no ROIs.
    """
    from roifile import ImagejRoi  # only when it is needed

    outlines: list[Outline] = []
    passed_over: Counter[str] = Counter()
    planes: set[Hashable] = set()
    comment = ""
    for member, content in _members(data, name):
        if member is None:
            comment = content.decode("ascii", "replace")
            continue
        try:
            roi = ImagejRoi.frombytes(content)
        except (ValueError, struct.error, TypeError, IndexError) as error:
            raise InputError(name, f"{member!r} in it is no readable ROI", REPAIR) from error
        rings = _rings(roi)
        if rings is None:
            passed_over[_kind(roi)] += 1
            continue
        planes |= {(roi.position, roi.z_position, roi.t_position)} - {(0, 0, 0)}
        outlines.append(Outline(name=roi.name or PurePosixPath(member).stem, rings=rings))
    header, shape = parse_header(comment)
    found = Drawn(outlines=outlines, passed_over=passed_over, planes=frozenset(planes), header=header, shape=shape)
    return _scored(found)


def _members(data: bytes, name: str) -> Iterator[tuple[str | None, bytes]]:
    """Name and bytes of each ROI, and under None the comment of the zip."""
    if data.startswith(ROI_MAGIC):
        yield name, data
        return
    if not data.startswith(ZIP_MAGIC):
        raise InputError(name, "is neither a zip of ImageJ ROIs nor one ROI", REPAIR)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield None, archive.comment
            for info in archive.infolist():
                if not _is_roi(info.filename):
                    continue
                if info.file_size > LARGEST_ROI:
                    problem = f"{info.filename!r} in it would take {info.file_size} bytes"
                    raise InputError(name, f"{problem}; no ROI of a cell does", REPAIR)
                yield info.filename, archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(name, f"is a damaged zip: {error}", REPAIR) from error


def _kind(roi: ImagejRoi) -> str:
    kind = roi.subtype.name if roi.subtype.name in OTHERS else roi.roitype.name
    return kind.lower()


def _rings(roi: ImagejRoi) -> tuple[Ring, ...] | None:
    """The corners of an area; None of what encloses none."""
    if roi.roitype.name not in AREAS or roi.subtype.name in OTHERS:
        return None
    if roi.roitype.name == "OVAL":
        return (_ellipse(roi),)
    try:
        found = roi.coordinates(multi=True)
    except NotImplementedError:  # a composite of curves
        return None
    return tuple(np.asarray(ring, np.float64) for ring in found)


def _ellipse(roi: ImagejRoi) -> Ring:
    if roi.subpixelrect:
        left, top, width, height = roi.xd, roi.yd, roi.widthd, roi.heightd
    else:
        left, top, width, height = roi.left, roi.top, roi.right - roi.left, roi.bottom - roi.top
    angles = np.linspace(0, 2 * np.pi, ELLIPSE_CORNERS, endpoint=False)
    x, y = left + width / 2 * (1 + np.cos(angles)), top + height / 2 * (1 + np.sin(angles))
    return np.stack([x, y], axis=1)


def _scored(drawn: Drawn) -> Drawn:
    """Scores that our own comment keeps, by label; ROIs have none."""
    scores = drawn.header.scores
    if scores is None:
        return drawn
    known = {f"{label}": float(score) for label, score in enumerate(scores, 1)}
    drawn.outlines[:] = [
        Outline(name=one.name, rings=one.rings, score=known.get(one.name.lstrip("0"), float("nan")))
        for one in drawn.outlines
    ]
    return drawn
