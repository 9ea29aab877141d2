"""cellkit evaluate on what people have: every layout on either side, and bad files, each with one line."""

from __future__ import annotations

import json
import shutil

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

FIELD = np.zeros((40, 50), np.uint16)
FIELD[2:12, 3:15] = 1
FIELD[20:30, 10:30] = 7  # ids have gaps
FIELD[20:30, 30:40] = 9
NOTHING = np.zeros_like(FIELD)


def scores(done) -> dict:
    assert done.code == 0, done.err
    return json.loads(done.text)["mean"]


def write(path, labels):
    tifffile.imwrite(path, labels)
    return path


@pytest.fixture
def truth(tmp_path):
    return write(tmp_path / "truth.tif", FIELD)


def test_gaps_and_kinds_of_numbers_change_nothing(cellkit, tmp_path, truth):
    best = scores(cellkit("evaluate", truth, truth, "--json"))
    assert (best["n_true"], best["ap_dsb"], best["hd95"], best["splits"]) == (3, 1.0, 0.0, 0)
    for kind in (np.uint8, np.int16, np.uint32, np.int32, np.int64, np.float32):
        found = write(tmp_path / f"{np.dtype(kind)}.tif", (FIELD * 3).astype(kind))
        assert scores(cellkit("evaluate", truth, found, "--json")) == best
    iio.imwrite(tmp_path / "p.png", FIELD)
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["labels"] = FIELD
    for name in ("p.png", "p.h5::/labels"):
        assert scores(cellkit("evaluate", truth, tmp_path / name, "--json")) == best


def test_empty_sides_are_defined(cellkit, tmp_path, truth):
    empty = write(tmp_path / "empty.tif", NOTHING)
    no_prediction = scores(cellkit("evaluate", truth, empty, "--json"))
    no_truth = scores(cellkit("evaluate", empty, truth, "--json"))
    neither = scores(cellkit("evaluate", empty, empty, "--json"))
    names = ("ap_dsb@0.5", "f1@0.5", "pq", "aji", "ctc/SEG", "iou", "hd95")
    assert [no_prediction[name] for name in names] == [0, 0, 0, 0, 0, 0, None]
    assert [no_truth[name] for name in names] == [0, 0, 0, 0, None, 0, None]
    assert [neither[name] for name in names] == [None, None, None, None, None, 1, 0]
    gate = cellkit("evaluate", empty, empty, "--csv", "-", "--fail-under", "f1@0.5=0")
    assert gate.code == 6
    assert "f1@0.5 is nan" in gate.err


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (-FIELD.astype(np.int16), "negative"),
        (FIELD * np.float32(0.5), "fractions"),
        (np.full(FIELD.shape, np.nan, np.float32), "NaN"),
        (np.stack([FIELD.astype(np.uint8)] * 3, axis=2), "colour"),
        (np.stack([FIELD] * 5), "3-D"),
        (FIELD[:, :-1], "49"),
    ],
    ids=["negative", "fractions", "nan", "rgb", "stack", "other shape"],
)
def test_what_is_no_such_label_image_is_one_line(cellkit, tmp_path, truth, labels, text):
    found = write(tmp_path / "found.tif", labels)
    for pair in ((truth, found), (found, truth)):
        done = cellkit("evaluate", *pair, "--json")
        assert (done.code, done.text) == (5, "")
        assert done.err.count("\n") == 1, done.err
        assert text in done.err


