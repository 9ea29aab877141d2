"""Flows from labels: equal to a literal computation, independent of order, unit length everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from cellkit.ops.diffusion import flows_from_labels

ANY_LABELS = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3))


def literal_flow(mask: np.ndarray) -> np.ndarray:
    """One object (H, W), step by step in float64."""
    y, x = np.nonzero(mask)
    nearest = ((y - np.median(y)) ** 2 + (x - np.median(x)) ** 2).argmin()
    heat = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2))
    inside = np.pad(mask, 1)
    for _ in range(2 * int(np.ptp(y) + np.ptp(x))):
        heat[y[nearest] + 1, x[nearest] + 1] += 1
        heat = ndimage.convolve(heat, np.ones((3, 3)), mode="constant") / 9 * inside
    climb = np.log1p(heat)
    flow = np.stack([climb[2:, 1:-1] - climb[:-2, 1:-1], climb[1:-1, 2:] - climb[1:-1, :-2]]) * mask
    length = np.hypot(*flow)
    return flow / np.where(length > 0, length, 1)


def lengths(flows: np.ndarray) -> np.ndarray:
    return np.hypot(flows[0].astype(float), flows[1])


def assert_equal_directions(flows: np.ndarray, expected: np.ndarray) -> None:
    """Everywhere but at summits, where the direction is that of rounding errors."""
    off = np.abs(flows - expected).max(0) > 1e-3
    assert off.sum() <= 2


@pytest.mark.parametrize("situation", ["two_touching_cells", "cell_on_border", "crowded_field"])
def test_flows_are_those_of_a_literal_computation(situation, request):
    labels = request.getfixturevalue(situation)
    flows = flows_from_labels(labels)
    for value in np.unique(labels[labels > 0]):
        mask = labels == value
        assert_equal_directions(flows * mask, literal_flow(mask))


def test_crescent_flows_to_a_pixel_of_its_own():
    y, x = np.ogrid[:60, :60]
    outer, inner = (y - 30) ** 2 + (x - 30) ** 2 < 26**2, (y - 30) ** 2 + (x - 42) ** 2 < 22**2
    mask = outer & ~inner
    assert not mask[30, 26]  # the median lies outside
    assert_equal_directions(flows_from_labels(mask.astype(np.int32)), literal_flow(mask))


def test_empty_field_has_no_flow(empty_field):
    flows = flows_from_labels(empty_field)
    assert flows.shape == (2, *empty_field.shape)
    assert flows.dtype == np.float32
    assert not flows.any()


def test_image_without_pixels():
    assert flows_from_labels(np.zeros((0, 7), np.int32)).shape == (2, 0, 7)


@given(ANY_LABELS)
def test_numbers_of_objects_do_not_matter(labels):
    numbers = np.array([0, 2**31 - 1, 4, 900], np.int32)
    assert np.array_equal(flows_from_labels(numbers[labels]), flows_from_labels(labels))


@given(ANY_LABELS)
def test_lengths_are_one_or_zero_and_zero_outside(labels):
    length = lengths(flows_from_labels(labels))
    assert np.all((np.abs(length - 1) < 1e-5) | (length == 0))
    assert not length[labels == 0].any()


def test_objects_do_not_influence_each_other(crowded_field):
    flows = flows_from_labels(crowded_field)
    few = np.where(np.isin(crowded_field, np.unique(crowded_field)[1::3]), crowded_field, 0)
    assert np.array_equal(flows_from_labels(few), flows * (few > 0))


def test_place_in_the_image_does_not_matter(two_touching_cells):
    moved = np.pad(two_touching_cells, ((5, 40), (31, 2)))
    assert np.array_equal(flows_from_labels(moved)[:, 5:69, 31:111], flows_from_labels(two_touching_cells))


def test_one_pixel_has_no_flow():
    labels = np.zeros((5, 5), np.int32)
    labels[2, 3] = 1
    assert not flows_from_labels(labels).any()


@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1), (3, 1201), (10, 2500)])
def test_long_thin_objects_flow_to_their_middle_from_end_to_end(shape):
    """Heat dies out within some hundred pixels of a thin object; the flow must not."""
    flows = flows_from_labels(np.ones(shape, np.int32))
    along, across = (1, 0) if shape[1] > shape[0] else (0, 1)
    flow = flows[along].mean(axis=across)
    middle = len(flow) // 2
    assert (flow[: middle - 2] > 0.3).all()
    assert (flow[middle + 3 :] < -0.3).all()
    assert (lengths(flows) == 0).sum() <= 1


def test_spiral_flows_inwards_along_its_arm():
    """The far end is much farther along the arm than heat comes in its steps."""
    angle = np.linspace(0, 12 * np.pi, 20000)
    labels = np.zeros((130, 130), np.int32)
    labels[(64 + 1.6 * angle * np.sin(angle)).astype(int), (64 + 1.6 * angle * np.cos(angle)).astype(int)] = 1
    length = lengths(flows_from_labels(labels))
    assert (length[labels > 0] < 0.99).sum() <= 3


def test_each_piece_of_an_object_flows():
    labels = np.zeros((40, 90), np.int32)
    labels[5:35, 5:35] = 4
    labels[5:35, 50:84] = 4
    labels[10:20, 36:48] = 9
    flows = flows_from_labels(labels)
    assert (lengths(flows)[labels > 0] > 0.99).sum() >= (labels > 0).sum() - 3
    alone = np.where(np.arange(90) < 36, labels, 0)
    assert np.array_equal(flows_from_labels(alone)[:, :, :36], flows[:, :, :36])


def test_labels_of_any_integer_type(crowded_field):
    expected = flows_from_labels(crowded_field)
    for kind in (np.uint8, np.uint16, np.int64, np.uint32):
        assert np.array_equal(flows_from_labels(crowded_field.astype(kind)), expected)
