"""Run lengths: the same bytes as pycocotools writes, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_masks

from cellkit.ops import run_lengths
from cellkit.ops.run_lengths import (
    MaskRuns,
    counts_of,
    decode,
    encode_labels,
    encode_runs,
    runs_of_labels,
    runs_of_masks,
)

ANY_LABELS = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3))


def encoded(mask):
    return coco_masks.encode(np.asfortranarray(mask, np.uint8))


def literal(labels):
    ids = np.unique(labels[labels > 0])
    return ids.tolist(), [encoded(labels == i) for i in ids]


def fields(runs):
    return runs.owners.tolist(), runs.starts.tolist(), runs.lengths.tolist()


@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (200, 300)])
def test_decoding_is_the_inverse_of_pycocotools(density, shape):
    mask = np.random.default_rng(int(100 * density)).random(shape) < density
    np.testing.assert_array_equal(decode(encoded(mask)), mask)
    assert counts_of(encoded(mask)).sum() == mask.size


def far_apart():
    mask = np.zeros((3000, 2000), bool)
    mask[:, 700:1500] = True
    mask[5, 3] = mask[2999, 1999] = True
    return mask


def test_long_runs_far_apart():
    np.testing.assert_array_equal(decode(encoded(far_apart())), far_apart())


@given(ANY_LABELS)
def test_labels_become_the_bytes_of_pycocotools(labels):
    ids, masks = encode_labels(labels)
    assert (ids.tolist(), masks) == literal(labels)


@pytest.mark.parametrize("layout", ["rows", "columns", "window", "backwards"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint32, np.int64, bool])
def test_any_integers_in_any_layout(crowded_field, dtype, layout):
    labels = crowded_field.astype(dtype)
    labels = {
        "rows": labels,
        "columns": np.asfortranarray(labels),
        "window": labels[3:77, 5:100],
        "backwards": labels[::-1, ::-1],
    }[layout]
    ids, masks = encode_labels(labels)
    assert (ids.tolist(), masks) == literal(labels)


def test_numbers_of_many_characters():
    ids, masks = encode_labels(far_apart().astype(np.uint16) * 40_000)
    assert ids.tolist() == [40_000]
    assert masks == [encoded(far_apart())]


def test_ids_far_apart_and_large():
    labels = np.zeros((9, 11), np.uint32)
    labels[1:4, 2:5], labels[3:8, 6:9] = 4_000_000_000, 7
    ids, masks = encode_labels(labels)
    assert (ids.tolist(), masks) == literal(labels)


@pytest.mark.parametrize("columns", [1, 3, 1000])
def test_bands_of_columns_change_nothing(monkeypatch, crowded_field, columns):
    crowded_field[:, 40:60] = 500  # its run goes on over all the borders of bands
    monkeypatch.setattr(run_lengths, "BAND_COLUMNS", columns)
    ids, masks = encode_labels(crowded_field)
    assert (ids.tolist(), masks) == literal(crowded_field)


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0), (4, 6)])
def test_no_objects(shape):
    ids, runs = runs_of_labels(np.zeros(shape, np.int32))
    assert ids.size == runs.owners.size == runs.starts.size == runs.lengths.size == 0
    assert encode_labels(np.zeros(shape, np.int32))[1] == []


def test_a_run_goes_on_in_the_next_column():
    labels = np.array([[0, 2, 2], [1, 2, 0], [1, 2, 1]])
    ids, runs = runs_of_labels(labels)
    assert ids.tolist() == [1, 2]
    assert fields(runs) == ([0, 1, 0], [1, 3, 8], [2, 4, 1])


@given(st.lists(arrays(bool, (6, 7)), max_size=5))
def test_runs_of_masks_that_overlap(masks):
    runs = runs_of_masks([encoded(mask) for mask in masks])
    assert (runs.lengths > 0).all()
    painted = np.zeros((len(masks), 42), int)
    for owner, start, length in zip(*fields(runs), strict=True):
        painted[owner, start : start + length] += 1
    assert (painted.reshape(-1, 7, 6).transpose(0, 2, 1) == np.reshape(masks, (-1, 6, 7))).all()
    assert encode_runs(runs, len(masks), (6, 7)) == [encoded(mask) for mask in masks]


def test_runs_may_come_in_any_order():
    runs = MaskRuns(owners=np.array([1, 0, 1]), starts=np.array([9, 2, 0]), lengths=np.array([3, 4, 1]))
    one, other = np.zeros((2, 12), bool)
    one[2:6] = other[9:12] = other[0] = True
    assert encode_runs(runs, 2, (3, 4)) == [encoded(flat.reshape(4, 3).T) for flat in (one, other)]


@pytest.mark.parametrize("read", [counts_of, lambda mask: runs_of_masks([encoded(np.eye(40)), mask, mask])])
def test_a_text_that_ends_in_the_middle_of_a_number(read):
    mask = {"size": [40, 40], "counts": b"0o"}
    with pytest.raises(ValueError, match="run lengths end in the middle of a number"):
        read(mask)


def test_runs_without_pixels_are_left_out():
    mask = coco_masks.frPyObjects({"size": [3, 4], "counts": [3, 0, 2, 4, 0, 1, 2]}, 3, 4)
    assert fields(runs_of_masks([mask, mask])) == ([0, 0, 1, 1], [5, 9, 5, 9], [4, 1, 4, 1])


@pytest.mark.parametrize("shape", [(0, 4), (2, 3)])
def test_an_object_without_pixels(shape):
    nothing = np.zeros(0, np.int64)
    masks = encode_runs(MaskRuns(owners=nothing, starts=nothing, lengths=nothing), 2, shape)
    assert masks == [{"size": list(shape), "counts": encoded(np.zeros((2, 3)))["counts"] if shape[0] else b"0"}] * 2


def test_a_text_without_numbers_is_an_empty_mask():
    empty = {"size": [40, 40], "counts": b""}
    runs = runs_of_masks([empty, encoded(np.ones((40, 40))), empty])
    assert fields(runs) == ([1], [0], [1600])