def test_one_bad_image_costs_one_image(cellkit, tmp_path):
    for folder in ("truth", "found"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            write(tmp_path / folder / f"{name}.tif", FIELD)
    (tmp_path / "found" / "b.tif").write_bytes(b"II*\0 cut")
    (tmp_path / "found" / "c.tif").unlink()
    write(tmp_path / "found" / "d.tif", FIELD)
    done = cellkit("evaluate", tmp_path / "truth", tmp_path / "found", "--json", "--html", tmp_path / "r.html")
    assert done.code == 3
    assert [image["image"] for image in json.loads(done.text)["images"]] == ["a"]
    for text in ("b.tif", "c: no prediction", "d: a prediction without truth"):
        assert text in done.err
        assert text in (tmp_path / "r.html").read_text()
    (tmp_path / "found" / "b.tif").unlink()
    assert cellkit("evaluate", tmp_path / "truth", tmp_path / "found", "--json", "--allow-missing").code == 0


def test_a_sequence_of_the_challenge(cellkit, tmp_path):
    for folder in ("01", "01_GT/SEG", "01_RES"):
        (tmp_path / folder).mkdir(parents=True)
    for frame in (2, 5):
        write(tmp_path / "01" / f"t{frame:03d}.tif", FIELD)
        write(tmp_path / "01_GT" / "SEG" / f"man_seg{frame:03d}.tif", FIELD)
    for frame in range(7):
        write(tmp_path / "01_RES" / f"mask{frame:03d}.tif", FIELD)
    for truth in (tmp_path, tmp_path / "01_GT"):
        report = cellkit("evaluate", truth, tmp_path / "01_RES", "--json")
        assert scores(report)["ctc/SEG"] == 1.0
        assert json.loads(report.text)["n_images"] == 2


def test_one_file_per_object_keeps_what_overlaps(cellkit, tmp_path):
    folder = tmp_path / "truth" / "field"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    iio.imwrite(folder / "images" / "field.png", FIELD.astype(np.uint8))
    worms = np.zeros((2, 40, 50), np.uint8)
    worms[0, 18:22, :] = 255
    worms[1, :, 23:27] = 255  # they cross
    for number, worm in enumerate(worms):
        iio.imwrite(folder / "masks" / f"{number}.png", worm)
    shutil.copytree(tmp_path / "truth", tmp_path / "same")
    report = json.loads(cellkit("evaluate", tmp_path / "truth", tmp_path / "same", "--json").text)
    assert report["pooled"]["coco/segm/AP"] == pytest.approx(1.0)
    assert report["mean"]["ap_dsb"] == 1.0
    (tmp_path / "flat").mkdir()
    write(tmp_path / "flat" / "field.tif", np.where(worms[1] > 0, 2, worms[0] > 0).astype(np.uint16))
    crossed = json.loads(cellkit("evaluate", tmp_path / "truth", tmp_path / "flat", "--json").text)
    assert (crossed["mean"]["ap_dsb@0.9"], crossed["mean"]["iou"]) == (1.0, 1.0)
    assert crossed["mean"]["ap_dsb"] == 1.0 - 0.1 * 2 / 3  # the cut worm fits by 0.92


def test_pixel_size_gives_micrometres(cellkit, tmp_path, truth):
    write(tmp_path / "found.tif", np.roll(FIELD, 2, axis=1))
    tifffile.imwrite(truth, FIELD, resolution=(2.0, 2.0), imagej=True, metadata={"unit": "um"})
    found = scores(cellkit("evaluate", truth, tmp_path / "found.tif", "--json"))
    assert found["hd95_um"] == pytest.approx(found["hd95"] / 2)
    assert "hd95" not in scores(cellkit("evaluate", truth, tmp_path / "found.tif", "--json", "--no-surfaces"))


def test_objects_have_a_row_each(cellkit, tmp_path, truth):
    found = write(tmp_path / "found.tif", np.where(FIELD == 7, 0, FIELD))
    done = cellkit("evaluate", truth, found, "--objects", "-")
    rows = [line.split(",") for line in done.text.splitlines()]
    assert rows[0] == ["image", "side", "id", "area", "matched_id", "best_id", "iou", "score"]
    assert [row[1:6] for row in rows[1:]] == [
        ["truth", "1", "120", "1", "1"],
        ["truth", "7", "200", "0", "0"],
        ["truth", "9", "100", "9", "9"],
        ["prediction", "1", "120", "1", "1"],
        ["prediction", "9", "100", "9", "9"],
    ]


def test_markdown_and_groups(cellkit, tmp_path):
    for folder in ("truth", "found"):
        (tmp_path / folder).mkdir()
        for name in "abcd":
            write(tmp_path / folder / f"{name}.tif", FIELD if folder == "truth" or name < "c" else NOTHING)
    (tmp_path / "plates.csv").write_text("image,plate\na.tif,one\nb,one\nc,two\n")
    both = ("evaluate", tmp_path / "truth", tmp_path / "found")
    grouped = json.loads(cellkit(*both, "--json", "--group-by", f"{tmp_path / 'plates.csv'}:plate").text)["groups"]
    assert {name: group["mean"]["ap_dsb"] for name, group in grouped.items()} == {"one": 1.0, "two": 0.0, "(none)": 0.0}
    assert grouped["one"]["pooled"]["coco/segm/AP"] == pytest.approx(1.0)
    text = cellkit(*both, "--markdown", "-", "--group-by", f"{tmp_path / 'plates.csv'}:plate").text
    assert "| `ap_dsb` |" in text
    assert "two" in text
    wrong = cellkit(*both, "--group-by", f"{tmp_path / 'plates.csv'}:well")
    assert (wrong.code, wrong.text) == (2, "")
    assert "columns: image, plate" in wrong.err
    assert cellkit(*both, "--group-by", "plates.csv").code == 2


def test_two_predictions_are_compared(cellkit, tmp_path):
    for folder in ("truth", "one", "two"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            labels = np.where(FIELD == 9, 0, FIELD) if (folder, name) == ("two", "b") else FIELD
            write(tmp_path / folder / f"{name}.tif", labels)
    done = cellkit("evaluate", tmp_path / "truth", "--compare", tmp_path / "one", tmp_path / "two", "--json")
    assert done.code == 0, done.err
    comparison = json.loads(done.text)["comparison"]
    assert comparison["metrics"]["recall@0.5"]["worse"] == 1
    assert [change["image"] for change in comparison["changed"]] == ["b"]
    for more in (("--html", tmp_path / "r.html"), ("--fail-under", "f1@0.5=0"), ("--group-by", "a.csv:b")):
        refused = cellkit("evaluate", tmp_path / "truth", "--compare", tmp_path / "one", tmp_path / "two", *more)
        assert (refused.code, refused.text) == (2, "")


def test_curves_are_fitted_alone(cellkit, tmp_path, truth):
    rows = "\n".join(f"{shots},{0.8 * shots / (2 + shots)}" for shots in (1, 2, 3, 5, 8))
    (tmp_path / "results.csv").write_text(f"shots,score\n{rows}\n")
    done = cellkit("evaluate", "--curve", tmp_path / "results.csv", "--json")
    assert done.code == 0, done.err
    (fit,) = json.loads(done.text)["shots"]
    assert (fit["b_max"], fit["k_d"]) == (pytest.approx(0.8), pytest.approx(2.0))
    assert cellkit("evaluate", truth, "--curve", tmp_path / "results.csv").code == 2
    assert cellkit("evaluate", truth).code == 2
