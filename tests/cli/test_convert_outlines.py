"""cellkit convert: outlines read back as labels, tar streams, and round trips on real labels."""

from __future__ import annotations

import errno
import io
import json
import tarfile
import zipfile

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
import roifile
import tifffile

from cellkit.cli.showing import SAMPLES
from cellkit.data.layouts import find_truth
from cellkit.data.predicted import find_predicted
from cellkit.io.histories import read_history
from cellkit.io.labels import LabelImage, read_label_images, read_labels, write_labels
from cellkit.io.streams import read_stream
from cellkit.provenance import Record

SQUARE = [[2, 3], [8, 3], [8, 7], [2, 7]]
ONE_FILE = ("tif", "png", "h5", "roi", "geojson", "geojson.gz", "cellpose", "seg")


@pytest.fixture
def samples(tmp_path):
    """Parts of bundled labels under numbers with gaps, with scores and a pixel size, by key."""
    root, found = tmp_path / "labels", {}
    root.mkdir()
    for path in sorted((SAMPLES / "labels").iterdir())[:3]:
        labels = iio.imread(path)[60:200, 60:220].astype(np.int32) * 3
        scores = np.full(labels.max(), np.nan, np.float32)
        scores[np.unique(labels)[1:] - 1] = 0.125
        image = LabelImage(
            key=path.stem, labels=labels, scores=scores, pixel_size=0.25, history=(Record(verb="segment"),)
        )
        write_labels(root / f"{path.stem}.tif", image)
        found[path.stem] = image
    return root, found


def drawn(path, *corners):
    with zipfile.ZipFile(path, "w") as archive:
        for number, ring in enumerate(corners):
            archive.writestr(f"{number}.roi", roifile.ImagejRoi.frompoints(np.array(ring)).tobytes())
    return path


def as_tar(folder):
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as tar:
        tar.add(folder, arcname=folder.name)
    return memory.getvalue()


@pytest.mark.parametrize("to", ["roi", "geojson", "geojson.gz"])
def test_our_outlines_are_the_same_labels_again(cellkit, samples, tmp_path, to):
    root, true = samples
    assert cellkit("convert", root, "-o", tmp_path / "out", "--to", to, "-q").code == 0
    done = cellkit("convert", tmp_path / "out", "-o", tmp_path / "back")
    assert (done.code, done.err) == (0, "")
    for key, image in true.items():
        found = read_labels(str(tmp_path / "back" / f"{key}.tif"))
        np.testing.assert_array_equal(found.labels, image.labels)
        np.testing.assert_array_equal(found.scores, image.scores)
        assert found.pixel_size == 0.25
        assert [record.verb for record in found.history] == ["segment", "convert", "convert"]


@pytest.mark.parametrize("to", ["tif", "png", "h5", "roi", "geojson.gz", "objects", "cellpose", "seg"])
def test_real_labels_come_back(cellkit, data, tmp_path, to):
    source = data / "dsb2018" / "labels"
    names = [path.name for path in sorted(source.iterdir())[:300:60]]
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).symlink_to(source / name)
    assert cellkit("convert", tmp_path / "in", "-o", tmp_path / "out", "--to", to).code == 0
    found = find_predicted(str(tmp_path / "out"), str(tmp_path / "in")) or find_truth(str(tmp_path / "out"))
    truth = find_truth(str(tmp_path / "in"))
    assert list(found) == list(truth)
    for key, ref in truth.items():
        labels = ref.read().labels
        if to == "objects":  # numbered by their place
            labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
        np.testing.assert_array_equal(found[key].read().labels, labels)


def test_one_hdf5_of_all_labels_comes_back(cellkit, samples, tmp_path):
    root, true = samples
    assert cellkit("convert", root, "-o", tmp_path / "all.h5").code == 0
    assert cellkit("convert", tmp_path / "all.h5", "-o", tmp_path / "back", "--to", "png").code == 0
    for key, image in true.items():
        np.testing.assert_array_equal(read_labels(str(tmp_path / "back" / f"{key}.png")).labels, image.labels)


