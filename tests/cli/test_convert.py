"""cellkit convert: what is written reads back as the same cells, by our readers and by others."""

from __future__ import annotations

import gzip
import io
import json
import uuid
import zipfile

import imageio.v3 as iio
import numpy as np
import pytest
import roifile
import tifffile
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from skimage.draw import polygon2mask

from cellkit.cli.convert_options import FormatName
from cellkit.data.layouts import find_truth
from cellkit.data.predicted import find_predicted
from cellkit.io.histories import read_history
from cellkit.io.labels import LabelImage, write_labels
from cellkit.ops.run_lengths import decode
from cellkit.stages.converting import Format

NAMES = ("2cfa61bef6542dd3", "2dd3356f2dcf470a", "56d0da5b663ddd49", "356d9903d16074f1")  # in natural order
EACH = ("tif", "png", "h5", "roi", "geojson", "geojson.gz", "objects", "cellpose", "seg")  # files for each image


@pytest.fixture(scope="module")
def true(crops):
    """Labels by key, as other software numbers them: from 1 without gaps."""
    found = {}
    for name in NAMES:
        labels = iio.imread(crops / "labels" / f"{name}.png").astype(np.int32)
        found[name] = np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)
        assert found[name].max() > 0
    return found


@pytest.fixture
def folder(true, tmp_path):
    """Label files alone."""
    root = tmp_path / "labels"
    root.mkdir()
    for key, labels in true.items():
        write_labels(root / f"{key}.tif", LabelImage(key=key, labels=labels))
    return root


@pytest.fixture
def pieces(tmp_path):
    """An object with a hole and a second piece, another in the hole, one at the frame; labels with gaps."""
    labels = np.zeros((12, 14), np.int32)
    labels[1:8, 1:8] = 3
    labels[3:6, 3:6] = 0
    labels[4, 4] = 9
    labels[8, 8] = labels[10, 2] = 3
    labels[0:4, 11:] = 70_000
    write_labels(tmp_path / "p.tif", LabelImage(key="p", labels=labels, pixel_size=0.5))
    return tmp_path / "p.tif", labels


@pytest.fixture
def overlapping(tmp_path):
    """A COCO file of two objects that overlap and a crowd."""
    masks = np.zeros((3, 8, 9), np.uint8)
    masks[0, 1:6, 1:6] = masks[1, 4:7, 4:8] = masks[2, 7:, :3] = 1
    encoded = [coco_masks.encode(np.asfortranarray(mask)) for mask in masks]
    entries = [
        {
            "id": i + 1,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": int(i == 2),
            "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
        }
        for i, mask in enumerate(encoded)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 9}],
        "annotations": entries,
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "both.json").write_text(json.dumps(content))
    return tmp_path / "both.json", masks[:2].astype(bool)


def fill(rings, shape):
    """Even-odd filling of rings of corners x, y."""
    inside = np.zeros(shape, bool)
    for ring in rings:
        inside ^= polygon2mask(shape, np.asarray(ring, float)[:, ::-1] - 0.5)
    return inside


def from_geojson(data, shape):
    labels = np.zeros(shape, np.int32)
    for feature in json.loads(data)["features"]:
        geometry = feature["geometry"]
        parts = geometry["coordinates"]
        for polygon in [parts] if geometry["type"] == "Polygon" else parts:
            assert all(ring[0] == ring[-1] for ring in polygon)
            labels[fill(polygon, shape)] = int(feature["properties"]["name"])
    return labels


def from_rois(path, shape):
    labels = np.zeros(shape, np.int32)
    for roi in roifile.roiread(path):
        found = roi.coordinates(multi=True)
        labels[fill(found if isinstance(found, list) else [found], shape)] = int(roi.name)
    return labels


def read_back(root, true_root):
    return {key: ref.read().labels for key, ref in find_predicted(str(root), str(true_root)).items()}


def assert_same(found, true):
    assert list(found) == list(true)
    for key, labels in found.items():
        np.testing.assert_array_equal(labels, true[key])


def test_names_of_formats_are_those_of_the_stage():
    assert FormatName == Format


@pytest.mark.parametrize("to", ["tif", "png", "h5", "cellpose", "seg"])
def test_label_files_read_back(cellkit, folder, true, tmp_path, to):
    assert cellkit("convert", folder, "-o", tmp_path / "out", "--to", to).code == 0
    found = find_truth(str(tmp_path / "out"))
    assert_same({key: ref.read().labels for key, ref in found.items()}, true)


