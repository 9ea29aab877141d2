"""What is known when an output is opened, before any work."""

import errno
import io
import os
import subprocess
import sys

import numpy as np
import pytest

from cellkit.errors import UsageError
from cellkit.io.labels import LabelImage
from cellkit.io.sinks import open_sink


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_empty_field(output, key):
    with open_sink(str(output), "labels") as sink:
        sink.write(LabelImage(key=key, labels=np.zeros((3, 4), np.int32)))


def test_more_images_than_have_room_are_known_before_the_work(tmp_path):
    with open_sink(str(tmp_path / "a.tif"), "labels") as sink:
        sink.expect(1)
        with pytest.raises(UsageError, match=r"takes one image, not 5 images \(give a folder DIR/ or a FILE\.h5\)"):
            sink.expect(5)
    for output in (f"{tmp_path}/", f"{tmp_path}/a.h5"):
        with open_sink(output, "labels") as sink:
            sink.expect(5)


@pytest.mark.parametrize("output", ["out/", "out.h5", "out.tif"])
def test_a_run_that_writes_nothing_leaves_nothing(tmp_path, output):
    with open_sink(f"{tmp_path}/{output}", "labels"):
        pass
    assert not any(tmp_path.iterdir())


def test_two_processes_at_once_on_one_folder(tmp_path):
    code = (
        "import sys\nfrom cellkit.errors import CellkitError\nfrom cellkit.io.sinks import open_sink\n"
        f"try:\n    open_sink({str(tmp_path)!r}, 'labels')\nexcept CellkitError as error:\n    sys.exit(error.code)"
    )
    with open_sink(str(tmp_path), "labels"):
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 75
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    code = (
        "import os, pathlib\nfrom cellkit.io.atomic import written_whole\n"
        f"with written_whole(pathlib.Path({str(tmp_path / 'a.tif')!r})):\n    os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(names(tmp_path)) == 1
    write_empty_field(f"{tmp_path}/", "b")
    assert names(tmp_path) == ["b.tif"]
    subprocess.run([sys.executable, "-c", code], check=False)
    write_empty_field(tmp_path / "a.tif", "a")
    assert names(tmp_path) == ["a.tif", "b.tif"]


@pytest.mark.parametrize(
    ("output", "kind", "text"),
    [
        (
            "none/out.tif",
            "labels",
            "could not be written: its folder does not exist (create it first, or check the path)",
        ),
        ("file/", "labels", "could not be written: a file has this name (choose another name)"),
        ("file/out", "labels", "could not be written: its folder is a file (check the path)"),
        (
            "out.jpg",
            "labels",
            "labels are not written as this kind of file (name a file with one of .tif, .tiff, .ome.tif, .ome.tiff, "
            ".png, .h5, .hdf5, or end the name of a folder with /)",
        ),
        (
            "out.tif",
            "maps",
            "maps are not written as this kind of file (name a file with one of .h5, .hdf5, or end the name of a "
            "folder with /)",
        ),
    ],
)
def test_outputs_that_cannot_be_meant(tmp_path, output, kind, text):
    (tmp_path / "file").write_text("text")
    path = tmp_path / output
    with pytest.raises(UsageError) as caught:
        open_sink(f"{tmp_path}/{output}", kind)
    assert str(caught.value) == f"{path}: {text}"
    assert names(tmp_path) == ["file"]


def test_an_empty_output():
    with pytest.raises(UsageError, match=r"--output: an empty name \(give DIR/, a file or -\)"):
        open_sink("", "labels")


def test_an_unknown_suffix(tmp_path):
    with pytest.raises(UsageError, match=r"--suffix: label images are not written as '\.jpg' \(choose \.tif, \.png or"):
        open_sink(f"{tmp_path}/", "labels", suffix=".jpg")


@pytest.mark.parametrize("output", ["", "new/", "a.h5", "a.tif"])
def test_a_read_only_folder_is_known_before_the_work(tmp_path, monkeypatch, output):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, "read-only")

    for name in ("open", "mkdir"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(io, "open", refuse)
    with pytest.raises(UsageError, match=r"could not be written: the file system is read-only \(write elsewhere"):
        open_sink(f"{tmp_path}/{output}", "labels")
