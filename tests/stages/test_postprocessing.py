"""Cells of large images of objects come by bands of rows, and are the same."""

from __future__ import annotations

import numpy as np
import pytest

from cellkit.config import RepresentationSpec
from cellkit.data.predicted_objects import counts_of_masks
from cellkit.io.detections import ObjectPrediction
from cellkit.io.label_image import LabelImage, LabelRows, whole
from cellkit.io.labels import read_labels, write_labels
from cellkit.ops.run_lengths import MaskRuns
from cellkit.stages import postprocessing
from cellkit.stages.postprocessing import flattened

SHAPE = (70, 90)
COUNT = 40


@pytest.fixture
def prediction():
    """Squares at random places, many of which overlap."""
    random = np.random.default_rng(0)
    tops, lefts = random.integers(0, 60, COUNT), random.integers(0, 80, COUNT)
    starts = ((lefts[:, None] + np.arange(10)) * SHAPE[0] + tops[:, None]).ravel()
    runs = MaskRuns(owners=np.repeat(np.arange(COUNT), 10), starts=starts, lengths=np.full(10 * COUNT, 10))
    return ObjectPrediction(
        key="a",
        representation=RepresentationSpec(name="boxes"),
        source="a.png",
        shape=SHAPE,
        boxes=np.zeros((COUNT, 4), np.float32),
        scores=np.linspace(0.99, 0.51, COUNT).astype(np.float32),
        categories=np.zeros(COUNT, np.int32),
        masks=counts_of_masks(runs, COUNT, SHAPE),
        pixel_size=0.5,
    )


@pytest.mark.parametrize("band", [1, 32, 70, 100])
def test_bands_are_the_whole(prediction, monkeypatch, tmp_path, band):
    expected = flattened(prediction)
    assert isinstance(expected, LabelImage)
    assert 10 < expected.count < COUNT
    monkeypatch.setattr(postprocessing, "is_large", lambda shape: shape == SHAPE)
    monkeypatch.setattr(postprocessing, "BAND_ROWS", band)
    found = flattened(prediction)
    assert isinstance(found, LabelRows)
    assert (found.count, found.shape, found.pixel_size) == (expected.count, SHAPE, 0.5)
    np.testing.assert_array_equal(found.scores, expected.scores)
    write_labels(tmp_path / "a.tif", found)
    np.testing.assert_array_equal(read_labels(str(tmp_path / "a.tif")).labels, expected.labels)
    np.testing.assert_array_equal(whole(flattened(prediction)), expected.labels)
