import io
import resource
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest

from cellkit.config import RepresentationSpec
from cellkit.errors import InputError, OutputError, UsageError
from cellkit.io import maps as maps_module
from cellkit.io.labels import read_history
from cellkit.io.maps import LazyMaps, Prediction, PredictionWriter, read_each, read_predictions, to_bytes
from cellkit.provenance import Record

HISTORY = (Record(verb="predict", arguments={"tile": 256}, model="nuclei", model_digest="cd", input_digest="ab"),)


def prediction(key="a", shape=(3, 300, 280), **changes):
    generator = np.random.default_rng(len(key))
    item = Prediction(
        key=key,
        maps=generator.normal(size=shape).astype(np.float16),
        representation=RepresentationSpec(name="flow", settings={"steps": 100, "cell_threshold": 0.5}),
        source="in/größe 1.tif",
        shape=shape[1:],
        axes="CYX",
        pixel_size=0.325,
        diameter=17.5,
        history=HISTORY,
    )
    return replace(item, **changes)


def written(path, *items):
    with PredictionWriter(path) as writer:
        for item in items:
            writer.write(item)
    return path


def facts(item):
    return {name: value for name, value in vars(item).items() if name != "maps"}


def test_what_is_written_is_read_in_its_order(tmp_path):
    items = [prediction("z 9.x"), prediction("ä"), prediction("m", pixel_size=None, diameter=None)]
    path = written(tmp_path / "all.h5", *items)
    found = list(read_predictions(path, str(path)))
    assert [facts(item) for item in found] == [facts(item) for item in items]
    for one, other in zip(found, items, strict=True):
        np.testing.assert_array_equal(one.maps, other.maps)
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_are_a_file_of_one_image(tmp_path):
    data = to_bytes(prediction())
    (found,) = read_predictions(data, "a.h5")
    assert facts(found) == facts(prediction())
    np.testing.assert_array_equal(found.maps, prediction().maps)
    (tmp_path / "a.h5").write_bytes(data)
    (found,) = read_predictions(tmp_path / "a.h5", "a.h5")
    np.testing.assert_array_equal(found.maps, prediction().maps)


def test_maps_of_a_stream_are_read_where_they_lie():
    item = prediction()
    data = to_bytes(item)
    (found,) = read_predictions(data, "a.h5")
    assert np.shares_memory(found.maps, np.frombuffer(data, np.uint8))
    assert not found.maps.flags.writeable
    np.testing.assert_array_equal(found.maps, item.maps)


def test_compressed_and_unwritten_maps_of_a_stream_are_read_too(tmp_path):
    item = prediction()
    (found,) = read_predictions(written(tmp_path / "a.h5", item).read_bytes(), "a.h5")
    np.testing.assert_array_equal(found.maps, item.maps)
    with h5py.File(io.BytesIO(to_bytes(item)), "r+") as file:
        del file["a/maps"]
        file["a"].create_dataset("maps", item.maps.shape, np.float16)  # takes no place until something is written
        file.flush()
        memory = file.id.get_file_image()
    (found,) = read_predictions(memory, "a.h5")
    assert found.maps.shape == item.maps.shape
    assert not found.maps.any()


def test_the_file_is_as_the_format_says(tmp_path):
    with h5py.File(written(tmp_path / "a.h5", prediction())) as file:
        assert (file.attrs["format"], file.attrs["kind"], file.attrs["format_version"]) == ("cellkit", "maps", 1)
        dataset = file["a/maps"]
        assert (dataset.dtype, dataset.chunks) == (np.float16, (3, 256, 256))
        assert (dataset.compression, dataset.shuffle, dataset.fletcher32) == ("gzip", True, True)
        assert set(file["a"].attrs) == {
            "representation",
            "settings",
            "source",
            "axes",
            "shape",
            "scale",
            "pixel_size",
            "diameter",
            "history",
        }


