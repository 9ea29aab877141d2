"""Bad input costs one line, the documented exit code, and nothing else."""

from __future__ import annotations

import io
import pickle
import tarfile

import h5py
import numpy as np
import pytest
import tifffile
import torch

from cellkit.io.atomic import lock


def good_image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 48), np.uint8)


def write_good(path):
    tifffile.imwrite(path, good_image())


def truncated(path):
    write_good(path)
    path.write_bytes(path.read_bytes()[:900])


def with_nan(path):
    image = good_image().astype(np.float32)
    image[3, 4] = np.nan
    tifffile.imwrite(path, image)


BAD = {
    "missing": (lambda path: None, "does not exist"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "truncated": (truncated, "truncated"),
    "text": (lambda path: path.write_text("hello, I am no image"), "not"),
    "stack": (
        lambda path: tifffile.imwrite(path, np.zeros((5, 40, 48), np.uint8), metadata={"axes": "ZYX"}),
        "--plane",
    ),
    "nan": (with_nan, "NaN"),
    "sixteen channels": (
        lambda path: tifffile.imwrite(path, np.ones((16, 40, 48), np.uint8), metadata={"axes": "CYX"}),
        "--channels",
    ),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("verb", ["segment", "predict"])
def test_one_bad_image_is_one_line_and_leaves_nothing(cellkit, tmp_path, model, verb, kind):
    make, word = BAD[kind]
    path = tmp_path / "bad.tif"
    make(path)
    output = tmp_path / "out.h5"
    done = cellkit(verb, path, "-m", model, "-o", output, "-q")
    assert done.code == 5
    assert done.err.count("\n") == 1
    assert done.err.startswith(f"cellkit {verb}: error: ")
    assert "bad.tif" in done.err
    assert word in done.err
    assert done.out == b""
    assert [p.name for p in tmp_path.iterdir() if p.name != "bad.tif"] == []


def test_bad_images_among_good_ones_cost_only_themselves(cellkit, tmp_path, model):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.tif", "z.tif"):
        write_good(folder / name)
    for kind in ("empty", "truncated", "text", "nan"):
        BAD[kind][0](folder / f"{kind}.tif")
    done = cellkit("segment", folder, "-m", model, "-o", f"{tmp_path / 'out'}/", "-q")
    assert done.code == 3
    assert "4 of 6 images failed" in done.err
    names = sorted(p.name for p in (tmp_path / "out").iterdir() if not p.name.startswith("."))
    assert names == ["a.tif", "failed.tsv", "z.tif"]
    rows = (tmp_path / "out" / "failed.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in rows if not row.startswith(("key", "#"))] == [
        "empty",
        "nan",
        "text",
        "truncated",
    ]


@pytest.mark.parametrize(
    "image",
    [
        np.full((40, 48), 7, np.uint16),
        np.zeros((40, 48), np.float32),
        np.ones((1, 1), np.uint8),
        np.arange(35, dtype=np.uint8).reshape(5, 7),
    ],
    ids=["constant", "black", "1x1", "5x7"],
)
def test_odd_images_are_no_errors(cellkit, tmp_path, model, image):
    path = tmp_path / "odd.tif"
    tifffile.imwrite(path, image)
    done = cellkit("segment", path, "-m", model, "-o", tmp_path / "labels.tif", "-q")
    assert (done.code, done.err) == (0, "")
    labels = tifffile.imread(tmp_path / "labels.tif")
    assert labels.shape == image.shape
    assert labels.dtype == np.uint16


def newer(path, model):
    content = torch.load(model, weights_only=True)
    content["format_version"] = 99
    torch.save(content, path)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def evil(path, model):
    torch.save({"weights": Evil(path.with_name("executed"))}, path)


def evil_plain(path, model):
    path.write_bytes(pickle.dumps(Evil(path.with_name("executed"))))


BAD_MODELS = {
    "text": (lambda path, model: path.write_text("hello"), "checkpoint"),
    "empty": (lambda path, model: path.write_bytes(b""), "empty"),
    "truncated": (lambda path, model: path.write_bytes(model.read_bytes()[:5000]), ""),
    "newer": (newer, "99"),
    "code": (evil, "checkpoint"),
    "plain pickle": (evil_plain, "checkpoint"),
    "missing": (lambda path, model: None, "bad.ckpt"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_model_is_one_line_and_nothing_is_executed(cellkit, tmp_path, model, kind):
    make, word = BAD_MODELS[kind]
    make(tmp_path / "bad.ckpt", model)
    write_good(tmp_path / "a.tif")
    done = cellkit("predict", tmp_path / "a.tif", "-m", tmp_path / "bad.ckpt", "-o", tmp_path / "out.h5", "-q")
    assert done.code == 5
    assert done.err.count("\n") == 1
    assert "bad.ckpt" in done.err
    assert word in done.err
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "out.h5").exists()


def test_unknown_model_name_lists_the_choices(cellkit, tmp_path):
    write_good(tmp_path / "a.tif")
    done = cellkit("predict", tmp_path / "a.tif", "-m", "nucleus", "-o", tmp_path / "out.h5", "-q")
    assert done.code == 5
    assert "nuclei" in done.err


def test_an_image_is_no_checkpoint(cellkit, tmp_path):
    write_good(tmp_path / "a.tif")
    done = cellkit("predict", tmp_path / "a.tif", "-m", tmp_path / "a.tif", "-o", tmp_path / "out.h5")
    assert done.code == 5
    assert done.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


def test_hdf5_without_predictions(cellkit, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["raw"] = good_image()
    done = cellkit("postprocess", tmp_path / "other.h5", "-o", f"{tmp_path / 'out'}/", "-q")
    assert done.code == 5
    assert done.err.count("\n") == 1
    assert "other.h5" in done.err


def test_cut_stream_fails_and_whole_one_does_not(cellkit, tmp_path, model):
    write_good(tmp_path / "a.tif")
    stream = cellkit("predict", tmp_path / "a.tif", "-m", model, "-o", "-", "-q")
    assert stream.code == 0
    whole = cellkit("postprocess", "-", "-o", f"{tmp_path / 'out'}/", "-q", stdin=stream.out)
    assert whole.code == 0
    for cut in (0, 100, 512, 1024, 5000, len(stream.out) // 2, len(stream.out) - 1100, len(stream.out) - 1):
        done = cellkit("postprocess", "-", "-o", f"{tmp_path / f'cut{cut}'}/", "-q", stdin=stream.out[:cut])
        assert done.code == 5, cut
        assert done.err.count("\n") == 1


@pytest.mark.parametrize("name", ["../x.tif", "/x.tif", "a/../../x.tif"])
def test_member_that_leaves_the_folder_is_refused(cellkit, tmp_path, model, name):
    buffer, image = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(image, good_image())
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(image.getvalue())
        tar.addfile(member, io.BytesIO(image.getvalue()))
    output = tmp_path / "deep" / "out"
    done = cellkit("segment", "-", "-m", model, "-o", f"{output}/", "-q", stdin=buffer.getvalue())
    assert done.code == 5
    assert not list(tmp_path.rglob("*x.tif"))


def test_key_that_leaves_the_folder_is_refused(cellkit, tmp_path, model):
    write_good(tmp_path / "a.tif")
    assert cellkit("predict", tmp_path / "a.tif", "-m", model, "-o", tmp_path / "p.h5", "-q").code == 0
    with h5py.File(tmp_path / "p.h5", "a") as file:
        name = next(n for n in file if isinstance(file[n], h5py.Group))
        if "maps" not in file[name]:
            name = f"{name}/{next(iter(file[name]))}"
        file.move(name, "..x")  # HDF5 has no '..' of its own; a hidden name is refused as well
    done = cellkit("postprocess", tmp_path / "p.h5", "-o", f"{tmp_path / 'out'}/", "-q")
    assert done.code == 5
    assert not (tmp_path / "out" / "..x.tif").exists()


def test_full_disk_on_a_stream(cellkit, tmp_path, model, monkeypatch):
    write_good(tmp_path / "a.tif")
    import cellkit.io.atomic as atomic

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    done = cellkit("segment", tmp_path / "a.tif", "-m", model, "-o", f"{tmp_path / 'out'}/", "-q")
    assert done.code == 3
    assert "no space is left on the device" in done.err
    assert not list((tmp_path / "out").rglob("*.tif"))


def test_output_folder_that_cannot_be_made(cellkit, tmp_path, model):
    write_good(tmp_path / "a.tif")
    (tmp_path / "file").write_text("")
    done = cellkit("segment", tmp_path / "a.tif", "-m", model, "-o", f"{tmp_path / 'file' / 'out'}/", "-q")
    assert done.code in (2, 3)
    assert done.err.count("\n") == 1


def test_output_of_other_settings_is_not_overwritten(cellkit, tmp_path, model):
    write_good(tmp_path / "a.tif")
    command = ("segment", tmp_path / "a.tif", "-m", model, "-o", tmp_path / "labels.tif", "-q")
    assert cellkit(*command).code == 0
    before = (tmp_path / "labels.tif").read_bytes()
    refused = cellkit(*command, "--diameter", "60")
    assert refused.code == 2
    assert "--on-exists overwrite" in refused.err
    assert (tmp_path / "labels.tif").read_bytes() == before
    assert cellkit(*command, "--diameter", "60", "--overwrite").code == 0


def test_finished_run_does_nothing(cellkit, tmp_path, model):
    write_good(tmp_path / "a.tif")
    command = ("segment", tmp_path / "a.tif", "-m", model, "-o", f"{tmp_path / 'out'}/")
    assert cellkit(*command, "-q").code == 0
    stamp = (tmp_path / "out" / "a.tif").stat().st_mtime_ns
    again = cellkit(*command, "--json")
    assert again.code == 0
    assert '"up to date"' in again.text
    assert (tmp_path / "out" / "a.tif").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("name", ["two words.tif", "a.b.c.tif", "Zelle_äöü_細胞.tif", "-dash.tif"])
def test_names_are_kept(cellkit, tmp_path, model, name):
    folder = tmp_path / "in"
    folder.mkdir()
    write_good(folder / name)
    done = cellkit("segment", folder, "-m", model, "-o", f"{tmp_path / 'out'}/", "-q")
    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "out" / name).exists()
    stream = cellkit("segment", folder, "-m", model, "-o", "-", "-q")
    with tarfile.open(fileobj=io.BytesIO(stream.out)) as tar:
        assert name in tar.getnames()


def test_second_run_on_one_folder_is_told(cellkit, tmp_path, model):
    write_good(tmp_path / "a.tif")
    out = tmp_path / "out"
    out.mkdir()
    command = ("segment", tmp_path / "a.tif", "-m", model, "-o", f"{out}/", "-q")
    assert cellkit(*command).code == 0
    with lock(out):
        done = cellkit(*command)
    assert done.code == 75
    assert done.err.count("\n") == 1


def test_nothing_matched(cellkit, tmp_path, model):
    (tmp_path / "in").mkdir()
    done = cellkit("segment", tmp_path / "in", "-m", model, "-o", f"{tmp_path / 'out'}/", "-q")
    assert done.code == 4
    assert done.err.count("\n") == 1


def test_device_that_is_not_there(cellkit, tmp_path, model):
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    write_good(tmp_path / "a.tif")
    done = cellkit("segment", tmp_path / "a.tif", "-m", model, "-o", tmp_path / "x.tif", "--device", "cuda", "-q")
    assert done.code == 2
    assert "cuda" in done.err
    assert not (tmp_path / "x.tif").exists()
