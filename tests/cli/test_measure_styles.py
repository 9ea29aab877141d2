"""cellkit measure --styles: a row per image, and a map of all."""

from __future__ import annotations

import csv
import io
import os
import shutil
import tarfile

import imageio.v3 as iio
import numpy as np
import pytest

from cellkit.cli import measure_styles
from cellkit.engine import open_device
from cellkit.io.label_png import read_png_header
from cellkit.io.sources import find_sources
from cellkit.stages.model import load_model
from cellkit.stages.styles import embed


@pytest.fixture
def folders(tmp_path):
    """Two datasets, dark/ and bright/images/, of three and two images; two are called alike."""
    for folder, names in (("dark", "abc"), ("bright/images", "ax")):
        (tmp_path / folder).mkdir(parents=True)
        for i, name in enumerate(names):
            random = np.random.default_rng((len(folder), i))
            pixels = random.normal(size=(40, 48)) ** (2 if folder == "dark" else 3)
            iio.imwrite(tmp_path / folder / f"{name}.png", (128 + 20 * pixels).clip(0, 255).astype(np.uint8))
    return tmp_path / "dark", tmp_path / "bright" / "images"


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def labelled(text):
    return [(row["dataset"], row["image"]) for row in rows(text)]


ALL = [("dark", "a"), ("dark", "b"), ("dark", "c"), ("bright", "a"), ("bright", "x")]


def test_a_row_per_image_with_its_dataset_and_style(cellkit, tmp_path, folders, model):
    table = tmp_path / "styles.csv"
    done = cellkit("measure", *folders, "--styles", "-m", model, "-o", table)
    assert (done.code, done.text, done.err) == (0, "", "")
    assert labelled(table.read_text()) == ALL
    found = rows(table.read_text())
    assert list(found[0]) == ["image", "dataset", *(f"style_{i}" for i in range(8))]
    ready = load_model(model, open_device("auto"))
    for row, item in zip(found, [i for f in folders for i in embed(find_sources([str(f)]), ready)], strict=True):
        values = np.array([row[f"style_{i}"] for i in range(8)]).astype(np.float32)
        np.testing.assert_array_equal(values, item.style)
        assert np.linalg.norm(values) == pytest.approx(1, abs=1e-6)


def test_datasets_are_folders_however_they_are_named(cellkit, folders, model, monkeypatch):
    dark, bright = folders
    monkeypatch.chdir(dark)
    for arguments in (
        (dark, bright),
        (".", bright.parent),
        (f"{dark}/*.png", bright),
        (*sorted(dark.iterdir()), "../bright/images/"),
        (dark.parent / "d*", bright / "a.png", bright / "x.png"),
    ):
        done = cellkit("measure", *arguments, "--styles", "-m", model, "-o", "-")
        assert (done.code, labelled(done.text)) == (0, ALL), done.err


def test_datasets_of_one_name_are_told_apart_by_their_paths(cellkit, tmp_path, folders, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for site in ("one", "two"):
        shutil.copytree(folders[0], tmp_path / site / "train")
    done = cellkit("measure", "one/train", "two/train", "dark", "--styles", "-m", model, "-o", "-")
    assert list(dict.fromkeys(dataset for dataset, _ in labelled(done.text))) == ["one/train", "two/train", "dark"]


def test_a_stream_gives_the_same(cellkit, folders, model):
    usual = cellkit("measure", *folders, "--styles", "-m", model, "-o", "-")
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for folder in folders:
            for path in sorted(folder.iterdir()):
                archive.add(path, arcname=str(path.relative_to(folders[0].parent)))
    done = cellkit("measure", "-", "--styles", "-m", model, "-o", "-", stdin=memory.getvalue())
    assert (done.code, done.text) == (0, usual.text), done.err


def test_the_map_is_drawn_and_says_what_made_it(cellkit, tmp_path, folders, model):
    for name in ("map.svg", "map.png"):
        picture = tmp_path / name
        done = cellkit("measure", *folders, "--styles", "-m", model, "-o", tmp_path / "x.csv", "--picture", picture)
        assert (done.code, done.err) == (0, "")
    text = (tmp_path / "map.svg").read_text()
    assert "Styles of 5 images by tiny.ckpt (t-SNE)" in text
    assert "bright: x" in text
    assert "dark (3)" in text
    (record,) = read_png_header((tmp_path / "map.png").read_bytes()).history
    assert (record.verb, record.arguments["styles"], record.model) == ("measure", 5, str(model))
    assert find_sources([str(tmp_path / "dark")])  # and a picture beside images is not taken for one of them:
    shutil.copy(tmp_path / "map.png", tmp_path / "dark")
    assert [source.key for source in find_sources([str(tmp_path / "dark")])] == ["a", "b", "c"]


def test_run_again_what_is_the_same_stays_and_what_is_another_is_an_error(cellkit, tmp_path, folders, model):
    table, picture = tmp_path / "x.csv", tmp_path / "x.svg"
    command = ("measure", *folders, "--styles", "-m", model, "-o", table, "--picture", picture)
    assert cellkit(*command).code == 0
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (table, picture)}
    assert cellkit(*command).code == 0
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (table, picture)} == before

    for more, subject in ((("--diameter", "20"), picture), (("--seed", "1"), picture)):
        done = cellkit(*command, *more)
        assert done.code == 2
        assert done.err == (
            f"cellkit measure: error: {subject if more[0] == '--seed' else table}: exists, and is another than this "
            "run would write (add --on-exists overwrite, or choose another name)\n"
        )
    done = cellkit(*command, "--on-exists", "error")
    assert done.err == (
        f"cellkit measure: error: {table}: exists already (add --on-exists overwrite, or choose another name)\n"
    )
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (table, picture)} == before
    assert cellkit(*command, "--seed", "1", "--on-exists", "overwrite").code == 0
    assert picture.read_bytes() != before[picture][1]


