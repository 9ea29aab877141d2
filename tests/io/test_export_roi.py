"""ImageJ ROIs as roifile reads them."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import roifile

from cellkit.errors import InputError
from cellkit.io.export_roi import LARGEST_SIDE, encode_rois

SQUARE = np.array([[2, 3], [6, 3], [6, 5], [2, 5]])
HOLE = np.array([[3, 4], [3, 5], [4, 5], [4, 4]])


def read(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [roifile.ImagejRoi.frombytes(archive.read(name)) for name in archive.namelist()]


def test_a_polygon_is_traced_and_one_with_holes_composite():
    one, two = read(encode_rois("a", (20, 20), {1: [[SQUARE]], 12: [[SQUARE, HOLE]]}))
    assert (one.name, one.roitype, two.name, two.composite) == ("00001", roifile.ROI_TYPE.TRACED, "00012", True)
    assert (one.left, one.top, one.right, one.bottom) == (2, 3, 6, 5)
    np.testing.assert_array_equal(one.coordinates(), SQUARE)
    for ring, found in zip((SQUARE, HOLE), two.coordinates(multi=True), strict=True):
        np.testing.assert_array_equal(found[: len(ring)], ring)


def test_coordinates_reach_to_the_largest_side():
    far = SQUARE + LARGEST_SIDE - 6
    (roi,) = read(encode_rois("a", (LARGEST_SIDE, LARGEST_SIDE), {1: [[far]]}))
    np.testing.assert_array_equal(roi.coordinates(), far)
    with pytest.raises(InputError, match="ROIs end at 60535"):
        encode_rois("a", (5, LARGEST_SIDE + 1), {})


def test_the_same_objects_give_the_same_bytes():
    assert encode_rois("a", (9, 9), {1: [[SQUARE]]}, "x") == encode_rois("b", (9, 9), {1: [[SQUARE]]}, "x")
