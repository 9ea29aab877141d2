"""cellkit convert --keep-fraction: sparse labels from full ones."""

from __future__ import annotations

import io
import json

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from cellkit.data.layouts import find_truth
from cellkit.data.sparse_labels import draw_kept
from cellkit.io.histories import read_history
from cellkit.io.labels import LabelImage, read_labels, write_labels
from cellkit.io.streams import read_stream


@pytest.fixture
def full(tmp_path, crowded_field, two_touching_cells, empty_field):
    """Labels by key: 36 cells, 2 cells and none, in a folder of files."""
    found = {"crowded": crowded_field, "empty": empty_field, "two": two_touching_cells}
    (tmp_path / "labels").mkdir()
    for key, labels in found.items():
        write_labels(tmp_path / "labels" / f"{key}.tif", LabelImage(key=key, labels=labels, pixel_size=0.5))
    return found


def sparse_of(full, fraction, seed):
    """What is expected, cell by cell."""
    ids = {key: np.unique(labels[labels > 0]).tolist() for key, labels in full.items()}
    expected = {}
    for key, kept in draw_kept(ids, fraction, seed).items():
        expected[key] = full[key].copy()
        for label in set(ids[key]) - set(kept.tolist()):
            expected[key][full[key] == label] = -1
    return expected


@pytest.mark.parametrize(("fraction", "kept"), [(0.01, 1), (0.5, 19), (1, 38)])
def test_a_part_of_all_cells_is_kept(cellkit, full, tmp_path, fraction, kept):
    done = cellkit("convert", tmp_path / "labels", "-o", tmp_path / "out", "--keep-fraction", fraction, "--seed", 5)
    assert (done.code, done.out) == (0, b"")
    assert done.err == f"cellkit convert: {kept} of 38 cells are kept, by seed 5\n"
    expected, count = sparse_of(full, fraction, 5), 0
    for key, labels in expected.items():
        found = read_labels(str(tmp_path / "out" / f"{key}.tif"), unknown=True)
        np.testing.assert_array_equal(found.labels, labels)
        assert found.pixel_size == 0.5
        count += found.count
    assert count == kept


def test_one_hdf5_file_holds_the_same(cellkit, full, tmp_path):
    done = cellkit("convert", tmp_path / "labels", "-o", tmp_path / "s.h5", "--keep-fraction", 0.3, "-q")
    assert (done.code, done.err) == (0, "")
    expected = sparse_of(full, 0.3, 0)
    for key, labels in expected.items():
        found = read_labels(f"{tmp_path / 's.h5'}::/{key}/labels", unknown=True).labels
        np.testing.assert_array_equal(found, labels)
    assert list(find_truth(str(tmp_path / "s.h5"))) == list(expected)


def test_a_stream_of_sparse_labels_goes_out(cellkit, full, tmp_path):
    done = cellkit("convert", tmp_path / "labels", "-o", "-", "--keep-fraction", 0.3)
    assert done.code == 0
    members = dict(read_stream(io.BytesIO(done.out)))
    for key, labels in sparse_of(full, 0.3, 0).items():
        np.testing.assert_array_equal(read_labels("a.tif", members[f"{key}.tif"], unknown=True).labels, labels)


def test_history_tells_the_draw(cellkit, full, tmp_path):
    command = ("convert", tmp_path / "labels", "-o", tmp_path / "out")
    assert cellkit(*command, "--keep-fraction", 0.5, "--seed", 2).code == 0
    kept = {key: np.unique(labels[labels > 0]).size for key, labels in sparse_of(full, 0.5, 2).items()}
    arguments = read_history(tmp_path / "out" / "crowded.tif")[-1].arguments
    digest = arguments.pop("drawn")
    assert arguments == {"to": "tif", "keep_fraction": 0.5, "seed": 2, "kept": f"{kept['crowded']} of 36"}
    assert len(digest) == 32
    assert cellkit(*command, "--keep-fraction", 0.5, "--seed", 2).code == 0, "up to date"
    for other in (("--keep-fraction", 0.5, "--seed", 3), ("--keep-fraction", 0.25, "--seed", 2), ()):
        assert cellkit(*command, *other).code == 2