def test_the_history_of_one_image_and_of_many(tmp_path):
    assert read_history(written(tmp_path / "a.h5", prediction())) == HISTORY
    many = written(tmp_path / "many.h5", prediction("a"), prediction("b"))
    assert read_history(many) == (replace(HISTORY[0], input_digest=None),)


def test_maps_smaller_than_a_chunk_and_at_another_scale(tmp_path):
    item = prediction(shape=(3, 1, 5), scale=0.5)
    item = replace(item, shape=(1, 10))
    (found,) = read_predictions(written(tmp_path / "a.h5", item), "a.h5")
    assert (found.maps.shape, found.shape, found.scale) == ((3, 1, 5), (1, 10), 0.5)


def test_big_maps_stay_in_their_file(tmp_path, monkeypatch):
    monkeypatch.setattr(maps_module, "LAZY_BYTES", 1000)
    path = written(tmp_path / "a.h5", prediction())
    (found,) = list(read_predictions(path, "a.h5"))
    assert isinstance(found.maps, LazyMaps)
    assert (found.maps.shape, found.maps.dtype) == ((3, 300, 280), np.float16)
    np.testing.assert_array_equal(found.maps[:2, 10:20, 250:270], prediction().maps[:2, 10:20, 250:270])
    np.testing.assert_array_equal(np.asarray(found.maps), prediction().maps)
    monkeypatch.setattr(maps_module, "BAND_BYTES", 1)
    copy = written(tmp_path / "copy.h5", found)
    np.testing.assert_array_equal(next(read_predictions(copy, "copy.h5")).maps[:, :, :], prediction().maps)
    path.unlink()
    with pytest.raises(InputError, match="there is no such file"):
        found.maps[0, 0, 0]


def test_maps_written_window_by_window(tmp_path):
    whole = prediction()
    with PredictionWriter(tmp_path / "a.h5") as writer:
        dataset = writer.create(whole, whole.maps.shape)
        for y in range(0, 300, 256):
            for x in range(0, 280, 256):
                dataset[:, y : y + 256, x : x + 256] = whole.maps[:, y : y + 256, x : x + 256]
    np.testing.assert_array_equal(next(read_predictions(tmp_path / "a.h5", "a")).maps, whole.maps)


def test_an_exception_leaves_nothing(tmp_path):
    def fail():
        with PredictionWriter(tmp_path / "a.h5") as writer:
            writer.write(prediction())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not any(tmp_path.iterdir())


def test_an_image_whose_maps_fail_costs_itself(tmp_path):
    class Unreadable(LazyMaps):
        def __getitem__(self, window):
            raise InputError("b", "is gone")

    broken = replace(prediction("b"), maps=Unreadable(tmp_path, "b", "b", (3, 300, 280)))
    with PredictionWriter(tmp_path / "a.h5") as writer:
        writer.write(prediction("a"))
        with pytest.raises(InputError, match="is gone"):
            writer.write(broken)
        writer.write(prediction("c"))
    assert [item.key for item in read_predictions(tmp_path / "a.h5", "a")] == ["a", "c"]


def test_two_images_of_one_name(tmp_path):
    with PredictionWriter(tmp_path / "a.h5") as writer:
        writer.write(prediction())
        with pytest.raises(UsageError, match=r"two images have the name 'a' \(rename one of them\)"):
            writer.write(prediction())


def test_keys_that_are_no_names(tmp_path):
    with PredictionWriter(tmp_path / "a.h5") as writer:
        for key in ("../x", "..", "", "a/b", ".hidden"):
            with pytest.raises(InputError):
                writer.write(prediction(key))
            with pytest.raises(InputError):
                to_bytes(prediction(key))
        writer.write(prediction())


def test_maps_that_do_not_fit_their_source_are_a_bug(tmp_path):
    with pytest.raises(ValueError, match="maps of 300 x 280 do not fit a source of 10 x 10 at scale 1"):
        written(tmp_path / "a.h5", prediction(shape=(3, 300, 280)), replace(prediction("b"), shape=(10, 10)))
    assert not any(tmp_path.iterdir())


