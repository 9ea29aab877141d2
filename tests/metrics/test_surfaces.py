"""HD95 and ASD equal the literal formula over all pairs of surface points."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from cellkit.errors import InputError
from cellkit.metrics import score, surfaces
from cellkit.metrics.surfaces import surface_distances, surface_values


def literal_surface(labels):
    """Foreground pixels with a background pixel, or the outside, among their eight neighbours; one by one."""
    padded = np.pad(labels > 0, 1)
    return np.array([(y, x) for y, x in np.argwhere(labels) if not padded[y : y + 3, x : x + 3].all()])


def literal(truth, prediction):
    """(hd95, asd) from the matrix of all distances."""
    between = cdist(literal_surface(truth), literal_surface(prediction))
    distances = np.concatenate((between.min(0), between.min(1)))
    return np.percentile(distances, 95), distances.mean()


def measured(truth, prediction):
    values = score(truth, prediction).values
    return values["hd95"], values["asd"]


@given(drawn=st.data(), near=st.integers(1, 4))
def test_tiny_images_equal_the_literal_formula(small_labels, drawn, near):
    truth, prediction = drawn.draw(small_labels)
    if truth.any() and prediction.any():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(surfaces, "NEAR", near)
            assert measured(truth, prediction) == pytest.approx(literal(truth, prediction), rel=1e-12)


def test_real_images_equal_the_literal_formula(real_pairs):
    small = [pair for pair in real_pairs if 0 < np.count_nonzero(pair[0]) < 20_000]
    assert len(small) > 5
    for pair in small:
        assert measured(*pair) == pytest.approx(literal(*pair), rel=1e-12)


def test_few_points_at_once_change_nothing(monkeypatch, crowded_field):
    lost = np.where(crowded_field > 50, 0, crowded_field)
    whole = surface_distances(crowded_field, lost)
    monkeypatch.setattr(surfaces, "QUERIED_AT_ONCE", 7)
    assert (surface_distances(crowded_field, lost) == whole).all()
    assert whole.max() > surfaces.NEAR


def test_a_shifted_square():
    """Two single pixels, 3 rows and 4 columns apart."""
    truth, prediction = np.zeros((9, 9), np.int32), np.zeros((9, 9), np.int32)
    truth[2, 2], prediction[5, 6] = 1, 1
    assert surface_distances(truth, prediction).tolist() == [5.0, 5.0]
    values = score(truth, prediction, pixel_size=0.5).values
    assert (values["hd95"], values["asd"], values["hd95_um"], values["asd_um"]) == (5.0, 5.0, 2.5, 2.5)


def test_interior_points_are_no_surface(situation):
    truth, _ = situation("split_cell")  # 8 x 8 pixels
    assert surface_distances(truth, truth).tolist() == [0.0] * (2 * 28)


def test_touching_cells_have_one_surface(situation):
    """Of the foreground: how it is divided into cells does not matter."""
    assert measured(*situation("split_cell")) == measured(*situation("merged_pair")) == (0.0, 0.0)


def test_the_outside_of_the_image_is_background(situation):
    full = np.ones((16, 20), np.int32)
    assert surface_distances(full, full).size == 2 * (16 + 20 + 14 + 18)
    truth, prediction = np.zeros((1, 9), np.int32), np.zeros((1, 9), np.int32)
    truth[0, :3], prediction[0, :5] = 1, 1
    assert (
        measured(truth, prediction) == measured(np.pad(truth, 5), np.pad(prediction, 5)) == literal(truth, prediction)
    )


@pytest.mark.parametrize("name", ["empty_truth", "empty_prediction"])
def test_one_side_empty_is_undefined(situation, name):
    assert surface_distances(*situation(name)) is None
    values = score(*situation(name), pixel_size=2.0).values
    assert all(math.isnan(values[metric]) for metric in ("hd95", "asd", "hd95_um", "asd_um"))


def test_both_empty_is_zero(situation):
    values = score(*situation("both_empty"), pixel_size=2.0).values
    assert [values[metric] for metric in ("hd95", "asd", "hd95_um", "asd_um")] == [0.0] * 4


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_images_without_pixels(shape):
    empty = np.zeros(shape, np.int32)
    assert surface_values(surface_distances(empty, empty)) == {"hd95": 0.0, "asd": 0.0}


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint32, np.int64])
def test_any_integer_type_and_view(crowded_field, dtype):
    moved = np.roll(crowded_field, 2, 0)
    expected = measured(crowded_field, moved)
    assert measured(crowded_field.astype(dtype)[::-1].T, moved.astype(dtype)[::-1].T) == pytest.approx(expected)


def test_shapes_that_differ():
    with pytest.raises(InputError, match="field_7: truth is 2 x 3 but the prediction is 3 x 2"):
        surface_distances(np.zeros((2, 3), int), np.zeros((3, 2), int), "field_7")
