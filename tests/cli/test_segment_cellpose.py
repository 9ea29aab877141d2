"""cellkit segment --compat cellpose: the files that a pipeline around Cellpose looks for."""

from __future__ import annotations

import io
import tarfile

import imageio.v3 as iio
import numpy as np
import pytest

from cellkit.cli.segment_cellpose import CellposeFolder
from cellkit.data.layouts import find_pairs
from cellkit.data.seg_npy import SegFile
from cellkit.io.histories import read_history
from cellkit.io.labels import LabelRows, read_labels


@pytest.fixture
def folder(crops, tmp_path):
    """Two images alone."""
    root = tmp_path / "in"
    root.mkdir()
    for path in sorted((crops / "images").iterdir())[:2]:
        iio.imwrite(root / path.name, iio.imread(path))
    return root


def state(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def content_of(path):
    return np.load(path, allow_pickle=True).item()


def test_masks_and_seg_files_lie_beside_the_images(cellkit, folder):
    images = state(folder)
    done = cellkit("segment", folder, "-o", folder, "--compat", "cellpose")
    assert (done.code, done.err) == (0, "")
    keys = [name.removesuffix(".png") for name in images]
    assert set(state(folder)) == {f"{key}{end}" for key in keys for end in (".png", "_cp_masks.tif", "_seg.npy")}
    for key in keys:
        masks = read_labels(str(folder / f"{key}_cp_masks.tif")).labels
        content = content_of(folder / f"{key}_seg.npy")
        assert masks.max() > 0
        np.testing.assert_array_equal(content["masks"], masks)
        np.testing.assert_array_equal(SegFile(str(folder / f"{key}_seg.npy")).read().labels, masks)
        assert ((content["outlines"] == masks) | (content["outlines"] == 0)).all()
        assert content["filename"] == f"{key}.png"
        assert (content["chan_choose"], len(content["ismanual"])) == ([0, 0], masks.max())
        assert content["est_diam"] > 1
        assert "flows" not in content
        assert [record.verb for record in read_history(folder / f"{key}_cp_masks.tif")] == ["segment"]


def test_a_second_run_takes_neither_for_an_image_and_changes_nothing(cellkit, folder):
    command = ("segment", folder, "-o", folder, "--compat", "cellpose")
    assert cellkit(*command).code == 0
    before = state(folder)
    done = cellkit(*command, "--json")
    assert (done.code, done.text.count("up to date"), done.text.count("\n")) == (0, 2, 2)
    assert state(folder) == before
    assert "exists already" in cellkit(*command, "--on-exists", "error").err


def test_a_run_that_was_stopped_between_the_two_goes_on(cellkit, folder):
    command = ("segment", folder, "-o", folder, "--compat", "cellpose")
    assert cellkit(*command).code == 0
    before = state(folder)
    (folder / next(name for name in before if name.endswith("_cp_masks.tif"))).unlink()
    done = cellkit(*command)
    assert (done.code, done.err) == (0, "")
    assert {name: data for name, (data, _) in state(folder).items()} == {n: data for n, (data, _) in before.items()}


def test_what_somebody_drew_is_not_overwritten(cellkit, folder):
    image = next(folder.iterdir())
    drawn = folder / f"{image.stem}_seg.npy"
    np.save(drawn, {"masks": np.ones((96, 96), np.uint16), "outlines": 0}, allow_pickle=True)
    before = drawn.read_bytes()
    command = ("segment", image, "-o", folder, "--compat", "cellpose")
    done = cellkit(*command)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"{drawn}: exists and was not made by cellkit (add --on-exists overwrite" in done.err
    assert drawn.read_bytes() == before
    assert cellkit(*command, "--on-exists", "overwrite").code == 0
    assert drawn.read_bytes() != before


def test_what_somebody_corrected_stays(cellkit, folder):
    command = ("segment", folder, "-o", folder, "--compat", "cellpose")
    assert cellkit(*command).code == 0
    for seg in folder.glob("*_seg.npy"):
        content = content_of(seg)
        del content["cellkit"]
        np.save(seg, content, allow_pickle=True)
    before = state(folder)
    assert cellkit(*command).code == 0
    assert state(folder) == before


def test_other_settings_are_said(cellkit, folder):
    command = ("segment", folder, "-o", folder, "--compat", "cellpose")
    assert cellkit(*command).code == 0
    done = cellkit(*command, "--diameter", "40")
    assert done.code == 2
    assert "made by other settings" in done.err
    for masks in folder.glob("*_cp_masks.tif"):
        masks.unlink()
    done = cellkit(*command, "--diameter", "40")
    assert done.code == 2
    assert "_seg.npy: was made by other settings" in done.err


def test_in_another_folder_the_image_is_named_with_its_path(cellkit, folder, tmp_path):
    assert cellkit("segment", folder, "-o", tmp_path / "out", "--compat", "cellpose", "--suffix", ".png").code == 0
    for image in folder.iterdir():
        assert content_of(tmp_path / "out" / f"{image.stem}_seg.npy")["filename"] == str(image)
        assert iio.imread(tmp_path / "out" / f"{image.stem}_cp_masks.png").max() > 0


def test_images_of_a_stream_are_named_bare(cellkit, folder, tmp_path):
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as tar:
        tar.add(folder, arcname="in")
    done = cellkit("segment", "-", "-o", tmp_path / "out", "--compat", "cellpose", stdin=memory.getvalue())
    assert (done.code, done.err) == (0, "")
    for image in folder.iterdir():
        assert content_of(tmp_path / "out" / f"{image.stem}_seg.npy")["filename"] == image.name


def test_the_result_is_a_layout_of_annotated_images(cellkit, folder):
    assert cellkit("segment", folder, "-o", folder, "--compat", "cellpose").code == 0
    assert [pair.key for pair in find_pairs(str(folder)).pairs] == [path.stem for path in sorted(folder.glob("*.png"))]


def test_dry_run_says_the_names(cellkit, folder):
    done = cellkit("segment", folder, "-o", folder, "--compat", "cellpose", "--dry-run")
    assert done.code == 0
    assert done.text.count("_cp_masks.tif") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-o", "-"), "give -o DIR/"),
        (("-o", "cells.tif"), "give -o DIR/"),
        (("-o", "out", "--suffix", ".h5"), "Cellpose writes no masks as '.h5' (choose .tif or .png)"),
    ],
)
def test_outputs_that_cellpose_does_not_have(cellkit, folder, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    done = cellkit("segment", folder, "--compat", "cellpose", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_images_that_are_done_by_bands_have_masks_alone(tmp_path, caplog):
    labels = np.kron(np.arange(1, 5, dtype=np.int32).reshape(2, 2), np.ones((3, 3), np.int32))
    rows = LabelRows(key="a", source="in/a.tif", rows=(labels[:2], labels[2:]), shape=labels.shape, count=4)
    with CellposeFolder(tmp_path, "_cp_masks.tif", "skip") as sink, caplog.at_level("WARNING"):
        sink.write(rows)
    np.testing.assert_array_equal(read_labels(str(tmp_path / "a_cp_masks.tif")).labels, labels)
    assert not (tmp_path / "a_seg.npy").exists()
    assert "in/a.tif: too large for a _seg.npy; there are masks alone" in caplog.text
    with CellposeFolder(tmp_path, "_cp_masks.tif", "skip") as sink:
        assert sink.is_done("a", rows.history)


def test_an_input_is_never_overwritten(cellkit, folder):
    image = next(folder.iterdir())
    taken = folder / f"{image.stem}_cp_masks.tif"
    iio.imwrite(taken, iio.imread(image))
    done = cellkit("segment", image, taken, "-o", folder, "--compat", "cellpose", "--on-exists", "overwrite")
    assert done.code == 2
    assert "place of an input" in done.err
