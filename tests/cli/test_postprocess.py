"""cellkit postprocess: settings without the network, kinds of outputs, what is up to date."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cellkit.config import RepresentationSpec
from cellkit.io.labels import read_labels
from cellkit.io.maps import Prediction, PredictionWriter
from cellkit.representations.flow import FLOW_SCALE, targets


@pytest.fixture
def maps(tmp_path, two_touching_cells, cell_on_border, empty_field):
    """A folder of perfect predictions of three situations."""
    folder = tmp_path / "maps"
    folder.mkdir()
    fields = {"two_touching_cells": two_touching_cells, "cell_on_border": cell_on_border, "empty_field": empty_field}
    for key, labels in fields.items():
        perfect = targets(labels)
        perfect[:2] *= FLOW_SCALE
        perfect[2] = np.where(labels > 0, 6, -6)
        prediction = Prediction(
            key=key,
            maps=perfect.astype(np.float16),
            representation=RepresentationSpec(name="flow"),
            source=f"{key}.tif",
            shape=labels.shape,
            axes="YX",
            scale=1.0,
            pixel_size=0.5,
            history=(),
            diameter=None,
        )
        with PredictionWriter(folder / f"{key}.h5") as writer:
            writer.write(prediction)
    return folder


def counts(folder) -> dict[str, int]:
    return {path.stem: read_labels(str(path)).count for path in folder.glob("*.tif")}


def test_cells_of_perfect_maps(cellkit, tmp_path, maps, two_touching_cells):
    done = cellkit("postprocess", maps, "-o", f"{tmp_path / 'out'}/")
    assert (done.code, done.err, done.out) == (0, "", b"")
    assert counts(tmp_path / "out") == {"two_touching_cells": 2, "cell_on_border": 2, "empty_field": 0}
    found = read_labels(str(tmp_path / "out" / "two_touching_cells.tif"))
    assert (found.labels == two_touching_cells).mean() > 0.99
    assert found.pixel_size == pytest.approx(0.5)
    assert found.scores.shape == (2,)


def test_settings_change_cells_and_history(cellkit, tmp_path, maps):
    command = ("postprocess", maps, "-o", f"{tmp_path / 'out'}/", "--exclude-on-edges")
    assert cellkit(*command).code == 0
    assert counts(tmp_path / "out")["cell_on_border"] == 1
    record = read_labels(str(tmp_path / "out" / "cell_on_border.tif")).history[-1]
    assert (record.verb, record.arguments) == ("postprocess", {"exclude_border": True})
    other = cellkit("postprocess", maps, "-o", f"{tmp_path / 'out'}/")
    assert other.code == 2
    assert "--on-exists overwrite" in other.err
    again = cellkit(*command, "--json")
    assert {json.loads(line)["status"] for line in again.text.splitlines()} == {"up to date"}


def test_workers_do_not_change_a_byte(cellkit, tmp_path, maps):
    found = []
    for workers in (0, 1, 2):
        out = tmp_path / str(workers)
        assert cellkit("postprocess", maps, "-o", f"{out}/", "-j", workers).code == 0
        found.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert len(found[0]) == 3
    assert found[0] == found[1] == found[2]


def test_bad_prediction_costs_itself(cellkit, tmp_path, maps):
    (maps / "bad.h5").write_bytes((maps / "empty_field.h5").read_bytes()[:500])
    done = cellkit("postprocess", maps, "-o", f"{tmp_path / 'out'}/")
    assert done.code == 3
    assert done.err.splitlines()[-1].startswith(f"cellkit postprocess: error: {maps}: 1 of 4 images failed: bad (")
    assert len(counts(tmp_path / "out")) == 3
    assert (tmp_path / "out" / "failed.tsv").read_text().splitlines()[1].startswith("bad\t")


def test_wrong_settings_are_told_before_any_work(cellkit, tmp_path, maps):
    done = cellkit("postprocess", maps, "-o", f"{tmp_path / 'out'}/", "--set", "min_aera=3")
    assert (done.code, done.err) == (
        2,
        "cellkit postprocess: error: --set: there is no setting 'min_aera' here (did you mean min_area?)\n",
    )
    assert not (tmp_path / "out").exists()


def test_inputs_are_never_overwritten(cellkit, maps):
    done = cellkit("postprocess", maps, "-o", f"{maps}/", "--suffix", ".h5", "--overwrite")
    assert done.code == 2
    assert "its output would take its own place" in done.err


def test_what_is_no_input(cellkit, tmp_path, maps):
    (tmp_path / "empty").mkdir()
    none = cellkit("postprocess", tmp_path / "empty", "-o", f"{tmp_path / 'out'}/")
    assert (none.code, none.err.count("\n")) == (4, 1)
    assert "no prediction files (.h5) here" in none.err
    missing = cellkit("postprocess", tmp_path / "no.h5", "-o", f"{tmp_path / 'out'}/")
    assert missing.code == 5
    assert "no.h5: does not exist" in missing.err
    odd = cellkit("postprocess", maps, "-o", f"{tmp_path / 'out'}/", "--suffix", ".jpg")
    assert odd.err == (
        "cellkit postprocess: error: --suffix: label images are not written as '.jpg' (choose .tif, .png or .h5)\n"
    )