def test_another_collection_is_another_draw(cellkit, full, tmp_path):
    """Of an image that is the same with as many kept cells, other cells may have been drawn."""
    for name, more in (("labels", 0), ("more", 300)):
        (tmp_path / name).mkdir(exist_ok=True)
        write_labels(tmp_path / name / "crowded.tif", LabelImage(key="crowded", labels=full["crowded"]))
        if more:
            many = np.arange(more, dtype=np.int32).reshape(10, -1)
            write_labels(tmp_path / name / "many.tif", LabelImage(key="many", labels=many))
    assert cellkit("convert", tmp_path / "labels", "-o", tmp_path / "out", "--keep-fraction", 0.2).code == 0
    done = cellkit("convert", tmp_path / "more", "-o", tmp_path / "out", "--keep-fraction", 0.2)
    assert done.code == 2
    assert "--on-exists overwrite" in done.err


def test_labels_that_are_sparse_become_sparser_and_change_their_format(cellkit, full, tmp_path):
    assert cellkit("convert", tmp_path / "labels", "-o", tmp_path / "one", "--keep-fraction", 0.6).code == 0
    assert cellkit("convert", tmp_path / "one", "-o", tmp_path / "two", "--keep-fraction", 0.2).code == 0
    assert cellkit("convert", tmp_path / "one", "-o", tmp_path / "one.h5").code == 0
    first = sparse_of(full, 0.6, 0)
    for key, labels in first.items():
        found = read_labels(f"{tmp_path / 'one.h5'}::/{key}/labels", unknown=True).labels
        np.testing.assert_array_equal(found, labels)
    for key, labels in sparse_of(first, 0.2, 0).items():
        found = read_labels(str(tmp_path / "two" / f"{key}.tif"), unknown=True).labels
        np.testing.assert_array_equal(found, labels)
        assert (found == -1).sum() >= (first[key] == -1).sum()


@pytest.mark.parametrize(
    ("to", "text"),
    [
        ("png", "pixels of which nothing is known (-1) do not fit a PNG (write .tif or .h5)"),
        ("seg", "holds negative numbers (-1) (labels begin at 1, 0 is background; pixels of which nothing is known"),
        ("coco", "holds negative numbers (-1) (labels begin at 1, 0 is background; pixels of which nothing is known"),
    ],
)
def test_formats_that_cannot_hold_sparse_labels(cellkit, tmp_path, to, text):
    tifffile.imwrite(tmp_path / "a.tif", np.int16([[0, -1, 3]]))
    done = cellkit("convert", tmp_path / "a.tif", "-o", tmp_path / "out", "--to", to)
    assert done.code in (2, 5)
    assert done.err.count("\n") == 1
    assert text in done.err


def test_overlapping_cells_are_drawn_as_they_are_seen(cellkit, tmp_path):
    (tmp_path / "worms").mkdir()
    (tmp_path / "images").mkdir()
    masks = np.zeros((2, 20, 30), np.uint8)
    masks[0, 5:10, 2:28], masks[1, 2:18, 12:16] = 255, 255
    iio.imwrite(tmp_path / "images" / "a.png", masks[0])
    for number, mask in enumerate(masks, 1):
        iio.imwrite(tmp_path / "worms" / f"a_0{number}.png", mask)
    done = cellkit("convert", tmp_path, "-o", tmp_path / "out", "--keep-fraction", 0.5)
    assert done.code == 0
    assert "1 of 2 cells are kept" in done.err
    labels = read_labels(str(tmp_path / "out" / "a.tif"), unknown=True).labels
    np.testing.assert_array_equal(labels == 0, ~masks.any(0))
    assert len(np.unique(labels)) == 3


