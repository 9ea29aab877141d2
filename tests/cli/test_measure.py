"""cellkit measure: tables and crops of labels and images, in every kind of place."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tarfile

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from cellkit.io import tiff
from cellkit.io.images import LazyPixels, read_image
from cellkit.io.label_hdf5 import LabelWriter
from cellkit.io.labels import LabelImage, write_labels
from cellkit.io.sources import find_sources

NAMES = ("2cfa61bef6542dd3", "2dd3356f2dcf470a", "356d9903d16074f1", "56d0da5b663ddd49")
LENGTHS = ("box_y0", "box_x0", "box_y1", "box_x1")


@pytest.fixture
def images(tmp_path, two_touching_cells, cell_on_border):
    """Two images of two channels; in the first each pixel is another."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, shape in (("a", two_touching_cells.shape), ("b", cell_on_border.shape)):
        pixels = np.arange(2 * shape[0] * shape[1], dtype=np.uint16).reshape(2, *shape)
        tifffile.imwrite(folder / f"{name}.tif", pixels, metadata={"axes": "CYX"})
    return folder


@pytest.fixture
def labels(tmp_path, two_touching_cells, cell_on_border):
    """Their labels, with gaps, scores and a pixel size."""
    folder = tmp_path / "labels"
    folder.mkdir()
    scores = np.linspace(0.1, 0.9, 9).astype(np.float32)
    for name, cells in (("a", two_touching_cells), ("b", cell_on_border)):
        item = LabelImage(key=name, source=name, labels=cells * 4 + (cells > 0), scores=scores, pixel_size=0.5)
        write_labels(folder / f"{name}.tif", item)
    return folder


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def tar_of(folder):
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, arcname=path.name)
    return memory.getvalue()


def test_one_file_with_its_image(cellkit, tmp_path, images, labels, two_touching_cells):
    done = cellkit("measure", labels / "a.tif", "--image", images / "a.tif", "-o", tmp_path / "cells.csv")
    assert (done.code, done.text, done.err) == (0, "", "")
    found = rows((tmp_path / "cells.csv").read_text())
    pixels = iio.imread(images / "a.tif")
    assert [(row["image"], row["label"], row["score"]) for row in found] == [("a", "5", "0.5"), ("a", "9", "0.9")]
    for row, label in zip(found, (1, 2), strict=True):
        inside = two_touching_cells == label
        assert int(row["area"]) == inside.sum()
        assert float(row["area_um2"]) == inside.sum() / 4
        for channel in (0, 1):
            assert float(row[f"intensity_mean_{channel}"]) == pytest.approx(pixels[channel][inside].mean())
            assert float(row[f"intensity_max_{channel}"]) == pixels[channel][inside].max()


def test_without_an_image_shapes_alone(cellkit, labels):
    done = cellkit("measure", labels, "-o", "-")
    assert (done.code, done.err) == (0, "")
    found = rows(done.text)
    assert [(row["image"], row["label"]) for row in found] == [("a", "5"), ("a", "9"), ("b", "5"), ("b", "9")]
    assert not any(name.startswith("intensity") for name in found[0])
    assert [row["touches_border"] for row in found] == ["false", "false", "true", "false"]


def test_every_way_to_name_the_same_gives_the_same_table(cellkit, tmp_path, images, labels):
    usual = cellkit("measure", labels, "--image", images, "-o", "-")
    assert usual.code == 0
    assert len(rows(usual.text)) == 4
    with LabelWriter(tmp_path / "all.h5") as writer:
        for name in ("a", "b"):
            cells = iio.imread(labels / f"{name}.tif").astype(np.int32)
            scores = np.linspace(0.1, 0.9, 9).astype(np.float32)
            writer.write(LabelImage(key=name, labels=cells, scores=scores, pixel_size=0.5))
    for arguments, stdin in (
        (("-", "--image", images), tar_of(labels)),
        ((labels, "--image", "-"), tar_of(images)),
        ((tmp_path / "all.h5", "--image", images), b""),
        ((labels, "--image", images, "--workers", "0"), b""),
    ):
        done = cellkit("measure", *arguments, "-o", "-", stdin=stdin)
        assert (done.code, done.text) == (0, usual.text), done.err


