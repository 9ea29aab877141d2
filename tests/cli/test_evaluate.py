"""cellkit evaluate: pairs by name, reports, gates, and what cannot be scored."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import tifffile

from cellkit.io.label_hdf5 import LabelWriter
from cellkit.io.labels import read_labels


@pytest.fixture
def truth(tmp_path, two_touching_cells, crowded_field):
    """A folder with the labels of two images, a and b."""
    folder = tmp_path / "truth"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", two_touching_cells.astype(np.uint16))
    tifffile.imwrite(folder / "b.tif", crowded_field.astype(np.uint16))
    return folder


@pytest.fixture
def found(tmp_path, truth, two_touching_cells):
    """Predictions of both: a lacks its second cell, b is perfect."""
    folder = tmp_path / "found"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", np.where(two_touching_cells == 1, 1, 0).astype(np.uint16))
    (folder / "b.tif").write_bytes((truth / "b.tif").read_bytes())
    return folder


def test_json_is_one_document(cellkit, truth, found):
    done = cellkit("evaluate", truth, found, "--json")
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.text)
    assert report["n_images"] == 2
    assert [image["image"] for image in report["images"]] == ["a", "b"]
    assert [image["ap_dsb@0.5"] for image in report["images"]] == [0.5, 1.0]
    assert report["mean"]["ap_dsb@0.5"] == 0.75
    assert report["pooled"]["recall@0.5"] == 37 / 38


def test_table_is_for_people(cellkit, truth, found):
    done = cellkit("evaluate", truth, found)
    assert done.code == 0
    lines = {line.split()[0]: line.split()[1:] for line in done.text.splitlines()}
    assert lines["2"][0] == "images"
    assert lines["ap_dsb@0.5"][0] == "0.7500"
    assert "ctc/SEG" in lines
    assert "ap_dsb@0.55" not in lines


def test_csv_has_a_row_per_image(cellkit, tmp_path, truth, found):
    assert cellkit("evaluate", truth, found, "--csv", tmp_path / "scores.csv", "-q").code == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "scores.csv").read_text())))
    assert [(row["image"], float(row["ap_dsb@0.5"])) for row in rows] == [("a", 0.5), ("b", 1.0)]
    streamed = cellkit("evaluate", truth, found, "--csv", "-")
    assert list(csv.DictReader(io.StringIO(streamed.text))) == rows


def test_outputs_are_checked_before_any_work(cellkit, tmp_path, truth, found):
    both = cellkit("evaluate", truth, found, "--csv", "-", "--json")
    assert (both.code, both.text) == (2, "")
    assert (
        both.err == "cellkit evaluate: error: --csv: stdout carries the JSON already (write one of them into a file)\n"
    )
    nowhere = cellkit("evaluate", truth, found, "--csv", tmp_path / "no" / "scores.csv")
    assert (nowhere.code, nowhere.text) == (2, "")
    assert "its folder does not exist" in nowhere.err


def test_gates(cellkit, truth, found):
    command = ("evaluate", truth, found, "--json", "--fail-under")
    assert cellkit(*command, "ap_dsb@0.50=0.75").code == 0
    failed = cellkit(*command, "ap_dsb@0.5=0.76", "--fail-under", "pooled/recall@0.5=0.99")
    assert failed.code == 6
    assert json.loads(failed.text)["n_images"] == 2
    assert failed.err == (
        "cellkit evaluate: error: --fail-under: ap_dsb@0.5 is 0.7500, below 0.76; "
        "pooled/recall@0.5 is 0.9737, below 0.99\n"
    )


@pytest.mark.parametrize("gate", ["ap_dsb@0.5", "ap_dsb@0.5=high", "ap_dsb@0.5=nan"])
def test_gate_that_cannot_be_meant(cellkit, truth, found, gate):
    done = cellkit("evaluate", truth, found, "--fail-under", gate)
    assert (done.code, done.text) == (2, "")
    assert done.err == (
        f"cellkit evaluate: error: --fail-under: '{gate}' is no NAME=VALUE (e.g. --fail-under f1@0.5=0.8)\n"
    )


def test_unknown_metric_names_near_ones(cellkit, truth, found):
    done = cellkit("evaluate", truth, found, "--fail-under", "seg=0.5")
    assert done.code == 2
    assert "did you mean ctc/SEG?" in done.err


def test_missing_and_extra_images_are_told(cellkit, truth, found):
    (found / "b.tif").rename(found / "c.tif")
    done = cellkit("evaluate", truth, found, "--json")
    assert done.code == 3
    assert json.loads(done.text)["n_images"] == 1
    assert done.err == (
        f"cellkit evaluate: error: {found}: 2 images not scored: c: a prediction without truth; b: no prediction "
        "(--allow-missing passes over missing names)\n"
    )
    assert cellkit("evaluate", truth, found, "--allow-missing").code == 0


def test_other_shape_is_a_failure_whatever_is_allowed(cellkit, truth, found):
    tifffile.imwrite(found / "b.tif", np.ones((9, 9), np.uint16))
    done = cellkit("evaluate", truth, found, "--allow-missing", "--json")
    assert done.code == 3
    assert "1 image not scored: " in done.err
    assert "b.tif" in done.err or "b:" in done.err
    assert json.loads(done.text)["n_images"] == 1


def test_names_narrow_both_sides(cellkit, tmp_path, truth, found):
    (found / "c.tif").write_bytes((found / "b.tif").read_bytes())
    (tmp_path / "list.txt").write_text("# chosen\nb.tif\n")
    done = cellkit("evaluate", truth, found, "--names", tmp_path / "list.txt", "--json")
    assert done.code == 0
    assert [image["image"] for image in json.loads(done.text)["images"]] == ["b"]
    (tmp_path / "list.txt").write_text("z\n")
    unknown = cellkit("evaluate", truth, found, "--names", tmp_path / "list.txt")
    assert unknown.code == 2
    assert "no truth named z" in unknown.err


def test_two_files_need_no_common_name(cellkit, tmp_path, truth, found):
    done = cellkit("evaluate", truth / "a.tif", found / "b.tif", "--json")
    assert done.code == 5  # the shapes differ: they were compared
    (tmp_path / "mine.tif").write_bytes((found / "a.tif").read_bytes())
    done = cellkit("evaluate", truth / "a.tif", tmp_path / "mine.tif", "--json")
    assert (done.code, json.loads(done.text)["mean"]["ap_dsb@0.5"]) == (0, 0.5)


def test_names_of_other_tools_are_understood(cellkit, truth, found):
    for path in list(found.iterdir()):
        path.rename(found / f"{path.stem}_cp_masks.tif")
    assert cellkit("evaluate", truth, found).code == 0


def test_hdf5_on_both_sides(cellkit, tmp_path, truth, found):
    for name, folder in (("truth.h5", truth), ("found.h5", found)):
        with LabelWriter(tmp_path / name) as writer:
            for path in sorted(folder.iterdir()):
                writer.write(read_labels(str(path)))
    files = cellkit("evaluate", tmp_path / "truth.h5", tmp_path / "found.h5", "--json")
    assert files.code == 0
    assert json.loads(files.text)["mean"] == json.loads(cellkit("evaluate", truth, found, "--json").text)["mean"]


def test_nothing_to_score(cellkit, tmp_path, truth, found):
    other = tmp_path / "other"
    other.mkdir()
    (found / "a.tif").rename(other / "z.tif")
    done = cellkit("evaluate", truth, other)
    assert (done.code, done.text) == (4, "")
    assert done.err == (
        f"cellkit evaluate: error: {truth}, {other}: no pair to score, e.g. z: a prediction without truth "
        "(names must be equal but for suffixes)\n"
    )
    assert cellkit("evaluate", tmp_path / "no", found).code == 4
    assert cellkit("evaluate", truth, tmp_path / "no").code == 5


def test_workers_do_not_change_a_digit(cellkit, truth, found):
    texts = {cellkit("evaluate", truth, found, "--json", "-j", workers).text for workers in (0, 1, 2)}
    assert len(texts) == 1


def test_unreadable_prediction_is_named(cellkit, tmp_path, truth):
    (tmp_path / "a.tif").write_bytes(b"no labels")
    done = cellkit("evaluate", truth / "a.tif", tmp_path / "a.tif")
    assert done.code == 5
    assert done.err.startswith(f"cellkit evaluate: error: {tmp_path / 'a.tif'}: ")


def test_two_predictions_of_one_image(cellkit, truth, found):
    (found / "a.png").write_bytes((found / "a.tif").read_bytes())
    done = cellkit("evaluate", truth, found)
    assert done.code == 2
    assert "a second prediction of 'a' (give one prediction per image)" in done.err


def test_gates_of_distances_are_upper_limits(cellkit, truth, found):
    assert cellkit("evaluate", truth, found, "--csv", "-", "--fail-over", "hd95=50").code == 0
    failed = cellkit("evaluate", truth, found, "--csv", "-", "--fail-over", "asd=0")
    assert failed.code == 6
    assert "--fail-over: asd is " in failed.err
    assert "above 0" in failed.err