def test_an_hdf5_of_another_tool(cellkit, samples, tmp_path):
    _, true = samples
    with h5py.File(tmp_path / "in.h5", "w") as file:
        for key, image in true.items():
            file[f"labels/{key}"] = image.labels
    assert cellkit("convert", tmp_path / "in.h5", "-o", tmp_path / "out", "--to", "roi").code == 0
    assert cellkit("convert", tmp_path / "out", "-o", tmp_path / "back").code == 0
    for key, image in true.items():
        np.testing.assert_array_equal(read_labels(str(tmp_path / "back" / f"{key}.tif")).labels, image.labels)


def test_cells_drawn_on_an_image_become_its_labels(cellkit, tmp_path):
    metadata = {"unit": "um"}
    tifffile.imwrite(
        tmp_path / "cells.tif", np.zeros((9, 12), np.uint8), imagej=True, resolution=(2, 2), metadata=metadata
    )
    drawn(tmp_path / "RoiSet.zip", SQUARE, [[9.2, 1.3], [11.6, 1.3], [11.6, 4.4], [9.2, 4.4]])
    command = ("convert", tmp_path / "RoiSet.zip", "--image", tmp_path / "cells.tif", "-o", tmp_path / "labels.tif")
    done = cellkit(*command)
    assert (done.code, done.err) == (0, "")
    found = read_labels(str(tmp_path / "labels.tif"))
    expected = np.zeros((9, 12), np.int32)
    expected[3:7, 2:8], expected[1:4, 9:12] = 1, 2
    np.testing.assert_array_equal(found.labels, expected)
    assert found.pixel_size == pytest.approx(0.5)
    assert cellkit(*command[:2], "--shape", "9,12", "-o", tmp_path / "shaped.png").code == 0
    np.testing.assert_array_equal(iio.imread(tmp_path / "shaped.png"), expected)


