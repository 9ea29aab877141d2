"""Outlines drawn in ImageJ or QuPath: the pixels they enclose, what is passed over, and what cannot be read."""

from __future__ import annotations

import gzip
import io
import json
import logging
import zipfile

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from cellkit.data.layouts import find_images, find_pairs, find_truth
from cellkit.data.outlines import OutlineFile, is_outlines, outline_key
from cellkit.errors import InputError
from cellkit.ops.run_lengths import decode

SIZE = (20, 24)


def polygon(corners, name="", kind=ROI_TYPE.POLYGON, **values):
    roi = ImagejRoi.frompoints(np.array(corners), name=name)
    roi.roitype = kind
    for field, value in values.items():
        setattr(roi, field, value)
    return roi


def rectangle(box, kind=ROI_TYPE.RECT, **values):
    roi = ImagejRoi()
    roi.roitype = kind
    roi.left, roi.top, roi.right, roi.bottom = box
    for field, value in values.items():
        setattr(roi, field, value)
    return roi


def roi_zip(path, *rois, comment=b""):
    with zipfile.ZipFile(path, "w") as archive:
        for number, roi in enumerate(rois):
            archive.writestr(f"{number:04d}-0001.roi", roi.tobytes())
        archive.comment = comment
    return path


def feature(corners, kind=None, name=None, **geometry):
    properties = {"objectType": kind} if kind else {}
    properties |= {"name": name} if name else {}
    shape = {"type": "Polygon", "coordinates": [[*corners, corners[0]]]} | geometry
    return {"type": "Feature", "geometry": shape, "properties": properties}


def geojson(path, *features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def read(path, shape=SIZE):
    return OutlineFile(str(path)).read(shape)


SQUARE, LATER = [[2, 3], [8, 3], [8, 7], [2, 7]], [[10, 9], [14, 9], [14, 12], [10, 12]]


def squares(first=1, second=2):
    labels = np.zeros(SIZE, np.int32)
    labels[3:7, 2:8] = first
    labels[9:12, 10:14] = second
    return labels


def test_rois_are_numbered_in_the_order_of_the_file(tmp_path):
    path = roi_zip(tmp_path / "a.zip", polygon(SQUARE, "b cell"), polygon(LATER, "a cell"))
    truth = read(path)
    np.testing.assert_array_equal(truth.labels, squares())
    assert (truth.masks, truth.overlapping, truth.scores) == (None, 0, None)


def test_names_that_are_numbers_are_the_labels(tmp_path):
    np.testing.assert_array_equal(
        read(roi_zip(tmp_path / "a.zip", polygon(SQUARE, "00070"), polygon(LATER, "9"))).labels, squares(70, 9)
    )
    np.testing.assert_array_equal(
        read(geojson(tmp_path / "a.geojson", feature(SQUARE, name="12"), feature(LATER, name="3"))).labels,
        squares(12, 3),
    )


@pytest.mark.parametrize("names", [("4", "4"), ("0", "1"), ("4", "x"), ("4", ""), ("4", "99999999999")])
def test_other_names_are_no_labels(tmp_path, names):
    path = geojson(tmp_path / "a.geojson", *(feature(c, name=n) for c, n in zip((SQUARE, LATER), names, strict=True)))
    np.testing.assert_array_equal(read(path).labels, squares())


def test_hand_drawn_corners_between_pixels(tmp_path):
    roi = polygon([[2.4, 3.6], [8.4, 3.6], [8.4, 7.4], [2.4, 7.4]])
    assert roi.subpixel_coordinates is not None
    expected = np.zeros(SIZE, np.int32)
    expected[4:7, 2:8] = 1
    np.testing.assert_array_equal(read(roi_zip(tmp_path / "a.zip", roi)).labels, expected)
    (tmp_path / "one.roi").write_bytes(roi.tobytes())
    np.testing.assert_array_equal(read(tmp_path / "one.roi").labels, expected)


def test_rectangles_and_ovals(tmp_path):
    path = roi_zip(
        tmp_path / "a.zip", rectangle((2, 3, 8, 7)), rectangle((10, 4, 21, 17), ROI_TYPE.OVAL), polygon(SQUARE[:2])
    )
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    expected = np.zeros(SIZE, np.int32)
    expected[3:7, 2:8] = 1
    expected[((x - 15.5) / 5.5) ** 2 + ((y - 10.5) / 6.5) ** 2 <= 1] = 2
    np.testing.assert_array_equal(read(path).labels, expected)


def test_composites_have_holes_and_pieces(tmp_path):
    roi = rectangle((1, 1, 20, 12), options=ROI_OPTIONS.OVERLAY_LABELS)
    rings = ([[1, 1], [9, 1], [9, 9], [1, 9]], [[3, 3], [3, 6], [6, 6], [6, 3]], [[15, 8], [20, 8], [20, 12], [15, 12]])
    steps = [[0 if i == 0 else 1, x, y] for ring in rings for i, (x, y) in enumerate(ring)]
    path = [v for i, step in enumerate(steps) for v in (*step, *([4] if i % 4 == 3 else []))]
    roi.multi_coordinates, roi.shape_roi_size = np.array(path, np.float32), len(path)
    expected = np.zeros(SIZE, np.int32)
    expected[1:9, 1:9] = expected[8:12, 15:20] = 1
    expected[3:6, 3:6] = 0
    np.testing.assert_array_equal(read(roi_zip(tmp_path / "a.zip", roi)).labels, expected)


def test_what_encloses_nothing_is_passed_over_and_counted(tmp_path, caplog):
    others = [polygon(SQUARE, kind=kind) for kind in (ROI_TYPE.POINT, ROI_TYPE.POINT, ROI_TYPE.POLYLINE)]
    text = rectangle((1, 1, 9, 9), subtype=ROI_SUBTYPE.TEXT, text="note", text_name="SansSerif")
    path = roi_zip(tmp_path / "a.zip", polygon(SQUARE), *others, text, polygon(LATER), polygon(np.array(LATER) + 90))
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(read(path).labels, squares())
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: objects that are no cells are passed over: 2 point, 1 polyline, 1 text",
        f"{path}: 1 outline without a pixel is left out",
    ]