@pytest.mark.parametrize("to", ["coco", "objects"])
def test_files_of_objects_read_back(cellkit, folder, true, tmp_path, to):
    assert cellkit("convert", folder, "-o", tmp_path / "out", "--to", to).code == 0
    assert_same(read_back(tmp_path / "out", folder), true)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside of pycocotools
def test_coco_by_pycocotools(cellkit, folder, true, tmp_path):
    assert cellkit("convert", folder, "-o", tmp_path / "cells.json").code == 0
    coco = COCO(tmp_path / "cells.json")
    content = json.loads((tmp_path / "cells.json").read_text())
    results = coco.loadRes(content["annotations"])
    for image in coco.dataset["images"]:
        labels = true[image["file_name"].removesuffix(".png")]
        assert (image["height"], image["width"]) == labels.shape
        for made in (coco, results):
            anns = made.loadAnns(made.getAnnIds(imgIds=image["id"]))
            if made is coco:  # pycocotools itself gives results the areas of their boxes
                assert [ann["area"] for ann in anns] == np.bincount(labels.ravel())[1:].tolist()
            for label, ann in enumerate(anns, 1):
                np.testing.assert_array_equal(made.annToMask(ann) > 0, labels == label)
                rows, columns = np.nonzero(labels == label)
                box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
                assert ann["bbox"] == box
    assert [category["name"] for category in content["categories"]] == ["cell"]


def test_coco_of_more_objects_than_a_byte_counts(cellkit, tmp_path):
    labels = np.arange(1, 601, dtype=np.int32).reshape(20, 30).repeat(3, axis=0).repeat(2, axis=1)
    write_labels(tmp_path / "m.tif", LabelImage(key="m", labels=labels))
    assert cellkit("convert", tmp_path / "m.tif", "-o", tmp_path / "m.json").code == 0
    entries = json.loads((tmp_path / "m.json").read_text())["annotations"]
    assert [entry["area"] for entry in entries] == [6] * 600
    assert {tuple(entry["bbox"][2:]) for entry in entries} == {(2, 3)}
    assert_same(read_back(tmp_path / "m.json", tmp_path / "m.tif"), {"m": labels})


def test_coco_names_the_images_that_are_there(cellkit, crops, tmp_path):
    assert cellkit("convert", crops, "-o", tmp_path / "cells.json").code == 0
    names = [image["file_name"] for image in json.loads((tmp_path / "cells.json").read_text())["images"]]
    assert names == [f"{name}.png" for name in NAMES]


def test_ctc_reads_back_with_tracks_of_one_frame(cellkit, folder, true, tmp_path):
    assert cellkit("convert", folder, "-o", tmp_path / "out", "--to", "ctc").code == 0
    result = tmp_path / "out" / "01_RES"
    tracks = np.loadtxt(result / "res_track.txt", dtype=int)
    before = 0
    for frame, labels in enumerate(true.values()):
        found = tifffile.imread(result / f"mask{frame:03d}.tif")
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, np.where(labels > 0, labels + before, 0))
        mine = tracks[tracks[:, 1] == frame]
        np.testing.assert_array_equal(mine[:, 0], np.arange(before + 1, before + labels.max() + 1))
        before += labels.max()
    assert (tracks[:, 1] == tracks[:, 2]).all()
    assert not tracks[:, 3].any()
    assert len(tracks) == before


def test_ctc_keeps_the_numbers_of_frames(cellkit, tmp_path):
    for number in ("004", "007"):
        path = tmp_path / "in" / "02_GT" / "SEG" / f"man_seg{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, np.eye(4, dtype=np.uint16))
    done = cellkit("convert", tmp_path / "in" / "02_GT" / "SEG", "-o", tmp_path / "out", "--to", "ctc")
    assert (done.code, done.err) == (0, "")
    files = sorted(path.name for path in (tmp_path / "out" / "01_RES").iterdir())
    assert files == ["mask004.tif", "mask007.tif", "res_track.txt"]


def test_ctc_has_no_room_above_16_bits_and_leaves_nothing(cellkit, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", np.arange(40_000, dtype=np.uint32).reshape(200, 200))
    done = cellkit("convert", tmp_path / "in", "-o", tmp_path / "out", "--to", "ctc")
    assert done.code == 2
    assert "79998 objects" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["geojson", "geojson.gz"])
def test_geojson_filled_is_the_labels(cellkit, folder, true, tmp_path, to):
    assert cellkit("convert", folder, "-o", tmp_path / "out", "--to", to).code == 0
    for key, labels in true.items():
        data = (tmp_path / "out" / f"{key}.{to}").read_bytes()
        data = gzip.decompress(data) if to.endswith("gz") else data
        np.testing.assert_array_equal(from_geojson(data, labels.shape), labels)