def test_one_bad_image_costs_one_image(cellkit, tmp_path, folders, model):
    bad = folders[0] / "b.png"
    bad.write_bytes(bad.read_bytes()[:60])
    done = cellkit("measure", *folders, "--styles", "-m", model, "-o", tmp_path / "x.csv")
    assert done.code == 3
    assert "1 of 5 images failed: b (the others are done)" in done.err
    assert labelled((tmp_path / "x.csv").read_text()) == [place for place in ALL if place != ("dark", "b")]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("dark", "--styles", "--picture", "x.svg"), 2, "--picture: 3 images cannot be mapped by t-SNE (give 4 or"),
        (("dark", "--styles", "--picture", "x.pdf"), 2, "x.pdf: maps are not drawn as this kind of file (name a .svg"),
        (("dark", "--styles", "--picture", "-"), 2, "-: maps are not drawn as this kind of file"),
        (("dark", "--styles", "--picture", "no/x.svg"), 2, "could not be written: its folder does not exist"),
        (("dark", "--styles", "--picture", "dark/a.png"), 2, "the output would take the place of an input"),
        (("dark", "--styles", "-o", "x.xlsx"), 2, "x.xlsx: tables are not written as this kind of file"),
        (("dark", "dark/a.png", "--styles"), 2, "dark/a.png: two images have the name 'a' (rename one of them)"),
        (("dark", "-", "--styles"), 2, "-: a stream cannot be mixed with files"),
        (("dark", "--styles", "--crops", "y"), 2, "--crops: is for cells, and --styles for whole images (leave out"),
        (("dark", "--styles", "--crop-background", "blank"), 2, "--crop-background: is for cells"),
        (("dark", "--styles", "--allow-missing"), 2, "--allow-missing: is for cells"),
        (("dark", "--picture", "x.svg"), 2, "--picture: is for the styles of images (add --styles)"),
        (("dark", "--diameter", "9"), 2, "--diameter: is for the styles of images (add --styles)"),
        (("dark", "--styles", "--diameter", "9999"), 2, "--diameter: 9999 px is beyond"),
        (("dark", "bright"), 2, "bright: labels come from one place (name one file or folder; --styles takes several)"),
        (("empty", "--styles"), 4, "empty: no image matches"),
        (("dark/none.png", "--styles"), 5, "dark/none.png: does not exist"),
        (("dark", "--styles", "-m", "nobody"), 5, "nobody: there is no model or file of this name"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(cellkit, tmp_path, monkeypatch, folders, model, arguments, code, text):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir())
    model_given = ("-m", model) if "--styles" in arguments and "-m" not in arguments else ()
    output = () if "-o" in arguments else ("-o", "x.csv")
    done = cellkit("measure", *arguments, *model_given, *output)
    assert done.code == code, done.err
    assert text in done.err
    assert done.err.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_a_second_image_of_a_stream_with_one_name_fails(cellkit, folders, model):
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for name in ("one/x/a.png", "two/x/a.png", "two/x/b.png"):
            archive.add(folders[0] / "a.png", arcname=name)
    done = cellkit("measure", "-", "--styles", "-m", model, "-o", "-", stdin=memory.getvalue())
    assert done.code == 3
    assert "two/x/a.png: two images have the name 'a' (rename one of them)" in done.err
    assert labelled(done.text) == [("x", "a"), ("x", "b")]


def test_numbers_are_as_short_as_they_can_be():
    table = measure_styles.table_of({("d", "i"): np.array([0.1, -0.25], np.float32)})
    assert {name: column.tolist() for name, column in table.items()} == {
        "image": ["i"],
        "dataset": ["d"],
        "style_0": [0.1],
        "style_1": [-0.25],
    }


def test_images_of_one_kind_lie_close_together(cellkit, tmp_path, data):
    folders = [tmp_path / name for name in ("worms", "cells")]
    sets = (sorted((data / "bbbc010" / "images").glob("*"))[:2], sorted((data / "usiigaci").glob("*_img.png"))[:2])
    for folder, paths in zip(folders, sets, strict=True):
        folder.mkdir()
        for path in paths:
            image = iio.imread(path)
            iio.imwrite(folder / f"{path.stem}.png", image[:256, :256])
    done = cellkit("measure", *folders, "--styles", "-o", "-")
    assert done.code == 0, done.err
    styles = np.array([[row[f"style_{i}"] for i in range(256)] for row in rows(done.text)], float)
    alike = styles @ styles.T
    assert min(alike[0, 1], alike[2, 3]) > alike[:2, 2:].max()