def test_a_file_that_cannot_be_read_costs_itself_alone(cellkit, full, tmp_path):
    (tmp_path / "labels" / "broken.tif").write_bytes(b"II*\0broken")
    done = cellkit("convert", tmp_path / "labels", "-o", tmp_path / "out", "--keep-fraction", 0.5, "--json")
    assert done.code == 3
    assert "19 of 38 cells are kept" in done.err
    lines = {line["key"]: line for line in map(json.loads, done.text.splitlines())}
    assert lines["broken"]["status"] == "failed"
    assert sum(line.get("cells", 0) for line in lines.values()) == 19


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--keep-fraction", "0"), "cannot be 0 (give a fraction of all cells above 0 and up to 1)"),
        (("--keep-fraction", "1.5"), "cannot be 1.5 (give a fraction of all cells above 0 and up to 1)"),
        (("--keep-fraction", "nan"), "cannot be nan (give a fraction of all cells above 0 and up to 1)"),
        (
            ("--keep-fraction", "0.1", "--to", "png"),
            "'png' has no value for pixels of which nothing is known (give --to tif or --to h5)",
        ),
        (
            ("--keep-fraction", "0.1", "--to", "coco"),
            "'coco' has no value for pixels of which nothing is known (give --to tif or --to h5)",
        ),
    ],
)
def test_parts_that_cannot_be_meant(cellkit, full, tmp_path, arguments, text):
    done = cellkit("convert", tmp_path / "labels", "-o", tmp_path / "out", *arguments)
    assert (done.code, done.err) == (2, f"cellkit convert: error: --keep-fraction: {text}\n")
    assert not (tmp_path / "out").exists()


def test_a_stream_is_read_only_once(cellkit, tmp_path):
    done = cellkit("convert", "-", "-o", tmp_path / "out", "--keep-fraction", 0.1)
    problem = "a stream is read once, and all cells are counted before some are drawn"
    repair = "unpack the stream and name the folder"
    assert (done.code, done.err) == (2, f"cellkit convert: error: --keep-fraction: {problem} ({repair})\n")
    assert not (tmp_path / "out").exists()


def test_there_is_no_cell_to_keep(cellkit, tmp_path, empty_field):
    write_labels(tmp_path / "a.tif", LabelImage(key="a", labels=empty_field))
    done = cellkit("convert", tmp_path / "a.tif", "-o", tmp_path / "out", "--keep-fraction", 0.1)
    problem = "there is no labelled cell to keep (give labels that hold cells)"
    assert (done.code, done.err) == (4, f"cellkit convert: error: --keep-fraction: {problem}\n")
    assert not (tmp_path / "out").exists()


def test_the_only_file_cannot_be_read(cellkit, tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0broken")
    done = cellkit("convert", tmp_path / "a.tif", "-o", tmp_path / "out", "--keep-fraction", 0.1)
    assert done.code == 5
    assert done.err.startswith(f"cellkit convert: error: {tmp_path / 'a.tif'}: ")
    assert done.err.count("\n") == 1


def test_without_a_part_files_are_what_they_were(cellkit, full, tmp_path):
    assert cellkit("convert", tmp_path / "labels", "-o", tmp_path / "out", "--seed", 3).code == 0
    assert read_history(tmp_path / "out" / "two.tif")[-1].arguments == {"to": "tif"}
    assert tifffile.imread(tmp_path / "out" / "two.tif").dtype == np.uint16


def test_real_labels_keep_one_cell_in_a_hundred(cellkit, data, tmp_path):
    folder = tmp_path / "labels"
    folder.mkdir()
    for path in sorted((data / "dsb2018" / "labels").glob("*.png"))[::12]:
        (folder / path.name).symlink_to(path)
    total = sum(len(np.unique(iio.imread(path))) - 1 for path in folder.iterdir())
    assert cellkit("convert", folder, "-o", tmp_path / "out", "--keep-fraction", 0.01, "-q").code == 0
    kept = [read_labels(str(path), unknown=True).count for path in (tmp_path / "out").iterdir()]
    assert (sum(kept), len(kept)) == (round(total / 100), 51)