def test_names_of_other_tools_find_their_images(cellkit, tmp_path, images, labels):
    usual = rows(cellkit("measure", labels, "--image", images, "-o", "-").text)
    for name in ("a", "b"):
        (labels / f"{name}.tif").rename(labels / f"{name}_cp_masks.tif")
    for arguments, stdin in (((labels,), b""), (("-",), tar_of(labels))):
        done = cellkit("measure", *arguments, "--image", images, "-o", "-", stdin=stdin)
        assert rows(done.text) == usual, done.err


def test_frames_of_a_time_series_find_their_labels(cellkit, tmp_path, two_touching_cells):
    movie = np.stack([np.full(two_touching_cells.shape, 10 * frame, np.uint8) for frame in range(3)])
    tifffile.imwrite(tmp_path / "movie.tif", movie, photometric="minisblack", metadata={"axes": "TYX"})
    (tmp_path / "labels").mkdir()
    for frame in (0, 1, 2):
        tifffile.imwrite(tmp_path / "labels" / f"movie_t{frame:03d}.tif", two_touching_cells.astype(np.uint16))
    for source, stdin in ((tmp_path / "labels", b""), ("-", tar_of(tmp_path / "labels"))):
        done = cellkit("measure", source, "--image", tmp_path / "movie.tif", "-o", "-", stdin=stdin)
        assert done.code == 0, done.err
        found = [(row["image"], float(row["intensity_mean_0"])) for row in rows(done.text)]
        assert found == [(f"movie_t{frame:03d}", 10.0 * frame) for frame in range(3) for _ in range(2)]


def test_channels_are_chosen_and_keep_their_numbers(cellkit, images, labels):
    done = cellkit("measure", labels, "--image", images, "--channels", "1", "-o", "-")
    names = [name for name in rows(done.text)[0] if name.startswith("intensity_mean")]
    assert names == ["intensity_mean_1"]


def test_colours_and_grey_go_into_one_table(cellkit, crops):
    done = cellkit("measure", crops / "labels", "--image", crops / "images", "-o", "-")
    assert done.code == 0, done.err
    found = {row["image"]: row for row in rows(done.text)}
    assert set(found) == set(NAMES)
    assert found[NAMES[1]]["intensity_mean_red"]
    assert not found[NAMES[1]]["intensity_mean_0"]
    assert found[NAMES[0]]["intensity_mean_0"]


def test_parquet(cellkit, tmp_path, labels):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert cellkit("measure", labels, "-o", tmp_path / "cells.parquet").code == 0
    assert parquet.read_table(tmp_path / "cells.parquet").column("label").to_pylist() == [5, 9, 5, 9]


def test_coco_cells_keep_their_ids_and_overlaps_are_said(cellkit, tmp_path):
    squares = [(901, [10, 10, 30, 10, 30, 30, 10, 30]), (17, [20, 20, 26, 20, 26, 26, 20, 26])]
    entries = [
        {"id": number, "image_id": 1, "category_id": 1, "segmentation": [corners], "iscrowd": 0, "area": 1}
        for number, corners in squares
    ]
    content = {
        "images": [{"id": 1, "file_name": "x.png", "height": 40, "width": 50}],
        "annotations": entries,
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "cells.json").write_text(json.dumps(content))
    done = cellkit("measure", tmp_path / "cells.json", "-o", "-")
    assert [(row["label"], row["area"]) for row in rows(done.text)] == [("901", "364"), ("17", "36")]
    assert done.err == (
        "cellkit measure: warning: cells overlap in 1 image, e.g. x; a pixel of several cells counts for the smallest "
        "of them alone\n"
    )


@pytest.mark.parametrize("background", ["keep", "blank"])
def test_crops_are_images_that_are_read_again(cellkit, tmp_path, images, labels, background, two_touching_cells):
    table, folder = tmp_path / "cells.csv", tmp_path / "crops"
    options = ("--crops", folder, "--crop-background", background)
    assert cellkit("measure", labels, "--image", images, "-o", table, *options).code == 0
    assert [source.key for source in find_sources([str(folder)])] == ["a_00005", "a_00009", "b_00005", "b_00009"]
    crop = read_image(str(folder / "a_00005.tif"))
    row = rows(table.read_text())[0]
    y0, x0, y1, x1 = (int(row[name]) for name in LENGTHS)
    inside = two_touching_cells[y0:y1, x0:x1] == 1
    expected = iio.imread(images / "a.tif")[:, y0:y1, x0:x1] * (inside if background == "blank" else 1)
    assert np.array_equal(crop.pixels, expected)
    assert (crop.axes, crop.pixel_size) == ("CYX", 0.5)