def test_regions_around_cells_are_no_cells(tmp_path, caplog):
    region = feature([[0, 0], [24, 0], [24, 20], [0, 20]], "annotation")
    cells = [feature(SQUARE, "cell"), feature(LATER, "detection"), feature(SQUARE, "cell", type="Point")]
    with caplog.at_level(logging.WARNING):
        truth = read(geojson(tmp_path / "a.geojson", region, *cells))
    np.testing.assert_array_equal(truth.labels, squares())
    assert "1 annotation, 1 point" in caplog.text
    drawn = geojson(tmp_path / "b.geojson", feature(SQUARE, "annotation"), feature(LATER, "annotation"))
    np.testing.assert_array_equal(read(drawn).labels, squares())  # annotations alone are the cells


@pytest.mark.parametrize("make", [list, lambda features: {"type": "FeatureCollection", "features": features}])
@pytest.mark.parametrize("suffix", [".geojson", ".geojson.gz"])
def test_lists_collections_and_compressed_files(tmp_path, make, suffix):
    data = json.dumps(make([feature(SQUARE), feature(LATER)])).encode()
    (tmp_path / f"a{suffix}").write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    np.testing.assert_array_equal(read(tmp_path / f"a{suffix}").labels, squares())


def test_cells_that_overlap_stay_whole(tmp_path, caplog):
    path = roi_zip(tmp_path / "a.zip", polygon(SQUARE, "9"), polygon(np.array(SQUARE) + 2, "4"))
    with caplog.at_level(logging.WARNING):
        truth = read(path)
    assert truth.overlapping == 4 * 2
    first, second = (decode(mask) for mask in truth.masks)
    assert (first[5:9, 4:10].all(), first.sum(), second[3:7, 2:8].all(), second.sum()) == (True, 24, True, 24)
    assert "their numbers are new, from 1" in caplog.text


def test_scores_come_with_their_cells(tmp_path):
    scored = feature(SQUARE, name="3")
    scored["properties"]["measurements"] = [{"name": "Score", "value": 0.25}]
    other = feature(LATER, name="1")
    other["properties"]["measurements"] = {"Area px^2": 12}
    truth = read(geojson(tmp_path / "a.geojson", scored, other))
    np.testing.assert_array_equal(truth.scores, np.array([np.nan, np.nan, 0.25], np.float32))


def test_the_image_tells_size_and_pixel_size(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros(SIZE, np.uint8), imagej=True, resolution=(4, 4), metadata={"unit": "um"}
    )
    path = roi_zip(tmp_path / "a.zip", polygon(SQUARE), polygon(LATER))
    truth = OutlineFile(str(path), str(tmp_path / "a.tif")).read()
    np.testing.assert_array_equal(truth.labels, squares())
    assert truth.pixel_size == pytest.approx(0.25)
    with pytest.raises(InputError, match=r"nothing tells the size of its image \(add --image IMAGE or --shape H,W\)"):
        OutlineFile(str(path)).read()


@pytest.mark.parametrize("name", ["a.zip", "a_rois.zip", "a.geojson", "a.tif.geojson", "a_img.geojson.gz"])
def test_outlines_beside_their_images_are_a_layout(tmp_path, name):
    image = "a_img.tif" if "img" in name else "a.tif"
    iio.imwrite(tmp_path / image, np.zeros(SIZE, np.uint8))
    iio.imwrite(tmp_path / "b.tif", np.zeros(SIZE, np.uint8))
    if name.endswith(".zip"):
        roi_zip(tmp_path / name, polygon(SQUARE), polygon(LATER))
    else:
        data = json.dumps([feature(SQUARE), feature(LATER)]).encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    dataset = find_pairs(str(tmp_path))
    assert [pair.key for pair in dataset.pairs] == ["a"]
    assert dataset.unpaired_images == (str(tmp_path / "b.tif"),)
    np.testing.assert_array_equal(dataset.pairs[0].labels.read(SIZE).labels, squares())
    np.testing.assert_array_equal(find_truth(str(tmp_path))["a"].read().labels, squares())
    assert find_images(str(tmp_path)) == {"a": str(tmp_path / image)}