def test_a_folder_of_outlines_and_one_of_images(cellkit, tmp_path):
    for folder in ("rois", "pictures"):
        (tmp_path / folder).mkdir()
    for name, side in (("a", 10), ("b", 12)):
        iio.imwrite(tmp_path / "pictures" / f"{name}.png", np.zeros((side, 9), np.uint8))
        drawn(tmp_path / "rois" / f"{name}.zip", SQUARE)
    done = cellkit("convert", tmp_path / "rois", "--image", tmp_path / "pictures", "-o", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    assert [iio.imread(tmp_path / "out" / f"{name}.tif").shape for name in "ab"] == [(10, 9), (12, 9)]


def test_drawn_cells_that_overlap_are_said(cellkit, tmp_path):
    drawn(tmp_path / "a.zip", SQUARE, np.array(SQUARE) + 1)
    done = cellkit("convert", tmp_path / "a.zip", "--shape", "9,12", "-o", tmp_path / "a.tif")
    assert done.code == 0
    assert "15 pixels belong to several objects; 'tif' keeps the smallest of them there" in done.err
    assert done.err.count("\n") == 1
    assert cellkit("convert", tmp_path / "a.zip", "--shape", "9,12", "-o", tmp_path / "a.json").err == ""


def test_scores_of_a_finished_file_are_left_out_of_a_comment_that_is_too_long(cellkit, tmp_path):
    labels = np.arange(1, 10_001, dtype=np.int32).reshape(100, 100)
    scores = np.linspace(0.1, 0.9, 10_000, dtype=np.float32)
    write_labels(tmp_path / "m.tif", LabelImage(key="m", labels=labels, scores=scores))
    done = cellkit("convert", tmp_path / "m.tif", "-o", tmp_path / "m.zip")
    assert (done.code, done.err.count("\n")) == (0, 1)
    assert "has no room for 10000 scores" in done.err
    assert cellkit("convert", tmp_path / "m.zip", "-o", tmp_path / "back.tif").code == 0
    np.testing.assert_array_equal(read_labels(str(tmp_path / "back.tif")).labels, labels)


def test_evaluate_reads_drawn_truth(cellkit, tmp_path, two_touching_cells):
    iio.imwrite(tmp_path / "a.tif", np.zeros(two_touching_cells.shape, np.uint8))
    write_labels(tmp_path / "l.tif", LabelImage(key="l", labels=two_touching_cells))
    assert cellkit("convert", tmp_path / "l.tif", "-o", tmp_path / "a.geojson").code == 0
    (tmp_path / "out").mkdir()
    (tmp_path / "l.tif").rename(tmp_path / "out" / "a.tif")
    done = cellkit("evaluate", tmp_path, tmp_path / "out", "--fail-under", "ap_dsb=1", "-q")
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("to", ONE_FILE)
def test_streams_carry_what_folders_would(cellkit, samples, tmp_path, to):
    root, _ = samples
    assert cellkit("convert", root, "-o", tmp_path / "out", "--to", to, "-q").code == 0
    done = cellkit("convert", root, "-o", "-", "--to", to, "-q")
    assert (done.code, done.err) == (0, "")
    members = dict(read_stream(io.BytesIO(done.out)))
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert members.keys() == files.keys()
    if to not in ("tif", "h5"):  # a stream of these is not compressed, or has times in it
        assert members == files


@pytest.mark.parametrize("to", ["tif", "png", "h5", "roi", "geojson.gz", "cellpose"])
def test_one_convert_reads_what_another_streams(cellkit, samples, tmp_path, to):
    root, true = samples
    stream = cellkit("convert", root, "-o", "-", "--to", to, "-q").out
    done = cellkit("convert", "-", "-o", "-", "--to", "tif", "-q", stdin=stream)
    assert (done.code, done.err) == (0, "")
    found = {
        image.key: image for name, data in read_stream(io.BytesIO(done.out)) for image in read_label_images(name, data)
    }
    assert found.keys() == true.keys()
    for key, image in true.items():
        np.testing.assert_array_equal(found[key].labels, image.labels)
        assert [record.verb for record in found[key].history] == ["segment", "convert", "convert"]


def test_a_plain_archive_of_labels_and_images(cellkit, crops, tmp_path):
    stream = as_tar(crops)  # with a README in it, perhaps
    done = cellkit("convert", "-", "-o", tmp_path / "out", "--to", "geojson", stdin=stream)
    assert (done.code, done.err) == (0, "")
    names = {path.stem for path in (crops / "labels").iterdir()}
    assert {path.stem for path in (tmp_path / "out").iterdir() if path.suffix == ".geojson"} == names


def test_coco_goes_to_stdout_as_json(cellkit, crops, tmp_path):
    assert cellkit("convert", crops, "-o", tmp_path / "cells.json").code == 0
    done = cellkit("convert", crops, "-o", "-", "--to", "coco")
    assert done.code == 0
    assert done.out == (tmp_path / "cells.json").read_bytes()
    stream = cellkit("convert", crops, "-o", "-").out
    content = json.loads(cellkit("convert", "-", "-o", "-", "--to", "coco", stdin=stream).out)
    assert len(content["annotations"]) == len(json.loads(done.out)["annotations"])


@pytest.mark.parametrize("name", ["a.zip", "a.tif"])
def test_a_stream_of_two_images_has_no_room_in_one_file(cellkit, samples, tmp_path, name):
    stream = as_tar(samples[0])
    done = cellkit("convert", "-", "-o", tmp_path / name, "-q", stdin=stream)
    assert done.code == 2
    assert "takes one image, not" in done.err
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-", "--to", "ctc", "-o", "out"), "unpack the stream and name the folder"),
        (("-", "--image", "x.tif", "-o", "out"), "members of a stream have no image"),
    ],
)
def test_what_a_stream_cannot_do(cellkit, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    done = cellkit("convert", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words in done.err
    assert not any(tmp_path.iterdir())


def member(name, data):
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return memory.getvalue()


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (member("../a.tif", b"x"), "would leave the output folder"),
        (member("a_seg.npy", b"x"), "a _seg.npy is read from a folder alone"),
        (member("a.txt", b"text"), "no image came"),
        (member("a.png", b"text"), "is no label image"),
        (member("a.zip", b"PK\3\4 cut"), "is a damaged zip"),
        (member("a.geojson", b"[]"), "nothing tells the size of its image (add --image IMAGE or --shape H,W)"),
        (member("a.tif", b"II*\0")[:700], "is empty or cut"),
        (member(".zip", b"x"), "no image came"),
    ],
)
def test_streams_that_cannot_be_read(cellkit, tmp_path, stream, words):
    done = cellkit("convert", "-", "-o", tmp_path / "out", stdin=stream)
    assert done.code in (4, 5)
    assert words in done.err
    assert done.err.count("\n") == 1


