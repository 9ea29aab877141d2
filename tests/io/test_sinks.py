import errno
import io
import os
from dataclasses import replace

import h5py
import numpy as np
import pytest
import tifffile

from cellkit.config import RepresentationSpec
from cellkit.errors import InputError, LockedError, OutputError, UsageError
from cellkit.io.labels import LabelImage, LabelRows, read_label_images, read_labels
from cellkit.io.maps import Prediction, read_predictions
from cellkit.io.sinks import open_sink
from cellkit.io.streams import read_stream
from cellkit.provenance import Record

HISTORY = (Record(verb="segment", arguments={"tile": 256}, input_digest="ab"),)
OTHER = (Record(verb="segment", arguments={"tile": 512}, input_digest="ab"),)
KEYS = ["b 1.x", "größe", "a"]


def labels(key="a", history=HISTORY):
    plane = np.zeros((20, 30), np.int32)
    plane[2:9, 3 : 4 + len(key)] = 1
    return LabelImage(key=key, source=key + ".tif", labels=plane, history=history)


def maps(key="a", history=HISTORY):
    return Prediction(
        key=key,
        maps=np.full((3, 20, 30), len(key), np.float16),
        representation=RepresentationSpec(),
        source=key + ".tif",
        shape=(20, 30),
        history=history,
    )


MAKERS = {"labels": labels, "maps": maps}


def run(output, kind="labels", items=KEYS, history=HISTORY, **options):
    """Write what is not done, as a verb does; the keys written."""
    written = []
    with open_sink(str(output), kind, **options) as sink:
        for key in items:
            if not sink.is_done(key, history):
                sink.write(MAKERS[kind](key, history))
                written.append(key)
    return written


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def stdout(capsysbinary):
    """Gives what went to stdout, as a stream to read."""
    return lambda: io.BytesIO(capsysbinary.readouterr().out)


def test_a_folder_has_a_file_per_image(tmp_path):
    for kind, suffix in (("labels", ".tif"), ("maps", ".h5")):
        folder = tmp_path / "new" / kind
        assert run(f"{folder}/", kind) == KEYS
        assert names(folder) == sorted(key + suffix for key in KEYS)
    np.testing.assert_array_equal(read_labels(str(tmp_path / "new/labels/a.tif")).labels, labels().labels)
    (found,) = read_predictions(tmp_path / "new/maps/größe.h5", "größe.h5")
    assert (found.key, found.maps[0, 0, 0], found.history) == ("größe", 5, HISTORY)


def test_a_name_without_suffix_is_a_folder_and_an_existing_folder_too(tmp_path):
    run(tmp_path / "out")
    assert (tmp_path / "out" / "a.tif").exists()
    (tmp_path / "run.h5").mkdir()
    run(tmp_path / "run.h5")
    assert (tmp_path / "run.h5" / "a.tif").exists()


@pytest.mark.parametrize("suffix", [".png", ".h5", ".ome.tif"])
def test_label_files_of_another_kind(tmp_path, suffix):
    assert run(f"{tmp_path}/", suffix=suffix) == KEYS
    assert names(tmp_path) == sorted(key + suffix for key in KEYS)
    assert run(f"{tmp_path}/", suffix=suffix) == []


@pytest.mark.parametrize("output", ["out/", "out.h5"])
@pytest.mark.parametrize("kind", ["labels", "maps"])
def test_a_finished_run_does_nothing_and_an_interrupted_one_goes_on(tmp_path, output, kind):
    output = f"{tmp_path}/{output}"
    assert run(output, kind, KEYS[:2]) == KEYS[:2]
    assert run(output, kind, KEYS) == KEYS[2:]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert run(output, kind, KEYS) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == before


@pytest.mark.parametrize("output", ["out/", "out.h5", "out.tif", "out.png"])
def test_outputs_that_exist(tmp_path, output):
    output = f"{tmp_path}/{output}"
    run(output, items=["a"])
    file = next(path for path in tmp_path.rglob("*") if path.is_file())
    with pytest.raises(UsageError) as caught:
        run(output, items=["a"], history=OTHER)
    problem = "was made by other settings or of another input"
    assert str(caught.value) == f"{file}: {problem} (add --on-exists overwrite, or choose another -o)"
    with pytest.raises(UsageError) as caught:
        run(output, items=["a"], on_exists="error")
    expected = f"{file}: exists already (add --on-exists skip or overwrite, or choose another -o)"
    assert str(caught.value) == expected
    assert run(output, items=["a"], history=OTHER, on_exists="overwrite") == ["a"]
    assert run(output, items=["a"], history=OTHER) == []


