"""cellkit view: pictures of images, labels and predictions, in every kind of place."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from cellkit.config import RepresentationSpec
from cellkit.io.histories import read_history
from cellkit.io.label_hdf5 import LabelWriter
from cellkit.io.labels import LabelImage, read_labels, write_labels
from cellkit.io.maps import Prediction, PredictionWriter
from cellkit.io.sources import natural_key
from cellkit.ops.drawing import TRUTH_COLOUR

PNG = b"\x89PNG\r\n\x1a\n"
NAMES = ("2cfa61bef6542dd3", "2dd3356f2dcf470a", "356d9903d16074f1", "56d0da5b663ddd49")


@pytest.fixture
def plate(crops, tmp_path):
    """Folders of four images and of their labels."""
    for part in ("images", "labels"):
        folder = tmp_path / "plate" / part
        folder.mkdir(parents=True)
        for path in (crops / part).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
    return tmp_path / "plate"


@pytest.fixture
def image(plate):
    return plate / "images" / f"{NAMES[0]}.png"


@pytest.fixture
def labels(plate):
    return plate / "labels" / f"{NAMES[0]}.png"


@pytest.fixture
def maps(tmp_path):
    """A prediction file of two images."""
    path = tmp_path / "maps.h5"
    spec = RepresentationSpec(name="flow")
    generator = np.random.default_rng(0)
    with PredictionWriter(path) as writer:
        for key in ("a", "b"):
            values = generator.normal(size=(3, 40, 50)).astype(np.float16)
            writer.write(Prediction(key=key, maps=values, representation=spec, source=key, shape=(40, 50)))
    return path


def tar_of(folder):
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for path in sorted(folder.iterdir(), key=lambda path: natural_key(str(path))):
            archive.add(path, arcname=path.name)
    return memory.getvalue()


def test_one_image_with_its_labels(cellkit, tmp_path, image, labels):
    done = cellkit("view", image, labels, "-o", tmp_path / "out.png")
    assert (done.code, done.text, done.err) == (0, "", "")
    picture = iio.imread(tmp_path / "out.png")
    assert (picture.shape, picture.dtype) == ((864, 864, 3), np.uint8)  # 96 pixels, nine times
    assert read_history(tmp_path / "out.png")[-1].verb == "view"


def test_labels_are_optional(cellkit, tmp_path, image):
    assert cellkit("view", image, "-o", tmp_path / "out.png", "--size", "96").code == 0
    picture = iio.imread(tmp_path / "out.png")
    assert picture.shape == (96, 96, 3)
    assert (picture == picture[..., :1]).all()


def test_labels_of_a_folder_are_found_by_name(cellkit, tmp_path, plate, image, labels):
    cellkit("view", image, labels, "-o", tmp_path / "one.png")
    cellkit("view", image, plate / "labels", "-o", tmp_path / "two.png")
    assert np.array_equal(iio.imread(tmp_path / "one.png"), iio.imread(tmp_path / "two.png"))


@pytest.mark.parametrize("style", ["outline", "fill", "both"])
def test_styles_differ(cellkit, tmp_path, image, labels, style):
    cellkit("view", image, labels, "-o", tmp_path / "usual.png")
    assert cellkit("view", image, labels, "-o", tmp_path / "out.png", "--style", style).code == 0
    same = np.array_equal(iio.imread(tmp_path / "usual.png"), iio.imread(tmp_path / "out.png"))
    assert same == (style == "outline")


def test_truth_is_outlined_and_counted(cellkit, tmp_path, image, labels):
    done = cellkit("view", image, labels, "--truth", labels, "-o", tmp_path / "out.png", "--json")
    assert done.code == 0
    picture = iio.imread(tmp_path / "out.png")
    assert picture.shape[0] > 864
    assert (picture[864:] == TRUTH_COLOUR).all(axis=2).any()
    line = json.loads(done.text)
    assert line["cells"] == read_labels(str(labels)).count


def test_folder_becomes_a_sheet_or_a_folder(cellkit, tmp_path, plate):
    images, labels = plate / "images", plate / "labels"
    assert cellkit("view", images, labels, "-o", tmp_path / "sheet.png", "--size", "600").code == 0
    sheet = iio.imread(tmp_path / "sheet.png")
    assert max(sheet.shape) <= 600
    assert min(sheet.shape[:2]) > 400
    assert cellkit("view", images, labels, "-o", f"{tmp_path / 'many'}/", "--suffix", ".jpg").code == 0
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == sorted(f"{name}.jpg" for name in NAMES)
    assert iio.imread(tmp_path / "many" / f"{NAMES[0]}.jpg").shape == (864, 864, 3)


def test_jpeg_file(cellkit, tmp_path, image, labels):
    assert cellkit("view", image, labels, "-o", tmp_path / "out.JPG").code == 0
    assert (tmp_path / "out.JPG").read_bytes()[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "many/"])
def test_second_run_does_nothing_and_other_settings_are_refused(cellkit, tmp_path, plate, image, labels, name):
    is_folder = name.endswith("/")
    what = (plate / "images", plate / "labels") if is_folder else (image, labels)
    output = f"{tmp_path}/{name}"
    assert cellkit("view", *what, "-o", output).code == 0
    files = sorted((tmp_path / "many").iterdir()) if is_folder else [tmp_path / name]
    before = [path.stat().st_mtime_ns for path in files]
    again = cellkit("view", *what, "-o", output, "--json")
    assert {json.loads(line)["status"] for line in again.text.splitlines()} == {"up to date"}
    refused = cellkit("view", *what, "-o", output, "--style", "fill")
    assert refused.code == 2
    assert "was made by other settings or of another input" in refused.err
    assert [path.stat().st_mtime_ns for path in files] == before
    assert cellkit("view", *what, "-o", output, "--style", "fill", "--on-exists", "overwrite").code == 0
    assert [path.stat().st_mtime_ns for path in files] != before
    stopped = cellkit("view", *what, "-o", output, "--on-exists", "error")
    assert (stopped.code, "exists already" in stopped.err) == (2, True)


def test_sheet_that_is_up_to_date_stays(cellkit, tmp_path, plate):
    command = ("view", plate / "images", plate / "labels", "-o", tmp_path / "sheet.png")
    cellkit(*command)
    before = (tmp_path / "sheet.png").stat().st_mtime_ns
    assert cellkit(*command).code == 0
    assert (tmp_path / "sheet.png").stat().st_mtime_ns == before
    assert cellkit(*command, "--size", "700").code == 2
    (tmp_path / "foreign.png").write_bytes((plate / "images" / f"{NAMES[0]}.png").read_bytes())
    refused = cellkit(*command[:-1], tmp_path / "foreign.png")
    assert (refused.code, "was not made by cellkit" in refused.err) == (2, True)


def test_stdout_is_one_png_and_no_terminal(cellkit, plate, image, labels):
    done = cellkit("view", image, labels, "-o", "-")
    assert (done.code, done.out[:8]) == (0, PNG)
    assert iio.imread(done.out).shape == (864, 864, 3)
    sheet = cellkit("view", plate / "images", "-o", "-")
    assert iio.imread(sheet.out).shape[1] > 1000
    refused = cellkit("view", image, labels, "-o", "-", terminal=True)
    assert (refused.code, refused.out) == (2, b"")
    assert refused.err == (
        "cellkit view: error: -: refuse to write binary to a terminal (add > FILE, | COMMAND or -o FILE.png)\n"
    )


def test_streams_of_images_and_of_labels(cellkit, tmp_path, plate):
    images, labels = plate / "images", plate / "labels"
    cellkit("view", images, labels, "-o", tmp_path / "sheet.png", "--size", "500")
    sheet = iio.imread(tmp_path / "sheet.png")
    piped = cellkit("view", "-", labels, "-o", "-", "--size", "500", stdin=tar_of(images))
    assert np.array_equal(iio.imread(piped.out), sheet)
    piped = cellkit("view", images, "-", "-o", "-", "--size", "500", stdin=tar_of(labels))
    assert np.array_equal(iio.imread(piped.out), sheet)
    both = cellkit("view", "-", "-", "-o", tmp_path / "x.png", stdin=tar_of(images))
    assert (both.code, "stdin carries one stream" in both.err) == (2, True)


def test_labels_in_one_hdf5_file(cellkit, tmp_path, plate):
    with LabelWriter(tmp_path / "found.h5") as writer:
        for path in sorted((plate / "labels").iterdir()):
            writer.write(read_labels(str(path)))
    assert cellkit("view", plate / "images", tmp_path / "found.h5", "-o", tmp_path / "sheet.png").code == 0


def test_time_series_is_a_sheet(cellkit, tmp_path, two_touching_cells):
    frames = np.random.default_rng(0).integers(0, 255, (3, 64, 80), np.uint8)
    tifffile.imwrite(tmp_path / "film.tif", frames, photometric="minisblack", metadata={"axes": "TYX"})
    folder = tmp_path / "found"
    folder.mkdir()
    for frame in range(3):
        item = LabelImage(key=f"film_t{frame:03d}", labels=two_touching_cells)
        write_labels(folder / f"{item.key}.tif", item)
    done = cellkit("view", tmp_path / "film.tif", folder, "-o", tmp_path / "sheet.png", "--json")
    assert done.code == 0
    assert [json.loads(line)["cells"] for line in done.text.splitlines()] == [2, 2, 2]


def test_maps_of_predictions(cellkit, tmp_path, maps):
    assert cellkit("view", maps, "-o", tmp_path / "sheet.png", "--size", "600").code == 0
    sheet = iio.imread(tmp_path / "sheet.png")
    assert len(np.unique(sheet.astype(int) @ (1 << 16, 1 << 8, 1))) > 1000  # hues
    assert cellkit("view", maps, "-o", f"{tmp_path / 'many'}/", "--size", "300").code == 0
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == ["a.png", "b.png"]
    folder = tmp_path / "predictions"
    folder.mkdir()
    (folder / "maps.h5").write_bytes(maps.read_bytes())
    assert cellkit("view", folder, "-o", tmp_path / "folder.png", "--size", "600").code == 0
    assert np.array_equal(iio.imread(tmp_path / "folder.png"), sheet)
    refused = cellkit("view", maps, maps, "-o", tmp_path / "x.png")
    assert (refused.code, "the maps of a prediction are drawn without labels" in refused.err) == (2, True)


def test_what_predict_writes_can_be_piped(cellkit, tmp_path, model, plate):
    (plate / "images" / f"{NAMES[1]}.png").unlink()  # in colour, which the tiny model does not take
    stream = cellkit("predict", plate / "images", "-m", model, "-o", "-").out
    done = cellkit("view", "-", "-o", tmp_path / "maps.png", "--json", stdin=stream)
    assert done.code == 0
    assert {json.loads(line)["key"] for line in done.text.splitlines()} == set(NAMES) - {NAMES[1]}
    assert iio.imread(tmp_path / "maps.png").shape[1] > 1000


BAD = {  # arguments after the image and the labels, exit code, what is said
    "suffix": (("-o", "x.bmp"), 2, "pictures are not written as this kind of file"),
    "no output name": (("-o", ""), 2, "an empty name"),
    "contrast": (("-o", "x.png", "--contrast", "5"), 2, "'5' are no percentiles (e.g. 0.5,99.5, from 0 to 100)"),
    "contrast turned": (("-o", "x.png", "--contrast", "99,1"), 2, "'99,1' are no percentiles"),
    "pixel size": (("-o", "x.png", "--pixel-size", "0"), 2, "--pixel-size: cannot be 0"),
    "size": (("-o", "x.png", "--size", "5000"), 2, "'--size'"),
    "style": (("-o", "x.png", "--style", "dots"), 2, "'--style'"),
    "no folder": (("-o", "nowhere/x.png"), 2, "its folder does not exist"),
    "json beside a picture": (("-o", "-", "--json"), 2, "--json: stdout carries"),
    "channel": (("-o", "x.png", "--channels", "7"), 5, "has no channel 7"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_meant_is_one_line(cellkit, tmp_path, monkeypatch, image, labels, kind):
    monkeypatch.chdir(tmp_path)
    arguments, code, text = BAD[kind]
    done = cellkit("view", image, labels, *arguments)
    assert (done.code, done.out) == (code, b"")
    assert text in done.err
    assert done.err.count("\n") == 1
    assert not list(tmp_path.glob("x*"))


def test_bad_inputs_are_one_line(cellkit, tmp_path, image, labels):
    iio.imwrite(tmp_path / "small.png", np.ones((5, 6), np.uint16))
    iio.imwrite(tmp_path / "colour.png", np.zeros((96, 96, 3), np.uint8))
    (tmp_path / "text.tif").write_text("hello")
    cases = [
        ((tmp_path / "no.png", labels), 5, "no.png: does not exist (check the name)"),
        ((image, tmp_path / "no.png"), 5, "no.png: does not exist (check the name)"),
        ((image, labels, "--truth", tmp_path / "no.png"), 5, "no.png: does not exist (check the name)"),
        ((tmp_path / "text.tif", labels), 5, "text.tif: is not an image"),
        ((image, tmp_path / "text.tif"), 5, "text.tif: is no label image"),
        ((image, tmp_path / "small.png"), 5, "the labels have 5 x 6 pixels, the image has 96 x 96"),
        ((image, tmp_path / "colour.png"), 5, "is a colour"),
    ]
    for arguments, code, text in cases:
        done = cellkit("view", *arguments, "-o", tmp_path / "x.png")
        assert (done.code, done.out, done.err.count("\n")) == (code, b"", 1), done.err
        assert text in done.err
        assert not (tmp_path / "x.png").exists()


def test_images_without_labels_are_named_and_the_others_drawn(cellkit, tmp_path, plate):
    (plate / "labels" / f"{NAMES[0]}.png").unlink()
    command = ("view", plate / "images", plate / "labels", "-o")
    done = cellkit(*command, f"{tmp_path / 'many'}/")
    assert done.code == 3
    assert f"has no labels of '{NAMES[0]}'" in done.err
    assert "1 of 4 images failed: 2cfa61bef6542dd3 (the others are done; failed.tsv says why)" in done.err
    assert len(list((tmp_path / "many").glob("*.png"))) == 3
    assert cellkit(*command, tmp_path / "sheet.png").code == 3
    assert (tmp_path / "sheet.png").exists()
    assert cellkit(*command, tmp_path / "all.png", "--allow-missing").code == 0


def test_inputs_are_never_overwritten(cellkit, plate, image, labels):
    before = image.read_bytes()
    for output in (image, f"{image.parent}/"):
        done = cellkit("view", image, labels, "-o", output, "--on-exists", "overwrite")
        assert (done.code, "would take the place of an input" in done.err) == (2, True)
    done = cellkit("view", image, labels, "-o", labels, "--on-exists", "overwrite")
    assert done.code == 2
    assert image.read_bytes() == before


def test_own_pictures_are_no_images_to_segment(cellkit, tmp_path, plate):
    folder = plate / "images"
    cellkit("view", folder / f"{NAMES[0]}.png", "-o", folder / "overview.png")
    done = cellkit("segment", folder, "-o", f"{tmp_path / 'cells'}/", "--dry-run")
    assert done.code == 0
    assert "overview" not in done.text


def test_viewing_does_not_wait_for_torch(image, tmp_path):
    code = (
        "import sys; from cellkit.cli.app import main; "
        f"code = main(['view', {str(image)!r}, '-o', {str(tmp_path / 'x.png')!r}]); print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"], done.stderr


def test_results_of_a_sequence_are_named_by_its_images(cellkit, tmp_path, two_touching_cells):
    for folder in ("01", "01_RES", "01_GT/SEG"):
        (tmp_path / folder).mkdir(parents=True)
    for frame in (0, 7):
        image = np.random.default_rng(frame).integers(0, 255, two_touching_cells.shape, np.uint8)
        tifffile.imwrite(tmp_path / "01" / f"t{frame:03d}.tif", image)
        tifffile.imwrite(tmp_path / "01_RES" / f"mask{frame:03d}.tif", two_touching_cells.astype(np.uint16))
        tifffile.imwrite(tmp_path / "01_GT/SEG" / f"man_seg{frame:03d}.tif", two_touching_cells.astype(np.uint16))
    sizes = ("--size", "600", "--json")
    for name, truth in (("one.png", ()), ("two.png", ("--truth", tmp_path / "01_GT"))):
        done = cellkit("view", tmp_path / "01", tmp_path / "01_RES", *truth, "-o", tmp_path / name, *sizes)
        assert done.code == 0, done.err
        assert [json.loads(line)["cells"] for line in done.text.splitlines()] == [2, 2]