FULL_DISK = """
import resource, sys, numpy as np
sys.path.insert(0, {folder!r})
from test_maps import prediction, written
from cellkit.errors import OutputError
items = [prediction(str(i)) for i in range(4)]
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
try:
    written(__import__("pathlib").Path({path!r}), *items)
except OutputError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("limit", [0, 100, 5_000, 200_000, 700_000])
def test_a_full_disk_is_one_line_wherever_it_is_met(tmp_path, request, limit):
    """HDF5 by itself would end the process by a segmentation fault, so this runs in one of its own."""
    path = tmp_path / "a.h5"
    code = FULL_DISK.format(folder=str(request.path.parent), limit=limit, path=str(path))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    expected = f"{path}: could not be written: the file is larger than the system allows (write elsewhere with -o)\n"
    assert (run.returncode, run.stderr) == (1, expected)
    assert not any(tmp_path.iterdir())


def test_a_file_that_fits_after_a_full_disk(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputError):
            written(tmp_path / "a.h5", prediction())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(list(read_predictions(written(tmp_path / "a.h5", prediction()), "a"))) == 1


def changed(change):
    """Bytes of a prediction file after a change."""
    stream = io.BytesIO(to_bytes(prediction(shape=(3, 20, 30))))
    with h5py.File(stream, "r+") as file:
        change(file)
    return stream.getvalue()


def attribute(name, value, item="a"):
    return lambda file: file[item].attrs.__setitem__(name, value)


def maps(data):
    def change(file):
        del file["a/maps"]
        file["a/maps"] = data

    return change


def without(name, item="/"):
    def change(file):
        if name in file[item].attrs:
            del file[item].attrs[name]
        else:
            del file[item][name]

    return change


def foreign(file):
    for name in list(file.attrs):
        del file.attrs[name]


AGAIN = "(predict the image again)"
BAD = {
    "foreign": (foreign, "is HDF5, but holds no maps of cellkit (give a file that 'cellkit predict' wrote)"),
    "labels": (attribute("kind", "labels", "/"), "holds labels, not maps (give a file that 'cellkit predict' wrote)"),
    "no kind": (without("kind"), "holds something else, not maps (give a file that 'cellkit predict' wrote)"),
    "no version": (without("format_version"), "has no format version (give a file that 'cellkit predict' wrote)"),
    "newer": (
        attribute("format_version", 2, "/"),
        "is of format 2; this cellkit reads up to 1 (upgrade cellkit)",
    ),
    "no maps": (without("maps", "a"), f"'a' has no maps {AGAIN}"),
    "loose dataset": (lambda file: file.__setitem__("b", 1), f"'b' has no maps {AGAIN}"),
    "2-D": (maps(np.ones((20, 30), np.float16)), f"the maps of 'a' are 2-D float16, not (C, H, W) float16 {AGAIN}"),
    "float32": (
        maps(np.ones((3, 20, 30), np.float32)),
        f"the maps of 'a' are 3-D float32, not (C, H, W) float16 {AGAIN}",
    ),
    "other size": (
        maps(np.ones((3, 20, 40), np.float16)),
        f"'a': maps of 20 x 40 do not fit a source of 20 x 30 at scale 1 {AGAIN}",
    ),
    "no pixels": (
        maps(np.ones((0, 20, 30), np.float16)),
        f"'a': no pixels: maps (0, 20, 30), source (20, 30) {AGAIN}",
    ),
    "no shape": (without("shape", "a"), f"'a' does not say the shape of its source and its scale {AGAIN}"),
    "odd shape": (
        attribute("shape", np.array([1.0, 2.0])),
        f"'a' does not say the shape of its source and its scale {AGAIN}",
    ),
    "no scale": (without("scale", "a"), f"'a' does not say the shape of its source and its scale {AGAIN}"),
    "negative scale": (attribute("scale", -1.0), f"'a': the scale -1.0 is no positive number {AGAIN}"),
    "no meaning": (without("representation", "a"), f"'a' does not say what its maps mean {AGAIN}"),
    "unknown meaning": (
        attribute("representation", "aura"),
        "'a' is of the representation 'aura', unknown to this cellkit (upgrade cellkit)",
    ),
    "settings": (attribute("settings", "[1]"), f"'a' has damaged settings {AGAIN}"),
    "settings no JSON": (attribute("settings", "{"), f"'a' has damaged settings {AGAIN}"),
    "history": (attribute("history", "{"), "holds a damaged history (make it again, or copy it again)"),
    "parent": (
        lambda file: file.create_group(".."),
        "its name '..' begins with a dot (rename it)",
    ),
    "soft link": (
        lambda file: file.__setitem__("b", h5py.SoftLink("/a")),
        "'b' is a link (copy the data into the file)",
    ),
    "link out of the file": (
        lambda file: file.__setitem__("b", h5py.ExternalLink("/etc/passwd", "/")),
        "'b' is a link (copy the data into the file)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_prediction_is_one_line(name):
    change, text = BAD[name]
    with pytest.raises(InputError) as caught:
        list(read_predictions(changed(change), "in.h5"))
    assert str(caught.value) == f"in.h5: {text}"


def test_an_image_that_is_damaged_costs_itself(tmp_path):
    items = [prediction(key=key) for key in "abc"]
    with PredictionWriter(tmp_path / "m.h5") as writer:
        for item in items:
            writer.write(item)
    with h5py.File(tmp_path / "m.h5", "r+") as root:
        del root["b"].attrs["scale"]
    found = dict(read_each(tmp_path / "m.h5", "m.h5"))
    assert list(found) == ["a", "b", "c"]
    assert str(found["b"]).startswith("m.h5: 'b' does not say the shape of its source and its scale (")
    np.testing.assert_array_equal(found["c"].maps[:, :, :], items[2].maps)
    with pytest.raises(InputError, match="'b' does not say"):
        list(read_predictions(tmp_path / "m.h5", "m.h5"))


def test_a_key_that_leaves_the_folder():
    def change(file):
        file.move("a", "tmp")
        file.create_group("../x")

    with pytest.raises(InputError, match=r"its name '\.\.' begins with a dot"):
        list(read_predictions(changed(change), "in.h5"))


def test_files_that_are_no_hdf5(tmp_path):
    for data, text in ((b"", "is empty"), (b"text", "is no HDF5 file (check what was given)")):
        (tmp_path / "a.h5").write_bytes(data)
        for content in (tmp_path / "a.h5", data):
            with pytest.raises(InputError) as caught:
                list(read_predictions(content, "a.h5"))
            assert str(caught.value).startswith(f"a.h5: {text}")
    with pytest.raises(InputError, match=r"a\.h5: there is no such file \(check the path\)"):
        list(read_predictions(tmp_path / "none.h5", "a.h5"))


def test_a_file_cut_anywhere_is_an_error(tmp_path):
    written(tmp_path / "a.h5", prediction(shape=(3, 40, 30)))
    for data in (to_bytes(prediction(shape=(3, 40, 30))), (tmp_path / "a.h5").read_bytes()):
        for length in (*range(8, len(data), max(1, len(data) // 50)), len(data) - 1):
            with pytest.raises(
                InputError, match=r"^a\.h5: is (truncated|damaged HDF5: .*) \(make it again, or copy it again\)$"
            ):
                list(read_predictions(data[:length], "a.h5"))


def test_changed_bytes_are_noticed(tmp_path):
    path = written(tmp_path / "a.h5", prediction())
    data = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        offset = file["a/maps"].id.get_chunk_info(0).byte_offset
    data[offset + 5000] ^= 255
    with pytest.raises(InputError, match="is damaged HDF5"):
        list(read_predictions(bytes(data), "a.h5"))
