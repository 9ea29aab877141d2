"""Images of supported supervision: labels found by name, halves, and what labels of two kinds say together."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from cellkit.data.sparse_labels import annotated, corrected
from cellkit.data.supported import halves, match_labels
from cellkit.errors import InputError, NoInputError
from cellkit.io.sources import find_sources

REACH = 6.0


def row(*cells: tuple[int, int], width: int = 60) -> np.ndarray:
    """Labels (20, width): squares of side 8, from (first column, label) pairs."""
    labels = np.zeros((20, width), np.int16)
    for column, label in cells:
        labels[6:14, column : column + 8] = label
    return labels


SPARSE = {"a": row((4, 1), (30, -1)), "b": row((4, -1)), "c": row((20, 3))}
PSEUDO = {"a": row((6, 1), (30, 2)), "b": row((4, 1), (30, 2)), "d": row((4, 1))}


@pytest.fixture
def root(tmp_path):
    """images a, b, c, d; sparse labels of a, b (none of its cells), c; pseudo labels of a, b, d."""
    for kind, labels in (("sparse", SPARSE), ("pseudo", PSEUDO)):
        (tmp_path / kind).mkdir()
        for key, values in labels.items():
            tifffile.imwrite(tmp_path / kind / f"{key}.tif", values if kind == "sparse" else values.astype(np.uint16))
    (tmp_path / "images").mkdir()
    for key in "abcd":
        iio.imwrite(tmp_path / "images" / f"{key}.png", np.full((20, 60), 10, np.uint8))
    return tmp_path


@pytest.fixture
def found(root):
    sources = find_sources([str(root / "images")])
    sparse, pseudo = (match_labels(str(root / kind), sources) for kind in ("sparse", "pseudo"))
    return halves(sources, REACH, sparse=sparse.labels, pseudo=pseudo.labels)


def labels_of(pairs, key):
    (pair,) = (pair for pair in pairs if pair.key == key)
    return pair.labels.read((20, 60)).labels


def test_images_go_into_the_halves_that_they_have_labels_for(found):
    assert [pair.key for pair in found.sparse] == ["a", "c"]  # b shows no labelled cell
    assert [pair.key for pair in found.pseudo] == ["a", "b", "d"]
    assert found.sparse[0].labels.name.endswith("sparse/a.tif")
    assert found.pseudo[0].labels.name.endswith("pseudo/a.tif")


def test_labels_are_annotated_and_corrected(found):
    sparse = labels_of(found.sparse, "a")
    assert np.array_equal(sparse, annotated(SPARSE["a"].astype(np.int32), REACH))
    assert (sparse[10, 6], sparse[10, 13], sparse[10, 33], sparse[10, 55]) == (1, 0, -1, -1)
    pseudo = labels_of(found.pseudo, "a")
    assert np.array_equal(pseudo, corrected(PSEUDO["a"], SPARSE["a"].astype(np.int32), REACH))
    assert (pseudo[10, 4], pseudo[10, 13], pseudo[10, 33], pseudo[10, 55]) == (1, 0, 2, 0)
    assert np.array_equal(labels_of(found.pseudo, "d"), PSEUDO["d"])
    assert np.array_equal(labels_of(found.pseudo, "b"), PSEUDO["b"])  # nothing is known that could correct it


def test_where_nothing_is_marked_unknown_pseudo_cells_are_no_background(root):
    """Somebody outlined one cell and left the one beside it alone."""
    tifffile.imwrite(root / "sparse" / "a.tif", row((4, 1)).astype(np.uint16))
    tifffile.imwrite(root / "pseudo" / "a.tif", row((4, 1), (15, 2)).astype(np.uint16))
    sources = find_sources([str(root / "images")])
    sparse, pseudo = (match_labels(str(root / kind), sources).labels for kind in ("sparse", "pseudo"))
    alone = halves(sources, REACH, sparse=sparse)
    assert labels_of(alone.sparse, "a")[10, 16] == 0
    assert labels_of(halves(sources, REACH, sparse=sparse, pseudo=pseudo).sparse, "a")[10, 16] == -1


def test_diameter_is_that_of_labelled_cells_else_of_pseudo_cells(root, found):
    side = 2 * np.sqrt(64 / np.pi)  # of a disc of the area of the square
    assert found.diameter == pytest.approx(side)
    sources = find_sources([str(root / "images")])
    tifffile.imwrite(root / "pseudo" / "b.tif", np.pad(np.ones((10, 10), np.uint16), ((5, 5), (5, 45))))
    pseudo = match_labels(str(root / "pseudo"), sources).labels
    large = 2 * np.sqrt(100 / np.pi)
    assert halves(sources[1:2], REACH, pseudo=pseudo).diameter == pytest.approx(large)
    assert halves(sources[2:3], REACH, pseudo=pseudo).diameter is None


def test_digest_follows_labels_of_the_images_that_have_some(root, found):
    assert [digest.split()[0] for digest in found.digests] == ["a", "b", "c", "d"]
    sources = find_sources([str(root / "images")])
    changed = row((4, 1), (30, -1))
    changed[6, 4] = 0
    tifffile.imwrite(root / "sparse" / "a.tif", changed)
    labels = {kind: match_labels(str(root / kind), sources).labels for kind in ("sparse", "pseudo")}
    again = halves(sources, REACH, **labels).digests
    assert [one == other for one, other in zip(found.digests, again, strict=True)] == [False, True, True, True]


def test_labels_that_fit_no_image_are_counted(root):
    tifffile.imwrite(root / "sparse" / "other.tif", SPARSE["a"])
    sources = find_sources([str(root / "images")])
    matched = match_labels(str(root / "sparse"), sources)
    assert (set(matched.labels), matched.missed) == ({"a", "b", "c"}, 1)
    with pytest.raises(NoInputError, match="it does not exist"):
        match_labels(str(root / "nowhere"), sources)


def test_marks_of_images_and_labels_are_no_part_of_the_name(tmp_path):
    for folder, name in (("images", "x_image.png"), ("labels", "x_masks.png")):
        (tmp_path / folder).mkdir()
        iio.imwrite(tmp_path / folder / name, np.ones((9, 9), np.uint8))
    sources = find_sources([str(tmp_path / "images")])
    assert set(match_labels(str(tmp_path / "labels"), sources).labels) == {"x_image"}


def test_results_of_a_sequence_belong_to_its_frames(tmp_path):
    for folder, name in (("01", "t000.tif"), ("01_RES", "mask000.tif")):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / name, np.ones((9, 9), np.uint16))
    sources = find_sources([str(tmp_path / "01")])
    matched = match_labels(str(tmp_path / "01_RES"), sources)
    assert (set(matched.labels), matched.missed) == ({"t000"}, 0)


def test_labels_in_one_hdf5_file(root, tmp_path):
    import h5py

    with h5py.File(tmp_path / "all.h5", "w") as file:
        for key, labels in SPARSE.items():
            file[f"{key}/labels"] = labels
    sources = find_sources([str(root / "images")])
    matched = match_labels(str(tmp_path / "all.h5"), sources)
    assert set(matched.labels) == {"a", "b", "c"}
    assert [pair.key for pair in halves(sources, REACH, sparse=matched.labels).sparse] == ["a", "c"]


def test_labels_of_another_shape(root):
    tifffile.imwrite(root / "pseudo" / "a.tif", np.ones((9, 9), np.uint16))
    sources = find_sources([str(root / "images")])
    labels = {kind: match_labels(str(root / kind), sources).labels for kind in ("sparse", "pseudo")}
    with pytest.raises(InputError, match="the labels have 9 x 9 pixels, the image has 20 x 60"):
        halves(sources, REACH, **labels).sparse[0].labels.read((20, 60))