def test_outlines_in_a_folder_of_their_own(tmp_path):
    for folder in ("images", "rois"):
        (tmp_path / folder).mkdir()
    iio.imwrite(tmp_path / "images" / "a.png", np.zeros(SIZE, np.uint8))
    roi_zip(tmp_path / "rois" / "a.zip", polygon(SQUARE), polygon(LATER))
    roi_zip(tmp_path / "rois" / "stray.zip", polygon(SQUARE))
    dataset = find_pairs(str(tmp_path))
    assert [pair.key for pair in dataset.pairs] == ["a"]
    assert dataset.unpaired_labels == (str(tmp_path / "rois" / "stray.zip"),)
    assert list(find_truth(str(tmp_path / "rois"))) == ["a", "stray"]


def test_a_table_of_pairs_names_outlines_too(tmp_path):
    iio.imwrite(tmp_path / "x.png", np.zeros(SIZE, np.uint8))
    roi_zip(tmp_path / "y.zip", polygon(SQUARE), polygon(LATER))
    (tmp_path / "pairs.csv").write_text("image,labels\nx.png,y.zip\n")
    (pair,) = find_pairs(str(tmp_path)).pairs
    np.testing.assert_array_equal(pair.labels.read().labels, squares())


def test_other_zips_are_no_outlines(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.tif", b"")
        archive.writestr("__MACOSX/._x.roi", b"")
    assert not is_outlines(tmp_path / "a.zip")
    (tmp_path / "b.zip").write_bytes(b"PK\3\4 cut")
    assert not is_outlines(tmp_path / "b.zip")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("in/a.b_rois.zip", "a.b"),
        ("a.ome.tif.geojson", "a"),
        ("A.GeoJSON.GZ", "A"),
        ("x.roi", "x"),
        ("_rois.zip", "_rois"),
    ],
)
def test_keys(name, key):
    assert outline_key(name) == key


@pytest.mark.parametrize("name", [".zip", ".hidden.roi", ".tif.geojson"])
def test_names_that_make_no_key(name):
    with pytest.raises(InputError):
        outline_key(name)


ROIS, ONE = io.BytesIO(), polygon(SQUARE).tobytes()
with zipfile.ZipFile(ROIS, "w") as made:
    made.writestr("../../evil.roi", ONE)
HUGE = ROIS.getvalue().replace(len(ONE).to_bytes(4, "little") * 2, (1 << 31).to_bytes(4, "little") * 2)
CUT = io.BytesIO()
with zipfile.ZipFile(CUT, "w") as made:
    made.writestr("a.roi", ONE[:40])


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.zip", ROIS.getvalue()[:-30], "is a damaged zip"),
        ("a.zip", CUT.getvalue(), "'a.roi' in it is no readable ROI"),
        ("a.zip", HUGE, "would take 2147483648 bytes"),
        ("a.zip", b"", "is neither a zip of ImageJ ROIs nor one ROI"),
        ("a.roi", b"II*\0", "is neither a zip of ImageJ ROIs nor one ROI"),
        ("a.geojson", b"{", "is no readable GeoJSON"),
        ("a.geojson", b"\x1f\x8bcut", "is no readable GeoJSON"),
        ("a.geojson", b'{"images": []}', "there are no features in it"),
        ("a.geojson", b"3", "there are no features in it"),
        ("a.geojson", json.dumps([feature([[0, 0], [3, None], [3, 3]])]).encode(), "corners that are no x, y"),
        ("a.geojson", json.dumps([feature([[0, 0], ["x", 1], [3, 3]])]).encode(), "a polygon in it is damaged"),
        ("a.geojson", json.dumps([feature([[0], [1], [3]])]).encode(), "corners that are no x, y"),
        ("a.geojson", json.dumps([feature([[0, 0], [1], [3, 4]])]).encode(), "a polygon in it is damaged"),
    ],
)
def test_damaged_files(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert words in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert caught.value.repair


def test_names_in_a_zip_lead_nowhere(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.zip").write_bytes(ROIS.getvalue())
    assert read(tmp_path / "in" / "a.zip").labels.max() == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "a.zip"]


def test_cells_of_several_planes_are_refused(tmp_path):
    path = roi_zip(tmp_path / "a.zip", polygon(SQUARE, position=1), polygon(LATER, position=2))
    with pytest.raises(InputError, match="its cells lie on 2 planes or frames"):
        read(path)
    path = roi_zip(tmp_path / "b.zip", polygon(SQUARE, position=2), polygon(LATER, position=2))
    np.testing.assert_array_equal(read(path).labels, squares())
    planes = [feature(SQUARE, plane={"z": z, "t": 0}) for z in (0, 3)]
    with pytest.raises(InputError, match="its cells lie on 2 planes or frames"):
        read(geojson(tmp_path / "a.geojson", *planes))


def test_without_cells(tmp_path):
    assert not read(geojson(tmp_path / "a.geojson")).labels.any()
    assert not read(roi_zip(tmp_path / "a.zip", polygon(SQUARE, kind=ROI_TYPE.POINT))).labels.any()


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read(tmp_path / "a.zip")
