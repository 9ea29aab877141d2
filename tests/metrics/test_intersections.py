"""The sparse table holds what a pair of loops over ids counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellkit.errors import InputError
from cellkit.metrics import score
from cellkit.metrics.intersections import LARGEST_ID, intersections


def pairs(truth, prediction):
    """{(truth id, predicted id): shared pixels}, counted literally."""
    ids = [np.unique(labels[labels > 0]) for labels in (truth, prediction)]
    counts = {(int(t), int(p)): int(((truth == t) & (prediction == p)).sum()) for t in ids[0] for p in ids[1]}
    return {pair: count for pair, count in counts.items() if count}


def pairs_of(table):
    ids = zip(table.truth_ids[table.truth].tolist(), table.predicted_ids[table.predicted].tolist(), strict=True)
    return dict(zip(ids, table.pixels.tolist(), strict=True))


@given(drawn=st.data())
def test_pairs_areas_and_foreground_equal_a_literal_count(small_labels, drawn):
    truth, prediction = drawn.draw(small_labels)
    table = intersections(truth, prediction)
    assert pairs_of(table) == pairs(truth, prediction)
    assert table.truth_ids.tolist() == np.unique(truth[truth > 0]).tolist()
    assert table.truth_areas.tolist() == [(truth == i).sum() for i in table.truth_ids]
    assert table.predicted_areas.tolist() == [(prediction == i).sum() for i in table.predicted_ids]
    foreground = ((truth > 0).sum(), (prediction > 0).sum(), ((truth > 0) & (prediction > 0)).sum())
    assert (table.truth_foreground, table.predicted_foreground, table.common_foreground) == foreground


def test_pairs_are_ordered_by_truth_then_prediction(crowded_field):
    table = intersections(crowded_field, np.roll(crowded_field, 5, 0)[:, ::-1])
    order = np.lexsort((table.predicted, table.truth))
    assert table.pixels.size > 20
    assert (order == np.arange(table.truth.size)).all()


@pytest.mark.parametrize("band", [1, 300, 10**6])
def test_bands_of_rows_change_nothing(monkeypatch, crowded_field, band):
    moved = np.roll(crowded_field, (2, 3), (0, 1))
    monkeypatch.setattr("cellkit.metrics.intersections.BAND_PIXELS", band)
    assert pairs_of(intersections(crowded_field, moved)) == pairs(crowded_field, moved)


@given(drawn=st.data(), factor=st.sampled_from([1, 1000, 2**20, LARGEST_ID // 4]))
def test_ids_of_any_size_are_counted(small_labels, drawn, factor):
    """Large ids do not fit into one number with the length of a run, and are sorted in another way."""
    truth, prediction = drawn.draw(small_labels)
    small = pairs(truth, prediction)
    found = pairs_of(intersections(truth.astype(np.int64) * factor, prediction.astype(np.int64) * factor))
    assert found == {(t * factor, p * factor): pixels for (t, p), pixels in small.items()}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_any_integer_type(two_touching_cells, dtype):
    table = intersections(two_touching_cells.astype(dtype), two_touching_cells)
    assert pairs_of(table) == pairs(two_touching_cells, two_touching_cells)


def test_a_binary_mask_is_one_object(two_touching_cells):
    table = intersections(two_touching_cells > 0, two_touching_cells)
    assert table.truth_ids.tolist() == [1]
    assert table.predicted_ids.tolist() == [1, 2]


def test_the_largest_ids_are_kept_apart(two_touching_cells):
    huge = np.where(two_touching_cells == 2, LARGEST_ID, two_touching_cells).astype(np.uint32)
    table = intersections(huge, huge)
    assert table.truth_ids.tolist() == table.predicted_ids.tolist() == [1, LARGEST_ID]
    assert table.iou.tolist() == [1.0, 1.0]


def test_views_are_read_as_they_look(crowded_field):
    view = crowded_field.T[::-2, 3:]
    assert pairs_of(intersections(view, view)) == pairs(view.copy(), view.copy())


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1)])
def test_tiny_and_empty_images(shape):
    table = intersections(np.zeros(shape, np.int32), np.zeros(shape, np.int32))
    assert table.truth_ids.size == table.predicted_ids.size == table.iou.size == 0


def test_shapes_that_differ():
    with pytest.raises(InputError) as error:
        score(np.zeros((256, 256), int), np.zeros((128, 128), int), "field_7")
    assert str(error.value) == (
        "field_7: truth is 256 x 256 but the prediction is 128 x 128"
        " (both must be labels of the same pixels, height x width)"
    )


def test_shapes_of_the_same_size_that_differ():
    with pytest.raises(InputError, match="truth is 2 x 3 but the prediction is 3 x 2"):
        intersections(np.zeros((2, 3), int), np.zeros((3, 2), int))


@pytest.mark.parametrize(
    ("prediction", "text"),
    [
        (np.zeros((4, 4)), "prediction is an array of float64 with 2 axes, not a label image"),
        (np.zeros((4, 4, 3), np.uint8), "prediction is an array of uint8 with 3 axes, not a label image"),
        (np.full((4, 4), -1), "prediction holds the label -1 (labels are 0 (background) to 4294967295)"),
        (np.full((4, 4), -1, np.int8), "prediction holds the label -1 (labels are 0 (background) to 4294967295)"),
        (np.full((4, 4), -7, np.int32), "prediction holds the label -7 (labels are 0 (background) to 4294967295)"),
        (np.full((4, 4), 2**32), "prediction holds the label 4294967296 (labels are 0 (background) to 4294967295)"),
    ],
)
def test_no_label_image(prediction, text):
    with pytest.raises(InputError) as error:
        intersections(np.zeros((4, 4), np.int32), prediction, "field_7")
    assert str(error.value).startswith(f"field_7: {text}")
