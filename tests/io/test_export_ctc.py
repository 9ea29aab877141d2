"""Frames and tracks of the Cell Tracking Challenge."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile

from cellkit.errors import UsageError
from cellkit.io.export_ctc import encode_frame, encode_tracks, frame_file, frame_places


def test_frames_keep_their_numbers_when_all_have_one():
    assert frame_places(["t003", "t010"]) == {"t003": ("01", 3), "t010": ("01", 10)}
    assert frame_places(["01_t003", "02_t003"]) == {"01_t003": ("01", 3), "02_t003": ("02", 3)}
    assert frame_places(["t003", "b"]) == {"t003": ("01", 0), "b": ("01", 1)}
    assert frame_places(["t003", "01_t003"]) == {"t003": ("01", 0), "01_t003": ("01", 1)}


def test_names_of_long_sequences_have_four_digits():
    assert frame_file("01", 7, 1000) == "01_RES/mask007.tif"
    assert frame_file("02", 7, 1001) == "02_RES/mask0007.tif"


def test_labels_go_on_without_gaps():
    data, last = encode_frame("a", np.array([[0, 5, 5], [70_000, 0, 9]], np.int32), 2)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(data)), [[0, 3, 3], [5, 0, 4]])
    assert last == 5
    assert encode_tracks([(0, 1, 3), (4, 3, 4)]) == b"1 0 0 0\n2 0 0 0\n3 4 4 0\n"


def test_sixteen_bits_are_full_at_65535():
    assert encode_frame("a", np.ones((2, 2), np.int32), 65_534)[1] == 65_535
    with pytest.raises(UsageError, match="65536 objects"):
        encode_frame("a", np.ones((2, 2), np.int32), 65_535)
