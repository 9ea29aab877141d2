import errno
import io
import os
import subprocess
import sys
from dataclasses import replace

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile

from cellkit.errors import InputError, OutputError, UsageError
from cellkit.io import label_tiff
from cellkit.io.labels import LabelImage, LabelRows, read_history, read_label_images, read_labels, write_labels
from cellkit.provenance import Record

HISTORY = (
    Record(verb="predict", arguments={"tile": 256, "name": "größe"}, model="nuclei", input_digest="ab"),
    Record(verb="postprocess"),
)
KINDS = [".tif", ".tiff", ".ome.tif", ".png", ".h5", ".hdf5"]


def image(labels, **changes):
    scores = np.linspace(0, 1, min(int(labels.max()), 70_000), dtype=np.float32) ** 3
    item = LabelImage(key="a", source="a.tif", labels=labels, scores=scores, pixel_size=0.325, history=HISTORY)
    return replace(item, **changes)


@pytest.fixture
def many_cells():
    """Labels (280, 252): each of 70,000 cells is one pixel, the rest background."""
    labels = np.zeros(280 * 252, np.int32)
    labels[:70_000] = np.arange(1, 70_001)
    return labels.reshape(280, 252)


def rows_of(item, height):
    bands = (item.labels[start : start + height] for start in range(0, item.shape[0], height))
    return LabelRows(
        key=item.key,
        rows=bands,
        shape=item.shape,
        count=item.largest,
        scores=item.scores,
        pixel_size=item.pixel_size,
        history=item.history,
    )


def check_same(found, expected):
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.labels.dtype == np.int32
    assert found.scores.dtype == np.float32
    assert (found.pixel_size, found.history, found.key) == (expected.pixel_size, expected.history, expected.key)


@pytest.mark.parametrize("suffix", KINDS)
def test_what_is_written_is_read(tmp_path, crowded_field, suffix):
    path = tmp_path / f"a{suffix}"
    write_labels(path, image(crowded_field))
    check_same(read_labels(str(path)), image(crowded_field))
    check_same(read_labels("in/a" + suffix, path.read_bytes()), image(crowded_field))
    assert read_history(path) == HISTORY
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".tif", ".h5"])
def test_labels_above_65535_are_not_wrapped(tmp_path, many_cells, suffix):
    path = tmp_path / f"a{suffix}"
    write_labels(path, image(many_cells))
    check_same(read_labels(str(path)), image(many_cells))


def test_types_of_the_file(tmp_path, two_touching_cells, many_cells):
    for labels, dtype in ((two_touching_cells, np.uint16), (many_cells, np.uint32)):
        write_labels(tmp_path / "a.tif", image(labels))
        assert tifffile.imread(tmp_path / "a.tif").dtype == dtype
        write_labels(tmp_path / "a.h5", image(labels))
        with h5py.File(tmp_path / "a.h5") as file:
            assert file["labels"].dtype == dtype


def test_a_png_takes_no_label_above_65535(tmp_path, many_cells):
    with pytest.raises(UsageError) as caught:
        write_labels(tmp_path / "a.png", image(many_cells))
    assert str(caught.value) == "a: 70000 labels do not fit a PNG (at most 65535) (write .tif or .h5)"
    assert not any(tmp_path.iterdir())


def test_labels_that_no_file_can_hold_are_a_bug(tmp_path, two_touching_cells):
    with pytest.raises(ValueError, match="no label can be 8589934592"):
        write_labels(tmp_path / "a.tif", image(two_touching_cells.astype(np.int64) << 32, scores=None))
    with pytest.raises(ValueError, match="labels from -2 to 0 do not fit uint16"):
        write_labels(tmp_path / "a.tif", image(-two_touching_cells, scores=None))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (1, 300), (300, 1)])
def test_an_empty_field_of_any_size(tmp_path, suffix, shape):
    path = tmp_path / f"a{suffix}"
    write_labels(path, image(np.zeros(shape, np.int32), pixel_size=None))
    found = read_labels(str(path))
    assert found.labels.shape == shape
    assert not found.labels.any()
    assert (found.count, len(found.scores), found.pixel_size) == (0, 0, None)


def test_other_tools_read_the_tiff(tmp_path, crowded_field):
    path = tmp_path / "a.tif"
    write_labels(path, image(crowded_field))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        np.testing.assert_array_equal(page.asarray(), crowded_field)
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert page.tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
        numerator, denominator = page.tags["XResolution"].value
        assert 10_000 * denominator / numerator == pytest.approx(0.325)
    assert path.stat().st_size < crowded_field.size


def test_the_same_labels_give_the_same_bytes(crowded_field):
    one, other = io.BytesIO(), io.BytesIO()
    write_labels(one, image(crowded_field))
    write_labels(other, image(crowded_field))
    assert one.getvalue() == other.getvalue()


