"""Sparse labels: draws, what they say, and pseudo labels corrected by them, against slow literal versions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from cellkit.data.sparse_labels import REACH, UNKNOWN, annotated, corrected, draw_kept, kept_only
from cellkit.errors import UsageError


def slow_annotated(labels, reach, pseudo=None):
    """Pixel by pixel, every distance measured."""
    result = labels.copy()
    cells = np.argwhere(labels > 0)
    unmarked = not (labels == -1).any()
    for y, x in np.argwhere(labels == 0):
        nearest = min((math.dist((y, x), place) for place in cells), default=math.inf)
        hidden = unmarked and pseudo is not None and pseudo[y, x] > 0
        if nearest > reach or hidden:
            result[y, x] = -1
    return result


def slow_corrected(pseudo, sparse, reach):
    """Cell by cell and pixel by pixel; labelled cells keep their numbers, pseudo cells get negative ones."""
    known = slow_annotated(sparse, reach, pseudo)
    result = np.zeros(pseudo.shape, np.int64)
    for label in range(1, pseudo.max() + 1):
        cell = pseudo == label
        meets = (cell & (sparse > 0)).any()
        for y, x in np.argwhere(cell):
            if known[y, x] != 0:
                result[y, x] = -1 if meets else -1 - label
    result[sparse > 0] = sparse[sparse > 0]
    return result


def same_cells(one, other):
    """Whether two label images differ in the numbers of their cells at most."""
    pairs = {(int(a), int(b)) for a, b in zip(one.ravel(), other.ravel(), strict=True)}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.fixture
def cells():
    """Labels of the cells of three images, 100 in all."""
    return {"b": range(1, 61), "a": [5, 900, 70_000], "c": range(1, 38), "none": []}


def pairs_of(kept):
    return {(key, int(label)) for key, ids in kept.items() for label in ids}


def test_draw_keeps_a_part_of_all_cells_together(cells):
    for fraction, count in [(0.01, 1), (0.05, 5), (0.5, 50), (1, 100), (1e-6, 1)]:
        kept = draw_kept(cells, fraction, 3)
        assert list(kept) == list(cells)
        assert len(pairs_of(kept)) == count
        assert pairs_of(kept) <= {(key, label) for key, ids in cells.items() for label in ids}
        assert all((np.diff(ids) > 0).all() for ids in kept.values())


def test_smaller_draws_are_parts_of_larger_ones(cells):
    draws = [pairs_of(draw_kept(cells, fraction, 7)) for fraction in (0.01, 0.05, 0.1, 0.33, 1)]
    assert all(small < large for small, large in itertools.pairwise(draws))


def test_draw_depends_on_the_seed_and_not_on_the_order(cells):
    turned = {key: list(ids)[::-1] for key, ids in reversed(cells.items())}
    assert pairs_of(draw_kept(cells, 0.2, 1)) == pairs_of(draw_kept(turned, 0.2, 1))
    draws = [frozenset(pairs_of(draw_kept(cells, 0.2, seed))) for seed in range(20)]
    assert len(set(draws)) == 20
    assert pairs_of(draw_kept({"a": [1, 2, 3, 4], "b": [1, 2]}, 0.5, 0)) == {("a", 1), ("a", 2), ("a", 4)}, "for ever"


def test_every_cell_has_the_same_chance():
    cells = {"one": range(1, 6), "another": range(1, 16)}
    counts = np.zeros(2)
    for seed in range(400):
        counts += [len(ids) for ids in draw_kept(cells, 0.2, seed).values()]
    assert counts.sum() == 1600
    assert abs(counts[0] - 400) < 4 * math.sqrt(400 * 0.75)


def test_draw_of_nothing():
    assert pairs_of(draw_kept({"a": [], "b": []}, 0.5, 0)) == set()


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, math.nan, math.inf])
def test_fractions_that_cannot_be_meant(cells, fraction):
    with pytest.raises(UsageError) as caught:
        draw_kept(cells, fraction, 0)
    problem = f"cannot be {fraction:g} (give a fraction of all cells above 0 and up to 1)"
    assert str(caught.value) == f"--keep-fraction: {problem}"


def test_of_cells_that_are_not_kept_nothing_is_known():
    labels = np.int32([[0, 1, 1, 7], [0, -1, 3, 7], [90_000, 0, 3, 3]])
    kept = kept_only(labels, np.array([7, 90_000, 5]))
    assert kept.tolist() == [[0, -1, -1, 7], [0, -1, -1, 7], [90_000, 0, -1, -1]]
    assert kept.dtype == np.int32
    assert kept_only(labels, np.array([], np.int64)).max() == 0
    np.testing.assert_array_equal(kept_only(labels, np.unique(labels)), labels)


def test_background_is_known_near_labelled_cells():
    labels = np.int32([[0, 0, 0, 4, 0, -1, 0, 0]])
    assert annotated(labels, 2).tolist() == [[-1, 0, 0, 4, 0, -1, -1, -1]]
    assert annotated(labels, 3).tolist() == [[0, 0, 0, 4, 0, -1, 0, -1]]
    corner = np.zeros((4, 4), np.int32)
    corner[0, 0] = 1
    assert annotated(corner, 1.5).tolist() == [[1, 0, -1, -1], [0, 0, -1, -1], [-1] * 4, [-1] * 4]
    far = np.zeros((1, 40), np.int32)
    far[0, 0] = 1
    assert annotated(far).tolist() == [[1] + [0] * 30 + [-1] * 9]
    assert REACH == 30


def test_no_reach_and_any_reach():
    labels = np.int32([[0, 3, -1, 0]])
    assert annotated(labels, 0).tolist() == [[-1, 3, -1, -1]]
    assert annotated(labels, math.inf).tolist() == [[0, 3, -1, 0]]
    for reach in (-1.0, math.nan):
        with pytest.raises(UsageError, match=r"reach: cannot be .* \(give a number of pixels from 0 on, or inf\)"):
            annotated(labels, reach)


def test_without_a_labelled_cell_nothing_is_known(empty_field):
    assert (annotated(empty_field) == UNKNOWN).all()
    assert (annotated(empty_field - 1) == UNKNOWN).all()
    assert not annotated(empty_field, math.inf).any()


def test_cells_that_nobody_outlined_are_not_background():
    outlined = np.int32([[0, 0, 5, 0, 0, 0]])
    pseudo = np.int32([[0, 1, 1, 0, 2, 0]])
    assert annotated(outlined, 9, pseudo).tolist() == [[0, -1, 5, 0, -1, 0]]
    marked = np.int32([[0, 0, 5, 0, 0, -1]])
    assert annotated(marked, 9, pseudo).tolist() == [[0, 0, 5, 0, 0, -1]], "what is not known is marked already"


def test_corrected_by_hand():
    pseudo = np.int32([[1, 1, 1, 0, 2, 2, 0, 3, 3, 3, 0, 4]])
    sparse = np.int32([[0, 9, 9, 9, 0, 0, 0, 0, 0, 0, -1, 0]])
    # 1 is dropped, 2 and a pixel of 3 lie on known background, 4 is too far to be touched
    assert corrected(pseudo, sparse, 4).tolist() == [[0, 1, 1, 1, 0, 0, 0, 0, 2, 2, 0, 3]]
    # without known background: what is left of 1 is not known, the others stay
    assert corrected(pseudo, sparse, 0).tolist() == [[-1, 1, 1, 1, 2, 2, 0, 3, 3, 3, 0, 4]]
    # nobody marked what was not outlined: pseudo cells are no background
    assert corrected(pseudo, np.maximum(sparse, 0), 4).tolist() == [[-1, 1, 1, 1, 2, 2, 0, 3, 3, 3, 0, 4]]


def test_two_cells_that_were_one_are_two():
    pseudo = np.ones((1, 7), np.int32)
    sparse = np.int32([[0, 4, 4, 4, 6, 6, -1]])
    assert corrected(pseudo, sparse).tolist() == [[0, 1, 1, 1, 2, 2, -1]]


def test_nothing_labelled_changes_nothing(crowded_field, empty_field):
    found = corrected(crowded_field, np.zeros_like(crowded_field))
    assert same_cells(found, crowded_field)
    assert found.max() == len(np.unique(crowded_field)) - 1
    assert not corrected(empty_field, empty_field).any()


def test_what_is_not_known_of_pseudo_labels_stays_so_unless_it_is_labelled():
    pseudo = np.int32([[-1, -1, -1, 0, 0, 0, 0, -1]])
    sparse = np.int32([[0, 2, 0, 0, 0, -1, 0, 0]])
    assert corrected(pseudo, sparse, 2).tolist() == [[0, 1, 0, 0, 0, 0, 0, -1]]


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("reach", [0, 2.5, 4, math.inf])
@pytest.mark.parametrize("seed", range(4))
def test_slow_literal_versions_agree(marked, reach, seed):
    random = np.random.default_rng(seed)
    truth, pseudo = (np.kron(random.integers(0, 5, (6, 7)), np.ones((3, 3), int)).astype(np.int32) for _ in range(2))
    truth[truth == 4], pseudo = 2**31 - 1, np.roll(pseudo, 1, seed % 2)
    truth[random.random(truth.shape) < 0.5] = 0
    sparse = kept_only(truth, random.choice([1, 2, 3, 2**31 - 1], 1 + seed % 2))
    if not marked:
        sparse = np.maximum(sparse, 0)
    np.testing.assert_array_equal(annotated(sparse, reach, pseudo), slow_annotated(sparse, reach, pseudo))
    np.testing.assert_array_equal(annotated(sparse, reach), slow_annotated(sparse, reach))
    found, expected = corrected(pseudo, sparse, reach), slow_corrected(pseudo, sparse, reach)
    assert same_cells(found, expected)
    np.testing.assert_array_equal(found == 0, expected == 0)
    np.testing.assert_array_equal(found == -1, expected == -1)
    assert found.dtype == np.int32


def test_fields_of_a_crop_keep_what_is_not_known(two_touching_cells):
    import torch

    from cellkit.data.examples import compact_fields
    from cellkit.data.warp import Affine, warp
    from cellkit.representations import REPRESENTATIONS

    sparse = kept_only(two_touching_cells, np.array([1]))
    turn = Affine(matrix=(0.6, -0.4, 0.4, 0.6), centre=(30.0, 38.0), crop=48)
    plain = torch.from_numpy((sparse == -1)[None].astype(np.float32))
    _, expected = warp(torch.zeros(1, 64, 80), plain, (), turn)
    assert 0 < expected.mean() < 1
    for name, channel in {"flow": 2, "mask": 0, "border": 0, "hover": 0, "embedding": 0, "star": 0}.items():
        representation = REPRESENTATIONS[name]
        fields = torch.from_numpy(compact_fields(representation.targets(sparse), representation.vectors))
        assert fields.dtype == torch.int8
        _, warped = warp(torch.zeros(1, 64, 80), fields, representation.vectors, turn)
        assert torch.equal(warped[channel] == -1, expected[0] == 1), name