@pytest.mark.parametrize("output", ["out/", "out.h5", "out.tif"])
def test_files_of_others_are_not_overwritten_without_a_word(tmp_path, output):
    file = tmp_path / "out" / "a.tif" if output == "out/" else tmp_path / output
    file.parent.mkdir(exist_ok=True)
    tifffile.imwrite(file, np.ones((3, 4), np.uint8))
    before = file.read_bytes()
    with pytest.raises(UsageError) as caught:
        run(f"{tmp_path}/{output}", items=["a"])
    expected = f"{file}: exists and was not made by cellkit (add --on-exists overwrite, or choose another -o)"
    assert str(caught.value) == expected
    assert file.read_bytes() == before
    assert run(f"{tmp_path}/{output}", items=["a"], on_exists="overwrite") == ["a"]


def test_arguments_compare_as_they_are_stored(tmp_path):
    history = (Record(verb="segment", arguments={"channels": (0, 1)}),)  # a tuple comes back as a list
    for output in (f"{tmp_path}/", f"{tmp_path}/a.h5"):
        assert run(output, items=["a"], history=history) == ["a"]
        assert run(output, items=["a"], history=history) == []


def test_one_file_for_many_images(tmp_path):
    run(tmp_path / "m.h5", "maps")
    assert [item.key for item in read_predictions(tmp_path / "m.h5", "m.h5")] == KEYS
    run(tmp_path / "l.h5", "labels")
    assert [item.key for item in read_label_images(str(tmp_path / "l.h5"))] == KEYS
    with h5py.File(tmp_path / "l.h5") as file:
        assert file["größe/labels"].dtype == np.uint16
    assert names(tmp_path) == ["l.h5", "m.h5"]


def test_overwriting_a_file_of_many_images_makes_a_new_one(tmp_path):
    run(tmp_path / "m.h5", "maps")
    run(tmp_path / "m.h5", "maps", ["a"], on_exists="overwrite")
    assert [item.key for item in read_predictions(tmp_path / "m.h5", "m.h5")] == ["a"]


def test_a_file_of_the_other_kind_is_not_touched(tmp_path):
    run(tmp_path / "a.h5", "maps")
    with pytest.raises(UsageError, match="exists and was not made by cellkit"):
        run(tmp_path / "a.h5", "labels")
    assert len(list(read_predictions(tmp_path / "a.h5", "a.h5"))) == 3


@pytest.mark.parametrize("output", ["out/", "out.h5"])
def test_two_images_of_one_name(tmp_path, output):
    with open_sink(f"{tmp_path}/{output}", "labels") as sink:
        sink.write(labels("a"))
        with pytest.raises(UsageError, match=r"two images have the name 'a' \(rename one of them\)"):
            sink.write(labels("a"))


def test_a_second_image_of_one_name_is_not_taken_for_done(tmp_path):
    with open_sink(f"{tmp_path}/", "labels") as sink:
        sink.write(labels("a"))
        with pytest.raises(UsageError, match="two images have the name 'a'"):
            sink.is_done("a", HISTORY)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_picture_takes_one_image(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    assert run(path, items=["x"]) == ["x"]
    np.testing.assert_array_equal(read_labels(str(path)).labels, labels("x").labels)
    path.unlink()
    with pytest.raises(UsageError) as caught:
        run(path, items=["x", "y"])
    problem = "a file of this kind takes one image, not 'x' and 'y'"
    assert str(caught.value) == f"{path}: {problem} (give a folder DIR/ or a FILE.h5)"
    assert not any(tmp_path.iterdir())


def test_a_second_image_refused_and_passed_over_is_an_error_all_the_same(tmp_path):
    def two():
        with open_sink(str(tmp_path / "a.tif"), "labels") as sink:
            sink.write(labels("x"))
            with pytest.raises(UsageError):
                sink.write(labels("y"))

    with pytest.raises(UsageError, match="takes one image"):
        two()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("output", "left"), [("deep/out/", ["a.tif"]), ("out.h5", []), ("out.tif", [])])
@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError, ValueError])
def test_an_interrupted_run_leaves_whole_files_alone(tmp_path, output, left, error):
    def interrupted():
        with open_sink(f"{tmp_path}/{output}", "labels") as sink:
            sink.write(labels("a"))
            raise error

    with pytest.raises(error):
        interrupted()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == left


def test_an_interrupted_run_keeps_the_old_file(tmp_path):
    run(tmp_path / "a.h5")
    before = (tmp_path / "a.h5").read_bytes()

    def interrupted():
        with open_sink(str(tmp_path / "a.h5"), "labels") as sink:
            sink.write(labels("new"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a.h5").read_bytes() == before
    assert names(tmp_path) == ["a.h5"]


@pytest.mark.parametrize("output", ["out/", "out.h5", "out.tif"])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, output):
    def refuse(descriptor):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match="no space is left on the device"):
        run(f"{tmp_path}/{output}", items=["a"])
    assert not any(tmp_path.iterdir())