def test_crops_of_colours_and_of_one_size(cellkit, tmp_path, crops):
    options = ("--crops", tmp_path / "crops", "--crop-size", "24", "-o", tmp_path / "cells.csv")
    assert cellkit("measure", crops / "labels", "--image", crops / "images", *options).code == 0
    found = [read_image(str(path)) for path in sorted((tmp_path / "crops").iterdir())]
    assert len(found) == len(rows((tmp_path / "cells.csv").read_text()))
    assert {crop.pixels.shape for crop in found} == {(1, 24, 24), (3, 24, 24)}
    assert {crop.rgb for crop in found if len(crop.pixels) == 3} == {True}


def test_run_again_what_is_the_same_stays_and_what_is_another_is_an_error(cellkit, tmp_path, images, labels):
    table, folder = tmp_path / "cells.csv", tmp_path / "crops"
    command = ("measure", labels, "--image", images, "-o", table, "--crops", folder)
    assert cellkit(*command).code == 0
    before = {path: path.stat().st_mtime_ns for path in (table, *folder.iterdir())}
    assert cellkit(*command).code == 0
    assert {path: path.stat().st_mtime_ns for path in (table, *folder.iterdir())} == before

    done = cellkit("measure", labels, "-o", table)
    assert done.code == 2
    assert done.err == (
        f"cellkit measure: error: {table}: exists, and is another than this run would write "
        "(add --on-exists overwrite, or choose another name)\n"
    )
    assert cellkit(*command, "--on-exists", "error").code == 2
    assert {path: path.stat().st_mtime_ns for path in (table, *folder.iterdir())} == before
    assert cellkit("measure", labels, "-o", table, "--on-exists", "overwrite").code == 0
    assert "intensity" not in table.read_text()


def test_one_bad_image_costs_one_image(cellkit, tmp_path, images, labels):
    (images / "b.tif").write_bytes((images / "b.tif").read_bytes()[:100])
    folder = tmp_path / "crops"
    done = cellkit("measure", labels, "--image", images, "-o", tmp_path / "cells.csv", "--crops", folder)
    assert done.code == 3
    assert "1 of 2 images failed: b" in done.err
    assert [row["image"] for row in rows((tmp_path / "cells.csv").read_text())] == ["a", "a"]
    assert (folder / "failed.tsv").read_text().splitlines()[1].startswith("b\t")


def test_names_that_one_side_alone_has(cellkit, tmp_path, images, labels):
    (images / "a.tif").rename(images / "c.tif")
    for source, stdin, texts in (
        (labels, b"", [f"{labels} has no labels of 'c'", f"{images} has no image of 'a'"]),
        ("-", tar_of(labels), [f"{images} has no image of 'a'"]),
    ):
        done = cellkit("measure", source, "--image", images, "-o", "-", stdin=stdin)
        assert done.code == 3
        assert all(text in done.err for text in texts)
        assert {row["image"] for row in rows(done.text)} == {"b"}
        done = cellkit("measure", source, "--image", images, "-o", "-", "--allow-missing", stdin=stdin)
        assert (done.code, done.err) == (0, "")
        assert {row["image"]: bool(row["intensity_mean_0"]) for row in rows(done.text)} == {"a": False, "b": True}


def test_labels_of_another_size_are_refused(cellkit, tmp_path, images, labels):
    done = cellkit("measure", labels / "a.tif", "--image", images / "b.tif", "-o", tmp_path / "cells.csv")
    assert done.code == 5
    assert done.err.count("\n") == 1
    assert "the labels have 64 x 80 pixels, the image has 48 x 48 (pair them anew)" in done.err
    assert not (tmp_path / "cells.csv").exists()


