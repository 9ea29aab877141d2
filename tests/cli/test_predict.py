"""cellkit predict, and the pipe of three stages: stream = folders = segment."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile

import h5py
import numpy as np

from cellkit.io.maps import read_predictions


def test_pipe_is_folders_is_segment(cellkit, tmp_path, crops):
    images, truth = crops / "images", crops / "labels"
    maps = cellkit("predict", images, "-m", "nuclei", "-o", "-", "-q")
    cells = cellkit("postprocess", "-", "-o", "-", "-q", stdin=maps.out)
    piped = cellkit("evaluate", truth, "-", "--json", "-q", stdin=cells.out)

    assert cellkit("predict", images, "-m", "nuclei", "-o", f"{tmp_path / 'maps'}/", "-q").code == 0
    assert cellkit("postprocess", tmp_path / "maps", "-o", f"{tmp_path / 'cells'}/", "-q").code == 0
    foldered = cellkit("evaluate", truth, tmp_path / "cells", "--json", "-q")

    assert cellkit("predict", images, "-m", "nuclei", "-o", tmp_path / "maps.h5", "-q").code == 0
    assert cellkit("postprocess", tmp_path / "maps.h5", "-o", tmp_path / "cells.h5", "-q").code == 0
    filed = cellkit("evaluate", truth, tmp_path / "cells.h5", "--json", "-q")

    assert cellkit("segment", images, "-m", "nuclei", "-o", f"{tmp_path / 'segment'}/", "-q").code == 0
    segmented = cellkit("evaluate", truth, tmp_path / "segment", "--json", "-q")

    assert (piped.code, piped.err) == (0, "")
    assert json.loads(piped.text)["mean"]["ap_dsb@0.5"] > 0.5
    assert piped.text == foldered.text == filed.text == segmented.text


def test_stream_holds_what_the_folder_does(cellkit, tmp_path, crops):
    command = ("predict", crops / "images" / "2cfa61bef6542dd3.png", "-q", "-o")
    assert cellkit(*command, f"{tmp_path / 'maps'}/").code == 0
    with tarfile.open(fileobj=io.BytesIO(cellkit(*command, "-").out)) as tar:
        assert tar.getnames() == ["__cellkit__.json", "2cfa61bef6542dd3.h5", "__end__.json"]
        (streamed,) = read_predictions(tar.extractfile("2cfa61bef6542dd3.h5").read(), "stream")
    (filed,) = read_predictions(tmp_path / "maps" / "2cfa61bef6542dd3.h5", "file")
    assert np.array_equal(streamed.maps[:], filed.maps[:])
    assert streamed.history == filed.history
    assert filed.history[0].input_digest is not None


def test_diameter_scales_the_maps(cellkit, tmp_path, crops, model):
    image = crops / "images" / "356d9903d16074f1.png"
    assert cellkit("predict", image, "-o", tmp_path / "a.h5", "--diameter", "60", "-q").code == 0
    (prediction,) = read_predictions(tmp_path / "a.h5", "a")
    assert (prediction.scale, prediction.diameter, prediction.shape) == (0.5, 60.0, (96, 96))
    assert prediction.maps.shape == (3, 48, 48)


def test_tiles_are_the_whole_but_for_rounding(cellkit, tmp_path, crops):
    image = crops / "images" / "356d9903d16074f1.png"
    common = ("predict", image, "--precision", "fp32", "-q")
    assert cellkit(*common, "-o", tmp_path / "whole.h5").code == 0
    assert cellkit(*common, "-o", tmp_path / "tiled.h5", "--tile", "88", "--overlap", "64").code == 0
    whole, tiled = (next(iter(read_predictions(tmp_path / f"{name}.h5", name))) for name in ("whole", "tiled"))
    difference = np.abs(whole.maps[:].astype(np.float32) - tiled.maps[:].astype(np.float32))
    assert difference.mean() < 0.1


def test_one_file_grows_by_new_images(cellkit, tmp_path, crops, model):
    first, *others = sorted((crops / "images").glob("*.png"))[:2]
    command = ("predict", "-o", tmp_path / "maps.h5", "--json", "-q")
    assert cellkit(*command, first).code == 0
    again = cellkit(*command, first, *others)
    assert [json.loads(line)["status"] for line in again.text.splitlines()] == ["up to date", "done"]
    with h5py.File(tmp_path / "maps.h5") as file:
        assert set(file) == {path.stem for path in (first, *others)}


def test_fallback_to_the_cpu_is_a_setting(cellkit, tmp_path, crops, model):
    image = crops / "images" / "2cfa61bef6542dd3.png"
    assert cellkit("predict", image, "-o", tmp_path / "a.h5", "--oom-fallback", "cpu", "-q").code == 0
    wrong = cellkit("predict", image, "-o", tmp_path / "b.h5", "--oom_fallback=gpu", "-q")
    assert wrong.code == 2
    assert wrong.err.startswith("cellkit predict: error: --set: oom_fallback=gpu is not one of cpu")


def test_tile_without_room_is_a_usage_error(cellkit, tmp_path, crops, model):
    image = crops / "images" / "2cfa61bef6542dd3.png"
    done = cellkit("predict", image, "-o", tmp_path / "a.h5", "--tile", "64", "-q")
    assert done.code == 2
    assert "leave no room beside an overlap" in done.err
    assert not (tmp_path / "a.h5").exists()


def test_maps_are_not_written_as_tiff(cellkit, tmp_path, crops):
    done = cellkit("predict", crops / "images", "-o", tmp_path / "a.tif")
    assert done.code == 2
    assert "maps are not written as this kind of file" in done.err


def test_reader_that_has_enough_ends_it_quietly(tmp_path, crops, model):
    command = f"{sys.executable} -m cellkit predict {crops / 'images'} -m {model} -o - | head -c 10 | wc -c"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "10", "")