def test_two_runs_at_once_on_one_folder(tmp_path):
    with open_sink(f"{tmp_path}/", "labels") as sink:
        sink.write(labels("a"))
        with pytest.raises(LockedError, match="another run is writing into this folder") as caught:
            open_sink(f"{tmp_path}/", "labels")
        assert caught.value.code == 75
    assert names(tmp_path) == ["a.tif"]


def test_failures_are_listed_in_the_folder(tmp_path):
    with open_sink(f"{tmp_path}/", "labels") as sink:
        sink.write(labels("a"))
        sink.record_failure("b", "in/b\t1.tif", "is\nempty")
        sink.record_failure("größe", "in/größe.tif", "is truncated")
    text = (tmp_path / "failed.tsv").read_text(encoding="utf-8")
    assert text == "key\tsource\treason\nb\tin/b 1.tif\tis empty\ngröße\tin/größe.tif\tis truncated\n"
    assert names(tmp_path) == ["a.tif", "failed.tsv"]
    assert run(f"{tmp_path}/", items=["a", "b"]) == ["b"]
    assert names(tmp_path) == ["a.tif", "b.tif"]


def test_failures_before_an_interruption_are_listed(tmp_path):
    def interrupted():
        with open_sink(f"{tmp_path}/out/", "labels") as sink:
            sink.record_failure("b", "b.tif", "is empty")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path / "out") == ["failed.tsv"]


def test_failures_elsewhere_are_not_listed(tmp_path, stdout):
    for output in (tmp_path / "a.h5", tmp_path / "a.tif", "-"):
        with open_sink(str(output), "labels") as sink:
            sink.record_failure("b", "b.tif", "is empty")
    assert not any(tmp_path.iterdir())


def test_keys_that_leave_the_folder(tmp_path):
    for output in ("out/", "out.h5"):
        with open_sink(f"{tmp_path}/{output}", "labels") as sink:
            for key in ("../x", "..", "a/b", ""):
                with pytest.raises(InputError):
                    sink.is_done(key, HISTORY)
                with pytest.raises(InputError):
                    sink.write(labels(key))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("kind", ["labels", "maps"])
def test_a_stream_has_a_member_per_image(stdout, kind):
    assert run("-", kind) == KEYS
    suffix = {"labels": ".tif", "maps": ".h5"}[kind]
    found = list(read_stream(stdout()))
    assert [name for name, _ in found] == [key + suffix for key in KEYS]
    for (name, data), key in zip(found, KEYS, strict=True):
        if kind == "labels":
            np.testing.assert_array_equal(read_labels(name, data).labels, labels(key).labels)
        else:
            (item,) = read_predictions(data, name)
            assert (item.key, item.maps[0, 0, 0]) == (key, len(key))


def test_a_stream_that_is_interrupted_has_no_end(stdout):
    def interrupted():
        with open_sink("-", "labels") as sink:
            sink.write(labels("a"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(InputError, match="is cut after 1 files"):
        list(read_stream(stdout()))


def test_a_stream_of_two_images_of_one_name(stdout):
    with open_sink("-", "labels") as sink:
        sink.write(labels("a"))
        with pytest.raises(UsageError, match="-: two images have the name 'a'"):
            sink.write(labels("a"))


@pytest.mark.parametrize("output", ["out/", "out.tif", "out.png", "out.h5", "-"])
def test_rows_of_a_huge_plane(tmp_path, stdout, output, crowded_field):
    rows = (crowded_field[start : start + 30] for start in range(0, 128, 30))
    item = LabelRows(key="a", rows=rows, shape=crowded_field.shape, count=int(crowded_field.max()), history=HISTORY)
    with open_sink(output if output == "-" else f"{tmp_path}/{output}", "labels") as sink:
        sink.write(item)
    if output == "-":
        ((name, data),) = read_stream(stdout())
        found = read_labels(name, data)
    else:
        (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
        (found,) = read_label_images(str(path))
        assert run(f"{tmp_path}/{output}", items=["a"]) == []
    np.testing.assert_array_equal(found.labels, crowded_field)
    assert found.history == HISTORY


def test_rows_that_fail_cost_their_image(tmp_path):
    def rows():
        yield np.ones((10, 30), np.int32)
        raise InputError("b.tif", "is truncated")

    broken = LabelRows(key="b", rows=rows(), shape=(20, 30), count=1)
    for output in (f"{tmp_path}/out/", f"{tmp_path}/out.h5"):
        with open_sink(output, "labels") as sink:
            sink.write(labels("a"))
            with pytest.raises(InputError, match="is truncated"):
                sink.write(replace(broken, rows=rows()))
    assert names(tmp_path / "out") == ["a.tif"]
    assert [item.key for item in read_label_images(str(tmp_path / "out.h5"))] == ["a"]


def test_maps_have_no_place_in_a_picture(tmp_path):
    with open_sink(str(tmp_path / "a.tif"), "labels") as sink:
        with pytest.raises(UsageError, match=r"maps are not written as this kind of file \(give a FILE\.h5\)"):
            sink.write(maps())