def test_an_empty_field_is_a_table_without_rows(cellkit, tmp_path, empty_field):
    tifffile.imwrite(tmp_path / "x.tif", empty_field.astype(np.uint16))
    done = cellkit("measure", tmp_path / "x.tif", "--image", tmp_path / "x.tif", "-o", "-")
    assert done.code == 0
    assert done.text.startswith("image,label,area,")
    assert "intensity_mean_0" in done.text
    assert rows(done.text) == []


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("nowhere", "-o", "x.csv"), 5, "nowhere: does not exist (check the name)"),
        (("labels", "--image", "nowhere", "-o", "x.csv"), 5, "nowhere: does not exist (check the name)"),
        (("labels", "-o", "x.xlsx"), 2, "x.xlsx: tables are not written as this kind of file"),
        (("labels", "-o", ""), 2, "--output: tables are not written as this kind of file"),
        (("labels", "-o", "no/x.csv"), 2, "could not be written: its folder does not exist"),
        (("labels", "-o", "x.csv", "--crops", "y"), 2, "--crops: there is no image to cut them out of"),
        (("labels", "--image", "images", "-o", "x.csv", "--crops", "-"), 2, "--crops: '-' is no folder"),
        (("labels", "-o", "x.csv", "--crop-size", "9"), 2, "--crop-size: there are no crops (add --crops DIR)"),
        (("labels", "-o", "x.csv", "--pixel-size", "-1"), 2, "--pixel-size: cannot be -1"),
        (("-", "--image", "-", "-o", "x.csv"), 2, "-: stdin carries one stream"),
        (("-", "-o", "x.csv"), 5, "-: is empty or cut"),
        (("images/a.tif", "-o", "x.csv"), 5, "images/a.tif: is 3-D (2 x 64 x 80), not a 2-D label image"),
        (("pairs.csv", "-o", "pairs.csv"), 2, "pairs.csv: the output would take the place of an input"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(cellkit, tmp_path, monkeypatch, images, labels, arguments, code, text):
    (tmp_path / "pairs.csv").write_text("image,labels\nimages/a.tif,labels/a.tif\n")
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir())
    done = cellkit("measure", *arguments)
    assert done.code == code, done.err
    assert text in done.err
    assert done.err.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_a_crop_never_takes_the_place_of_an_input(cellkit, tmp_path, images, labels):
    (images / "a_00005.tif").write_bytes((images / "a.tif").read_bytes())  # called as the crop of cell 5 of a.tif
    options = ("--crops", images, "--on-exists", "overwrite", "--allow-missing", "-o", tmp_path / "cells.csv")
    done = cellkit("measure", labels, "--image", images, *options)
    assert done.code == 3
    assert f"{images / 'a_00005.tif'}: the output would take the place of an input" in done.err
    assert (images / "a_00005.tif").read_bytes() == (images / "a.tif").read_bytes()


def test_measuring_does_not_wait_for_torch(labels, tmp_path):
    code = (
        "import sys; from cellkit.cli.app import main; "
        f"code = main(['measure', {str(labels)!r}, '-o', {str(tmp_path / 'x.csv')!r}]); "
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"], done.stderr


def test_a_large_image_is_read_by_windows_and_measured_alike(cellkit, tmp_path, monkeypatch, images, labels):
    command = ("measure", labels, "--image", images, "--crops")
    usual = cellkit(*command, tmp_path / "one", "-o", "-")
    monkeypatch.setattr(tiff, "LARGE_PLANE", 1)
    assert isinstance(read_image(str(images / "a.tif")).pixels, LazyPixels)
    assert cellkit(*command, tmp_path / "two", "-o", "-").text == usual.text
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


def test_crops_that_are_there_stop_a_run_that_shall_find_none(cellkit, tmp_path, images, labels):
    command = ("measure", labels / "a.tif", "--image", images / "a.tif", "--crops", tmp_path / "crops")
    assert cellkit(*command, "-o", tmp_path / "one.csv").code == 0
    done = cellkit(*command, "-o", tmp_path / "two.csv", "--on-exists", "error")
    assert done.code == 2
    assert "a_00005.tif: exists already (add --on-exists overwrite" in done.err
    assert not (tmp_path / "two.csv").exists()