def test_outlines_without_an_image(cellkit, tmp_path):
    drawn(tmp_path / "a.zip", SQUARE)
    done = cellkit("convert", tmp_path / "a.zip", "-o", tmp_path / "a.tif")
    assert (done.code, done.err.count("\n")) == (5, 1)
    assert f"{tmp_path}/a.zip: nothing tells the size of its image (add --image IMAGE or --shape H,W)" in done.err
    assert not (tmp_path / "a.tif").exists()


def test_outlines_of_another_image(cellkit, samples, tmp_path):
    root, true = samples
    key = next(iter(true))
    assert cellkit("convert", root / f"{key}.tif", "-o", tmp_path / "a.geojson").code == 0
    done = cellkit("convert", tmp_path / "a.geojson", "--shape", "9,12", "-o", tmp_path / "a.tif")
    assert done.code == 5
    assert "the image has 9 x 12" in done.err


def test_a_damaged_zip(cellkit, tmp_path):
    data = drawn(tmp_path / "a.zip", SQUARE).read_bytes()
    (tmp_path / "a.zip").write_bytes(data[:-30])
    done = cellkit("convert", tmp_path / "a.zip", "--shape", "9,9", "-o", tmp_path / "a.tif")
    assert (done.code, done.err.count("\n")) == (5, 1)
    assert "is a damaged zip" in done.err


def test_png_has_no_room_above_16_bits(cellkit, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((4, 4), 70_000, np.uint32))
    done = cellkit("convert", tmp_path / "a.tif", "-o", tmp_path / "a.png")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("name", ["out.json", "out.zip", "out.geojson", "out.tif"])
def test_an_output_in_no_folder(cellkit, samples, tmp_path, name):
    root, true = samples
    done = cellkit("convert", root / f"{next(iter(true))}.tif", "-o", tmp_path / "none" / name)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "its folder does not exist" in done.err


@pytest.mark.parametrize("name", ["out.json", "out.zip", "out.geojson", "out.tif"])
def test_an_output_in_a_read_only_folder(cellkit, samples, tmp_path, monkeypatch, name):
    def refuse(path, data):
        raise OSError(errno.EROFS, "read-only")

    root, true = samples
    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    done = cellkit("convert", root / f"{next(iter(true))}.tif", "-o", tmp_path / name)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert (
        f"{tmp_path / name}: could not be written: the file system is read-only (write elsewhere with -o)" in done.err
    )


def test_coco_names_that_lead_elsewhere(cellkit, tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "../../evil.png", "height": 4, "width": 5}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 3, 0, 3, 3]], "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "in.json").write_text(json.dumps(content))
    assert cellkit("convert", tmp_path / "in.json", "-o", tmp_path / "deep" / "out").code == 0
    assert sorted(path.name for path in (tmp_path / "deep" / "out").glob("*.tif")) == ["evil.tif"]
    assert not list(tmp_path.glob("*.tif"))


def test_history_of_a_round_trip_is_in_the_file(cellkit, samples, tmp_path):
    root, true = samples
    key = next(iter(true))
    for one, other in (("a.zip", "a.tif"), ("a.geojson", "b.tif")):
        assert cellkit("convert", root / f"{key}.tif", "-o", tmp_path / one, "-q").code == 0
        assert cellkit("convert", tmp_path / one, "-o", tmp_path / other, "-q").code == 0
        assert [record.verb for record in read_history(tmp_path / other)] == ["segment", "convert", "convert"]
