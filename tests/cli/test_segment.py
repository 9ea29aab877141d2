"""cellkit segment: kinds of images, outputs, and runs that are interrupted and go on."""

from __future__ import annotations

import io
import json
import tarfile

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from cellkit.cli.app import TerminatedError
from cellkit.io.labels import read_labels
from cellkit.io.sinks import FolderSink


def grey(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (40, 48), np.uint8)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def as_tar(folder) -> bytes:
    """What 'tar c' makes of a folder."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as tar:
        tar.add(folder, arcname=folder.name)
    return memory.getvalue()


IMAGES = {
    "uint8": grey(),
    "uint16": grey().astype(np.uint16) * 200,
    "int32": grey().astype(np.int32) - 50,
    "float32": grey().astype(np.float32) / 255,
    "rgb": np.stack([grey(0), grey(1), grey(2)], axis=2),
    "rgba": np.stack([grey(0), grey(1), grey(2), np.full_like(grey(), 255)], axis=2),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_every_kind_of_pixels(cellkit, tmp_path, kind):
    photometric = "rgb" if kind.startswith("rgb") else "minisblack"
    extra = {"extrasamples": ["unassalpha"]} if kind == "rgba" else {}
    tifffile.imwrite(tmp_path / "a.tif", IMAGES[kind], photometric=photometric, **extra)
    done = cellkit("segment", tmp_path / "a.tif", "-o", tmp_path / "labels.tif", "-q")
    assert (done.code, done.err, done.out) == (0, "", b"")
    labels = tifffile.imread(tmp_path / "labels.tif")
    assert (labels.shape, labels.dtype) == ((40, 48), np.uint16)


def test_pixel_size_of_an_imagej_hyperstack_stays(cellkit, tmp_path, model):
    resolution = {"resolution": (4.0, 4.0), "metadata": {"unit": "um", "axes": "YX"}}
    tifffile.imwrite(tmp_path / "a.tif", grey(), imagej=True, **resolution)
    assert cellkit("segment", tmp_path / "a.tif", "-m", model, "-o", tmp_path / "l.tif", "-q").code == 0
    assert read_labels(str(tmp_path / "l.tif")).pixel_size == pytest.approx(0.25)


def test_frames_of_a_time_series_are_images(cellkit, tmp_path, model):
    series = np.stack([grey(i) for i in range(3)])
    tifffile.imwrite(tmp_path / "film.tif", series, photometric="minisblack", metadata={"axes": "TYX"})
    command = ("segment", tmp_path / "film.tif", "-m", model, "-q")
    assert cellkit(*command, "-o", f"{tmp_path / 'out'}/").code == 0
    assert names(tmp_path / "out") == ["film_t000.tif", "film_t001.tif", "film_t002.tif"]
    one_file = cellkit(*command, "-o", tmp_path / "labels.tif")
    assert one_file.code == 2
    assert "takes one image" in one_file.err
    assert not (tmp_path / "labels.tif").exists()


def test_dataset_of_an_hdf5_file(cellkit, tmp_path, model):
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["deep/raw"] = grey()
        file["other"] = grey(1)
    one = cellkit("segment", f"{tmp_path / 'in.h5'}::/deep/raw", "-m", model, "-o", f"{tmp_path / 'one'}/", "-q")
    assert (one.code, names(tmp_path / "one")) == (0, ["in.tif"])
    both = cellkit("segment", tmp_path / "in.h5", "-m", model, "-o", f"{tmp_path / 'both'}/", "-q")
    assert (both.code, names(tmp_path / "both")) == (0, ["in_deep_raw.tif", "in_other.tif"])


@pytest.mark.parametrize("suffix", [".png", ".h5"])
def test_kinds_of_label_files_hold_the_same(cellkit, tmp_path, crops, suffix):
    command = ("segment", crops / "images", "-q")
    assert cellkit(*command, "-o", f"{tmp_path / 'tif'}/").code == 0
    assert cellkit(*command, "-o", f"{tmp_path / 'other'}/", "--suffix", suffix).code == 0
    for path in (tmp_path / "tif").iterdir():
        other = read_labels(str(tmp_path / "other" / (path.stem + suffix)))
        assert np.array_equal(read_labels(str(path)).labels, other.labels)


def test_workers_do_not_change_a_byte(cellkit, tmp_path, crops):
    found = []
    for workers in (0, 1, 2):
        out = tmp_path / str(workers)
        assert cellkit("segment", crops / "images", "-o", f"{out}/", "-j", workers, "-q").code == 0
        found.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert found[0]
    assert found[0] == found[1] == found[2]


def test_plain_tar_is_the_folder(cellkit, tmp_path, crops):
    (crops / "README.txt").write_text("not an image")
    stream = cellkit("segment", "-", "-o", f"{tmp_path / 'stream'}/", "-q", stdin=as_tar(crops))
    assert (stream.code, stream.err) == (0, "")
    assert cellkit("segment", crops, "-o", f"{tmp_path / 'folder'}/", "-q").code == 0
    assert names(tmp_path / "stream") == names(tmp_path / "folder")
    for path in (tmp_path / "folder").iterdir():
        assert path.read_bytes() == (tmp_path / "stream" / path.name).read_bytes()


def test_rerun_from_a_stream_tells_images_apart(cellkit, tmp_path, model):
    for number in (0, 1):
        (tmp_path / "in").mkdir(exist_ok=True)
        iio.imwrite(tmp_path / "in" / "a.png", grey(number))
        command = ("segment", "-", "-m", model, "-o", f"{tmp_path / 'out'}/", "--json")
        done = cellkit(*command, "-q", stdin=as_tar(tmp_path / "in"))
        assert done.code == 2 * number
    assert "was made by other settings or of another input" in done.err


@pytest.mark.parametrize(
    ("stop", "code", "word"), [(KeyboardInterrupt, 130, "interrupted"), (TerminatedError, 143, "terminated")]
)
def test_interrupted_run_goes_on(cellkit, tmp_path, crops, monkeypatch, stop, code, word):
    write, written = FolderSink.write, []

    def stop_at_the_third(self, item):
        if len(written) == 2:
            raise stop
        written.append(item.key)
        write(self, item)

    command = ("segment", crops / "images", "-o", f"{tmp_path / 'out'}/", "--json", "-q")
    with monkeypatch.context() as patch:
        patch.setattr(FolderSink, "write", stop_at_the_third)
        stopped = cellkit(*command)
    assert stopped.code == code
    assert stopped.err == f"cellkit segment: error: {word} (run the same command again to go on)\n"
    assert names(tmp_path / "out") == sorted(f"{key}.tif" for key in written)  # no parts, no lock
    resumed = [json.loads(line) for line in cellkit(*command).text.splitlines()]
    assert [line["status"] for line in resumed] == ["up to date", "up to date", "done", "done"]


def test_json_has_a_line_per_image(cellkit, tmp_path, crops):
    (tmp_path / "bad.tif").write_bytes(b"no image")
    one = crops / "images" / "56d0da5b663ddd49.png"
    done = cellkit("segment", one, tmp_path / "bad.tif", "-o", f"{tmp_path / 'out'}/", "--json", "-q")
    good, bad = [json.loads(line) for line in done.text.splitlines()]
    assert done.code == 3
    cells = read_labels(str(tmp_path / "out" / "56d0da5b663ddd49.tif")).count
    assert good == {"key": "56d0da5b663ddd49", "source": str(one), "status": "done", "cells": cells}
    assert cells > 0
    assert (bad["key"], bad["status"]) == ("bad", "failed")
    assert "is not an image" in bad["error"]


def test_json_and_a_stream_do_not_share_stdout(cellkit, crops):
    done = cellkit("segment", crops / "images", "-o", "-", "--json")
    assert (done.code, done.out) == (2, b"")
    assert "stdout carries the tar stream already" in done.err


def test_dry_run_shows_the_reading_and_writes_nothing(cellkit, tmp_path, crops):
    tifffile.imwrite(tmp_path / "film.tif", np.zeros((2, 40, 48), np.uint16), metadata={"axes": "TYX"})
    grey_png = crops / "images" / "2cfa61bef6542dd3.png"
    command = ("segment", grey_png, tmp_path / "film.tif", "--dry-run")
    done = cellkit(*command, "-o", f"{tmp_path / 'out'}/")
    assert (done.code, done.err) == (0, "")
    first, second = done.text.splitlines()
    assert first == f"{grey_png}\tYX 96x96 uint8\t-> {tmp_path / 'out' / '2cfa61bef6542dd3.tif'}"
    assert second == f"{tmp_path / 'film.tif'}\tTYX 2x40x48 uint16\t2 frames\t-> {tmp_path / 'out' / 'film_t000.tif'}"
    assert names(tmp_path) == ["film.tif"]
    assert "-> stdout: film_t000.tif" in cellkit(*command, "-o", "-").text
    assert f"-> {tmp_path / 'all.h5'}::/film_t000" in cellkit(*command, "-o", tmp_path / "all.h5").text


def test_dry_run_of_a_stream_and_of_bad_images(cellkit, tmp_path, crops):
    done = cellkit("segment", "-", "-o", f"{tmp_path / 'out'}/", "--dry-run", stdin=as_tar(crops / "images"))
    assert (done.code, done.text.count("\n")) == (0, 4)
    (tmp_path / "bad.tif").write_bytes(b"no image")
    bad = cellkit("segment", tmp_path / "bad.tif", "-o", f"{tmp_path / 'out'}/", "--dry-run")
    assert bad.code == 5
    assert "error: is not an image" in bad.text


def test_an_input_is_never_overwritten(cellkit, tmp_path, model):
    tifffile.imwrite(tmp_path / "a.tif", grey())
    before = (tmp_path / "a.tif").read_bytes()
    for output in (f"{tmp_path}/", tmp_path / "a.tif"):
        done = cellkit("segment", tmp_path / "a.tif", "-m", model, "-o", output, "--overwrite")
        assert done.code == 2
        assert done.err.endswith("a.tif: its output would take its own place (choose another -o)\n")
        assert (tmp_path / "a.tif").read_bytes() == before


def test_many_images_into_one_tiff_fail_before_any_work(cellkit, tmp_path, crops):
    done = cellkit("segment", crops / "images", "-m", "no-such-model", "-o", tmp_path / "all.tif")
    assert done.code == 2
    assert "takes one image, not 4 images (give a folder DIR/ or a FILE.h5)" in done.err


def test_outputs_of_other_settings_are_told_before_any_work(cellkit, tmp_path, model):
    for name in "abc":
        tifffile.imwrite(tmp_path / f"{name}.tif", grey())
    command = ("segment", "-m", model, "-o", f"{tmp_path / 'out'}/", "-q")
    assert cellkit(*command, tmp_path / "c.tif").code == 0
    done = cellkit(*command, *(tmp_path / f"{name}.tif" for name in "abc"), "--min-size", "3")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert names(tmp_path / "out") == ["c.tif"]
    stops = cellkit(*command, tmp_path / "a.tif", tmp_path / "c.tif", "--on-exists", "error")
    assert stops.code == 2
    assert "c.tif: exists already" in stops.err
    assert names(tmp_path / "out") == ["c.tif"]


def test_settings_are_checked_before_any_work(cellkit, tmp_path):
    done = cellkit("segment", tmp_path / "no.tif", "-o", f"{tmp_path / 'out'}/", "--set", "steps=0")
    assert (done.code, done.err) == (
        2,
        "cellkit segment: error: steps: cannot be 0 (give a whole number from 1 on)\n",
    )
    own = cellkit("segment", tmp_path / "no.tif", "-o", f"{tmp_path / 'out'}/", "--set", "tile=512")
    assert own.err == "cellkit segment: error: --set: 'tile' has an option of its own (use --tile)\n"
    size = cellkit("segment", tmp_path / "no.tif", "-o", f"{tmp_path / 'out'}/", "--diameter", "inf")
    assert size.err == "cellkit segment: error: --diameter: inf is no size (give pixels, e.g. 30)\n"
    empty = cellkit("segment", tmp_path / "no.tif", "-o", "x.tif", "--channels", "0,")
    assert empty.err.startswith("cellkit segment: error: --channels: an empty channel (write e.g.")


def test_settings_are_listed(cellkit):
    listed = cellkit("segment", "--settings")
    assert (listed.code, listed.err) == (0, "")
    assert "min_area=15\tpixels; smaller cells are dropped.\n" in listed.text
    assert "oom_fallback=none\t" in listed.text
    assert "tile=" not in listed.text


def test_verbose_says_what_runs(cellkit, tmp_path, crops):
    image = crops / "images" / "356d9903d16074f1.png"
    done = cellkit("segment", image, "-o", tmp_path / "l.tif", "-v", "--diameter", "60", "--device", "cpu")
    device, what, cells, summary = done.err.splitlines()
    assert device.startswith("cellkit segment: device: cpu (")
    assert what.startswith("cellkit segment: model: nuclei (")
    assert what.endswith("scale 0.5")
    count = read_labels(str(tmp_path / "l.tif")).count
    assert cells == f"cellkit segment: 356d9903d16074f1: {count} cells"
    assert summary.startswith("cellkit segment: 1 image: 1 done, 0 up to date, 0 failed")


def test_binary_is_refused_by_a_terminal(cellkit, crops):
    done = cellkit("segment", crops / "images", "-o", "-", "-q", terminal=True)
    assert done.code == 2
    assert done.err.endswith("-: refuse to write binary to a terminal (add > FILE, | COMMAND or -o DIR)\n")
    assert done.out == b""


def test_nothing_is_piped_in(cellkit, tmp_path):
    done = cellkit("segment", "-", "-o", f"{tmp_path / 'out'}/", terminal=True)
    assert done.code == 2
    assert "-: nothing is piped in" in done.err
    mixed = cellkit("segment", "-", "a.tif", "-o", f"{tmp_path / 'out'}/")
    assert "-: a stream cannot be mixed with files (give - alone)" in mixed.err


def test_empty_archive_is_no_input(cellkit, tmp_path, model):
    (tmp_path / "in").mkdir()
    done = cellkit("segment", "-", "-m", model, "-o", f"{tmp_path / 'out'}/", stdin=as_tar(tmp_path / "in"))
    assert done.code == 4
    assert (
        done.err
        == "cellkit segment: error: -: no image came (give image files, folders, or a tar stream with images)\n"
    )


def test_python_is_the_same_door(cellkit, tmp_path, crops):
    import cellkit as package

    image = crops / "images" / "2dd3356f2dcf470a.png"
    assert cellkit("segment", image, "-o", tmp_path / "l.tif", "-q").code == 0
    assert np.array_equal(package.segment(iio.imread(image)), tifffile.imread(tmp_path / "l.tif"))


def test_failures_are_told_once(cellkit, tmp_path, model):
    for name in "ab":
        (tmp_path / f"{name}.tif").write_bytes(b"no image")
    command = ("segment", "-m", model, "-o", f"{tmp_path / 'out'}/")
    alone = cellkit(*command, tmp_path / "a.tif")
    problem = "is not an image (TIFF, PNG, JPEG and HDF5 can be read)"
    assert (alone.code, alone.err) == (5, f"cellkit segment: error: {tmp_path / 'a.tif'}: {problem}\n")
    both = cellkit(*command, tmp_path / "a.tif", tmp_path / "b.tif")
    assert both.code == 3
    assert both.err == (
        f"cellkit segment: warning: {tmp_path / 'a.tif'}: {problem}\n"
        f"cellkit segment: warning: {tmp_path / 'b.tif'}: {problem}\n"
        f"cellkit segment: error: {tmp_path / 'a.tif'}, {tmp_path / 'b.tif'}: 2 of 2 images failed: a, b "
        "(failed.tsv says why)\n"
    )


def test_what_is_guessed_is_said_once(cellkit, tmp_path):
    (tmp_path / "in").mkdir()
    for name in "ab":
        path = tmp_path / "in" / f"{name}.tif"
        tifffile.imwrite(path, IMAGES["rgba"], photometric="rgb", extrasamples=["unassalpha"])
    done = cellkit("segment", tmp_path / "in", "-o", f"{tmp_path / 'out'}/")
    assert done.code == 0
    told = [line for line in done.err.splitlines() if "guessed" in line]
    assert told == [
        f"cellkit segment: warning: {tmp_path / 'in' / 'a.tif'}: guessed: opacity (alpha) is left out "
        "(said once; --dry-run tells for each image)"
    ]