def test_rois_filled_are_the_labels(cellkit, folder, true, tmp_path):
    assert cellkit("convert", folder, "-o", tmp_path / "out", "--to", "roi").code == 0
    for key, labels in true.items():
        np.testing.assert_array_equal(from_rois(tmp_path / "out" / f"{key}_rois.zip", labels.shape), labels)


def test_holes_and_pieces_survive(cellkit, pieces, tmp_path):
    path, labels = pieces
    for name in ("p.geojson", "p.zip"):
        assert cellkit("convert", path, "-o", tmp_path / name).code == 0
    np.testing.assert_array_equal(from_geojson((tmp_path / "p.geojson").read_bytes(), labels.shape), labels)
    np.testing.assert_array_equal(from_rois(tmp_path / "p.zip", labels.shape), labels)
    features = json.loads((tmp_path / "p.geojson").read_text())["features"]
    assert [feature["geometry"]["type"] for feature in features] == ["MultiPolygon", "Polygon", "Polygon"]
    assert features[0]["properties"] == {
        "objectType": "detection",
        "name": "3",
        "measurements": {"Area px^2": 42, "Area µm^2": 10.5},
    }
    assert all(uuid.UUID(feature["id"]).version == 5 for feature in features)
    assert zipfile.ZipFile(tmp_path / "p.zip").namelist() == ["00003.roi", "00009.roi", "70000.roi"]


def test_objects_are_named_by_label(cellkit, pieces, tmp_path):
    path, labels = pieces
    assert cellkit("convert", path, "-o", tmp_path / "out", "--to", "objects").code == 0
    files = sorted((tmp_path / "out" / "p" / "masks").iterdir())
    assert [file.name for file in files] == ["00003.png", "00009.png", "70000.png"]
    for file in files:
        np.testing.assert_array_equal(iio.imread(file), 255 * (labels == int(file.stem)))


def test_large_labels_of_cellpose_are_tiff(cellkit, pieces, tmp_path):
    path, labels = pieces
    assert cellkit("convert", path, "-o", tmp_path / "out", "--to", "cellpose").code == 0
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "p_cp_masks.tif"), labels)


def test_seg_npy_has_what_cellpose_asks_for(cellkit, crops, tmp_path):
    assert cellkit("convert", crops, "-o", tmp_path / "out", "--to", "seg").code == 0
    content = np.load(tmp_path / "out" / f"{NAMES[0]}_seg.npy", allow_pickle=True).item()
    masks, outlines = content["masks"], content["outlines"]
    assert content["filename"] == f"{NAMES[0]}.png"
    assert masks.dtype == outlines.dtype == np.uint16
    assert ((outlines == masks) | (outlines == 0)).all()
    assert set(np.unique(outlines)) == set(np.unique(masks))
    assert len(content["ismanual"]) == masks.max()


def test_overlapping_objects_stay_whole_where_they_can(cellkit, overlapping, tmp_path):
    path, masks = overlapping
    for name in ("o.json", "o.geojson", "o.zip"):
        done = cellkit("convert", path, "-o", tmp_path / name)
        assert (done.code, done.err) == (0, "")
    (labels,) = find_truth(str(tmp_path / "o.json")).values()
    for mask, found in zip(masks, labels.read().masks, strict=True):
        np.testing.assert_array_equal(decode(found), mask)
    features = json.loads((tmp_path / "o.geojson").read_text())["features"]
    for mask, feature in zip(masks, features, strict=True):
        np.testing.assert_array_equal(fill(feature["geometry"]["coordinates"], mask.shape), mask)
    for mask, roi in zip(masks, roifile.roiread(tmp_path / "o.zip"), strict=True):
        np.testing.assert_array_equal(fill([roi.coordinates()], mask.shape), mask)


def test_flat_formats_say_what_is_lost(cellkit, overlapping, tmp_path):
    done = cellkit("convert", overlapping[0], "-o", tmp_path / "out", "--to", "seg")
    assert done.code == 0
    assert "4 pixels belong to several objects" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("to", [*EACH, "coco", "ctc"])
