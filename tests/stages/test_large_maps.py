"""Cells of large maps: decoded by windows, numbered over the whole, scaled to the source."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from cellkit.config import RepresentationSpec
from cellkit.io.label_image import LabelRows, whole
from cellkit.io.labels import read_labels, write_labels
from cellkit.io.maps import Prediction
from cellkit.ops.instances import Instances
from cellkit.ops.labelling import relabel_in_raster_order
from cellkit.provenance import Record
from cellkit.stages import large_maps
from cellkit.stages.large_maps import cells_of, halo_of


def prediction(maps: np.ndarray, shape: tuple[int, int], **known) -> Prediction:
    """Maps whose first channel is a label image."""
    return Prediction(
        key="huge",
        maps=maps,
        representation=RepresentationSpec(name="flow"),
        source="huge.tif",
        shape=shape,
        scale=maps.shape[1] / shape[0],
        history=(Record(verb="predict"),),
        **known,
    )


def cells_in(maps: np.ndarray) -> Instances:
    """The cells that the first channel names; scores are what it calls them."""
    labels, former = relabel_in_raster_order(maps[0].astype(np.int32))
    return Instances(labels, former.astype(np.float32))


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(large_maps, "CORE", 48)
    monkeypatch.setattr(large_maps, "HALO", 24)


@pytest.mark.parametrize("workers", [1, 3])
def test_cells_of_windows_are_the_cells_of_the_whole(crowded_field, workers):
    item = cells_of(prediction(crowded_field[None], (128, 128), pixel_size=0.5), cells_in, workers)
    expected, former = relabel_in_raster_order(crowded_field)
    assert isinstance(item, LabelRows)
    assert np.array_equal(whole(item), expected)
    assert np.array_equal(whole(item), expected), "it can be read again"
    assert item.scores.tolist() == former.tolist()
    assert item.count == len(former)
    assert (item.key, item.pixel_size, item.history) == ("huge", 0.5, (Record(verb="predict"),))


@pytest.mark.parametrize("shape", [(64, 64), (256, 256), (43, 43), (300, 300)])
def test_cells_have_the_size_of_the_source_and_no_number_is_unused(crowded_field, shape):
    item = cells_of(prediction(crowded_field[None], shape), cells_in, 1)
    labels = whole(item)
    values, first = np.unique(labels, return_index=True)
    assert labels.shape == shape
    assert values.tolist() == list(range(item.count + 1))
    assert (np.diff(first[1:]) > 0).all()
    rows, columns = (((np.arange(n) + 0.5) * 128 / n).astype(int) for n in shape)
    assert np.array_equal(np.concatenate([[0], item.scores])[labels], crowded_field[rows[:, None], columns])


def test_cells_that_vanish_when_shrinking_have_no_number():
    maps = np.zeros((1, 120, 120), np.int32)
    maps[0, 0, 60] = 7  # one pixel, between those that are kept
    maps[0, 40:60, 40:60] = 9
    item = cells_of(prediction(maps, (40, 40)), cells_in, 1)
    assert item.count == 1
    assert item.scores.tolist() == [9]
    assert whole(item).max() == 1


@pytest.mark.parametrize(("pitch", "dtype"), [(2, np.uint32), (4, np.uint16)])
def test_more_cells_than_uint16_has_numbers_are_written_as_uint32(tmp_path, pitch, dtype):
    maps = np.zeros((1, 600, 600), np.int32)
    cells = maps[0, ::pitch, ::pitch]
    cells[...] = 1 + np.random.default_rng(0).permutation(cells.size).reshape(cells.shape)
    item = cells_of(prediction(maps, (600, 600)), cells_in, 1)
    path = tmp_path / "huge.tif"
    write_labels(path, item)
    stored = read_labels(str(path))
    assert tifffile.imread(path).dtype == dtype
    assert np.array_equal(stored.labels[::pitch, ::pitch].ravel(), 1 + np.arange(cells.size))
    assert stored.scores.tolist() == cells.ravel().tolist()


def test_no_cells_at_all():
    item = cells_of(prediction(np.zeros((1, 100, 100), np.int32), (50, 50)), cells_in, 1)
    assert item.count == 0
    assert item.scores.shape == (0,)
    assert not whole(item).any()


@pytest.mark.parametrize(("diameter", "halo"), [(None, 24), (6.0, 24), (30.0, 120)])
def test_windows_overlap_by_two_diameters_on_each_side(diameter, halo):
    item = prediction(np.zeros((1, 200, 200), np.int32), (100, 100), diameter=diameter)
    assert halo_of(item) == halo