def test_a_stream_takes_uncompressed_labels(crowded_field):
    stream = io.BytesIO()
    write_labels(stream, image(crowded_field), compress=False)
    assert len(stream.getvalue()) > 2 * crowded_field.size
    check_same(read_labels("a.tif", stream.getvalue()), image(crowded_field))
    stream = io.BytesIO()
    write_labels(stream, image(crowded_field), suffix=".png")
    check_same(read_labels("a.png", stream.getvalue()), image(crowded_field))


def test_scores_that_are_no_numbers_come_back_as_such(tmp_path, two_touching_cells):
    write_labels(tmp_path / "a.tif", image(two_touching_cells, scores=np.array([np.nan, 0.1], np.float32)))
    np.testing.assert_array_equal(read_labels(str(tmp_path / "a.tif")).scores, np.array([np.nan, 0.1], np.float32))


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("height", [1, 50, 300])
def test_rows_are_the_whole_image(tmp_path, crowded_field, suffix, height):
    labels = np.tile(crowded_field, (2, 1))
    path, whole = tmp_path / f"a{suffix}", tmp_path / f"whole{suffix}"
    write_labels(path, rows_of(image(labels), height))
    write_labels(whole, image(labels))
    check_same(read_labels(str(path)), image(labels))
    assert path.read_bytes() == whole.read_bytes()


def test_rows_of_several_strips(tmp_path, many_cells, monkeypatch):
    monkeypatch.setattr(label_tiff, "STRIP_BYTES", 252 * 4 * 16)
    write_labels(tmp_path / "a.tif", rows_of(image(many_cells), 11))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert len(tiff.pages[0].dataoffsets) == 18
    check_same(read_labels(str(tmp_path / "a.tif")), image(many_cells))


def test_big_planes_are_bigtiff(tmp_path, crowded_field, monkeypatch):
    monkeypatch.setattr(label_tiff, "CLASSIC_LIMIT", 1000)
    write_labels(tmp_path / "a.tif", image(crowded_field))
    assert (tmp_path / "a.tif").read_bytes().startswith(b"II+\0")
    check_same(read_labels(str(tmp_path / "a.tif")), image(crowded_field))


def test_rows_that_are_not_the_image_are_a_bug(tmp_path):
    def write(bands, count=1):
        rows = LabelRows(key="a", rows=iter(bands), shape=(10, 8), count=count)
        write_labels(tmp_path / "a.tif", rows)

    with pytest.raises(ValueError, match="6 of 10 rows came"):
        write([np.zeros((6, 8), np.int32)])
    with pytest.raises(ValueError, match=r"a band \(6, 8\) from row 6 is no part of an image \(10, 8\)"):
        write([np.zeros((6, 8), np.int32)] * 2)
    with pytest.raises(ValueError, match=r"a band \(10, 7\) from row 0"):
        write([np.zeros((10, 7), np.int32)])
    with pytest.raises(ValueError, match="labels from 70000 to 70000 do not fit uint16"):
        write([np.full((10, 8), 70_000, np.int32)])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", KINDS)
def test_a_full_disk_leaves_nothing(tmp_path, crowded_field, monkeypatch, suffix):
    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match="no space is left on the device"):
        write_labels(tmp_path / f"a{suffix}", image(crowded_field))
    assert not any(tmp_path.iterdir())


def test_a_tiff_that_does_not_read_back_is_not_kept(tmp_path, crowded_field, monkeypatch):
    monkeypatch.setattr(
        label_tiff.imagecodecs, "deflate_encode", lambda data, level: imagecodecs.zlib_encode(data[:-2])
    )
    with pytest.raises(OutputError) as caught:
        write_labels(tmp_path / "a.tif", image(crowded_field))
    assert str(caught.value) == "a: the label image does not read back as it was written (check the disk)"
    assert not any(tmp_path.iterdir())


def test_an_unknown_kind_of_file(tmp_path, crowded_field):
    with pytest.raises(
        UsageError, match=r"a\.jpg: label images are not written as this kind of file \(\.tif, \.png or"
    ):
        write_labels(tmp_path / "a.jpg", image(crowded_field))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".tif", ".png", ".h5"])