def test_a_second_run_changes_nothing_and_one_of_other_cells_is_refused(cellkit, folder, tmp_path, to):
    out = tmp_path / "out"
    command = ("convert", folder, "-o", out, "--to", to)
    assert cellkit(*command).code == 0
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    assert cellkit(*command).code == 0
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.rglob("*") if p.is_file()}
    assert cellkit(*command, "--on-exists", "error").code == 2
    labels = np.zeros((96, 96), np.int32)
    labels[3:9, 3:9] = 1
    write_labels(folder / f"{NAMES[0]}.tif", LabelImage(key=NAMES[0], labels=labels))
    done = cellkit(*command)
    assert done.code == 2
    assert "--on-exists overwrite" in done.err
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.rglob("*") if p.is_file()}
    assert cellkit(*command, "--on-exists", "overwrite").code == 0
    assert before != {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.rglob("*") if p.is_file()}


def test_objects_that_are_gone_do_not_stay(cellkit, tmp_path):
    path = tmp_path / "a.png"
    command = ("convert", path, "-o", tmp_path / "out", "--to", "objects")
    for last in (3, 2):
        iio.imwrite(path, np.arange(last + 1, dtype=np.uint8)[None])
        done = cellkit(*command, "--on-exists", "overwrite")
        assert (done.code, done.err) == (0, "")
    files = sorted(file.name for file in (tmp_path / "out" / "a" / "masks").iterdir())
    assert files == ["00001.png", "00002.png"]


def test_frames_that_are_gone_do_not_stay(cellkit, folder, tmp_path):
    command = ("convert", folder, "-o", tmp_path / "out", "--to", "ctc")
    assert cellkit(*command).code == 0
    (folder / f"{NAMES[-1]}.tif").unlink()
    done = cellkit(*command)
    assert done.code == 2
    assert "mask003.tif" in done.err
    assert cellkit(*command, "--on-exists", "overwrite").code == 0
    assert not (tmp_path / "out" / "01_RES" / "mask003.tif").exists()


def test_label_files_carry_the_history_on(cellkit, folder, tmp_path):
    assert cellkit("convert", folder, "-o", tmp_path / "one").code == 0
    assert cellkit("convert", tmp_path / "one", "-o", tmp_path / "two", "--to", "png").code == 0
    history = read_history(tmp_path / "two" / f"{NAMES[0]}.png")
    assert [record.arguments["to"] for record in history] == ["tif", "png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-o", "cells.json", "--to", "roi"), "format roi"),
        (("-o", "cells.txt"), "says no format"),
        (("-o", "x.txt", "--to", "objects"), "DIR/"),
        (("-o", ""), "an empty name"),
        (("-o", "-", "--to", "objects"), "'objects' makes a folder"),
        (("-o", "-", "--to", "ctc"), "'ctc' makes a folder"),
        (("-o", "-", "--to", "roi", "--json"), "tar stream already"),
        (("-o", "cells.json", "--shape", "3"), "'3' is no height and width"),
        (("-o", "cells.json", "--shape", "0,4"), "e.g. --shape 512,512"),
        (("-o", "cells.zip"), "takes one image, not 4"),
        (("-o", "cells.tif"), "takes one image"),
    ],
)
def test_outputs_that_cannot_be_meant(cellkit, folder, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    done = cellkit("convert", folder, *arguments)
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels"]


def test_an_input_is_never_overwritten(cellkit, folder, overlapping):
    for arguments in ((folder, "-o", folder), (overlapping[0], "-o", overlapping[0])):
        done = cellkit("convert", *arguments, "--on-exists", "overwrite")
        assert done.code == 2
        assert "place of an input" in done.err


def test_one_bad_file_costs_one_image(cellkit, folder, tmp_path):
    (folder / f"{NAMES[1]}.tif").write_bytes(b"II*\0broken")
    done = cellkit("convert", folder, "-o", tmp_path / "out", "--to", "roi")
    assert done.code == 3
    assert len(list((tmp_path / "out").glob("*.zip"))) == 3
    assert NAMES[1] in (tmp_path / "out" / "failed.tsv").read_text()


def test_no_labels(cellkit, tmp_path):
    assert cellkit("convert", tmp_path / "none", "-o", tmp_path / "out").code == 4


def test_an_image_without_cells(cellkit, tmp_path):
    write_labels(tmp_path / "e.png", LabelImage(key="e", labels=np.zeros((5, 6), np.int32)))
    for name in ("e.json", "e.geojson", "e.zip"):
        assert cellkit("convert", tmp_path / "e.png", "-o", tmp_path / name).code == 0
    assert json.loads((tmp_path / "e.geojson").read_text())["features"] == []
    assert not zipfile.ZipFile(io.BytesIO((tmp_path / "e.zip").read_bytes())).namelist()
    (labels,) = find_truth(str(tmp_path / "e.json")).values()
    assert labels.read().labels.shape == (5, 6)