@pytest.mark.parametrize("compress", [True, False])
def test_a_file_cut_anywhere_is_an_error(crowded_field, suffix, compress):
    stream = io.BytesIO()
    write_labels(stream, image(crowded_field), compress, suffix=suffix)
    data = stream.getvalue()
    lengths = {*range(0, len(data), max(1, len(data) // 60)), *range(len(data) - 12, len(data))}
    for length in sorted(lengths):
        with pytest.raises(InputError) as caught:
            read_labels(f"a{suffix}", data[:length])
        assert "\n" not in str(caught.value)


def test_a_dataset_of_a_file_that_is_no_hdf5(tmp_path, two_touching_cells):
    write_labels(tmp_path / "a.tif", image(two_touching_cells))
    with pytest.raises(InputError, match=r"is no HDF5 file, so it has no datasets \(name the file alone\)"):
        read_labels(str(tmp_path / "a.tif"), dataset="labels")


def test_many_label_images_in_one_file(tmp_path, two_touching_cells, cell_on_border):
    from cellkit.io.label_hdf5 import LabelWriter

    items = [image(cell_on_border, key="b.1 ü"), image(two_touching_cells, key="a")]
    path = tmp_path / "all.h5"
    with LabelWriter(path) as writer:
        for item in items:
            writer.write(item)
    for found, expected in zip(read_label_images(str(path)), items, strict=True):
        check_same(found, expected)
    np.testing.assert_array_equal(read_labels(f"{path}::/a/labels").labels, two_touching_cells)
    with pytest.raises(InputError, match=r"holds 2 label images \(name one: ::/b.1 ü/labels, ::/a/labels\)"):
        read_labels(str(path))


def test_history_of_what_is_not_ours(tmp_path, two_touching_cells):
    paths = [tmp_path / name for name in ("a.tif", "a.png", "a.h5", "a.txt")]
    tifffile.imwrite(paths[0], two_touching_cells.astype(np.uint16), description='{"cellkit": "no header"}')
    paths[1].write_bytes(imagecodecs.png_encode(two_touching_cells.astype(np.uint8)))
    with h5py.File(paths[2], "w") as file:
        file["labels"] = two_touching_cells
    paths[3].write_text("text")
    for path in paths:
        with pytest.raises(InputError, match=r"was not made by cellkit \(only outputs of cellkit have a history\)"):
            read_history(path)
    assert read_labels(str(paths[0])).history == ()


def test_labels_are_read_without_torch():
    code = "import sys, cellkit.io.sinks, cellkit.io.labels, cellkit.io.streams; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def sparse_field(crowded_field):
    """Labels (128, 128) in which nothing is known of the left half of the cells and of a stripe."""
    labels = crowded_field.copy()
    labels[:, :60][crowded_field[:, :60] > 0] = -1
    labels[100:104] = -1
    return labels


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".h5"])
@pytest.mark.parametrize(("factor", "dtype"), [(1, np.int16), (400, np.int32), (10_000_000, np.int32)])
def test_sparse_labels_come_back(tmp_path, sparse_field, suffix, factor, dtype):
    labels = np.where(sparse_field > 0, factor * sparse_field, sparse_field).astype(np.int32)
    path = tmp_path / f"a{suffix}"
    write_labels(path, image(labels, scores=None))
    found = read_labels(str(path), unknown=True)
    np.testing.assert_array_equal(found.labels, labels)
    assert (found.count, found.is_sparse) == (np.unique(labels[labels > 0]).size, True)
    stream = io.BytesIO()
    write_labels(stream, image(labels, scores=None), compress=False, suffix=suffix)
    np.testing.assert_array_equal(read_labels(f"a{suffix}", stream.getvalue(), unknown=True).labels, labels)
    if suffix == ".h5":
        with h5py.File(path) as file:
            assert file["labels"].dtype == dtype
    else:
        assert tifffile.imread(path).dtype == dtype


def test_sparse_labels_are_refused_where_they_were_not_asked_for(tmp_path, sparse_field):
    path = tmp_path / "a.tif"
    write_labels(path, image(sparse_field, scores=None))
    with pytest.raises(InputError) as caught:
        read_labels(str(path))
    assert str(caught.value) == (
        f"{path}: holds negative numbers (-1) (labels begin at 1, 0 is background; "
        "pixels of which nothing is known are for pretrain and finetune --method supported)"
    )


def test_a_png_takes_no_sparse_labels(tmp_path, sparse_field):
    with pytest.raises(UsageError) as caught:
        write_labels(tmp_path / "a.png", image(sparse_field, scores=None))
    assert str(caught.value) == "a: pixels of which nothing is known (-1) do not fit a PNG (write .tif or .h5)"
    assert not any(tmp_path.iterdir())


def test_only_sparse_labels_have_signed_types(tmp_path, crowded_field):
    labels = np.where(crowded_field == crowded_field.max(), 40_000, crowded_field).astype(np.int32)
    write_labels(tmp_path / "a.tif", image(labels, scores=None))
    assert tifffile.imread(tmp_path / "a.tif").dtype == np.uint16
    with pytest.raises(ValueError, match="labels from -2 to 40000 do not fit uint16"):
        write_labels(tmp_path / "b.tif", image(np.where(labels == 40_000, labels, -2), scores=None))
