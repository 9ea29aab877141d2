"""The Python of the Cellulus recipes: what images are taken, the classical baseline, rows, tables and figures."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
import scipy.stats
import tifffile

from cellkit.data.layouts import find_pairs, read_names, select
from cellkit.errors import InputError, NoInputError, UsageError
from cellkit.io.sources import find_sources
from cellkit.metrics import score
from cellkit.ops.object_size import typical_size

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "recipes"
METRICS = ("f1@0.5", "ctc/SEG")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))


def recipe(name: str):
    """The Python beside the scripts, imported as the scripts' own imports find it."""
    return importlib.import_module(f"cellulus_{name}")


def discs(shape: tuple[int, int], centres: list[tuple[int, int]], radius: float) -> np.ndarray:
    """Labels (H, W) of discs of one radius; where two meet, half way between their middles is the border."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    distances = np.stack([np.hypot(y - row, x - column) for row, column in centres])
    nearest = distances.argmin(0) + 1
    return np.where(distances.min(0) <= radius, nearest, 0).astype(np.int32)


@pytest.fixture(scope="module")
def field():
    """Labels (120, 160): nine discs of diameter 20, two of which touch, one cut by the edge."""
    centres = [(20, 20), (20, 60), (25, 100), (60, 25), (60, 70), (60, 88), (95, 40), (90, 130), (60, 158)]
    return discs((120, 160), centres, 10)


def picture(labels: np.ndarray, ground: float = 20.0, cell: float = 120.0) -> np.ndarray:
    """Pixels (1, H, W) with noise."""
    noise = np.random.default_rng(0).normal(0, 4, labels.shape)
    return (np.where(labels > 0, cell, ground) + noise).clip(0, 255)[None].astype(np.uint8)


def write_data(folder: Path, labels: np.ndarray, names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number, name in enumerate(names):
        tifffile.imwrite(folder / f"images/{name}.tif", picture(labels, ground=10 + number)[0])
        tifffile.imwrite(folder / f"labels/{name}.tif", labels.astype(np.uint16))
    return folder


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Images


def test_what_is_learned_from_are_images_alone(tmp_path, field):
    data = write_data(tmp_path / "data", field)
    tifffile.imwrite(data / "images/extra.tif", picture(field)[0])  # nobody has labelled it
    recipe("images").lay_out(str(data), tmp_path / "out", {"size": "20"})
    assert names_in(tmp_path / "out/learn") == ["a.tif", "b.tif", "c.tif", "extra.tif"]
    for link in (tmp_path / "out/learn").iterdir():
        assert link.resolve() == data / "images" / link.name
    assert (tmp_path / "out/test.txt").read_text() == "a\nb\nc\n"
    assert (tmp_path / "out/size.txt").read_text() == "20\n"
    assert not (tmp_path / "out/labels").exists()


@pytest.mark.parametrize("layout", ["ctc", "dsb", "name_img"])
def test_label_images_of_other_layouts_are_not_learned_from(tmp_path, field, layout):
    files = {
        "ctc": ("01/t{}.tif", "01_GT/SEG/man_seg{}.tif"),
        "dsb": ("{0}/images/{0}.tif", "{0}/masks/x{0}.tif"),
        "name_img": ("{}_img.tif", "{}_masks.tif"),
    }[layout]
    for number in ("000", "001"):
        for pattern, pixels in zip(files, (picture(field)[0], field.astype(np.uint16)), strict=True):
            path = tmp_path / "data" / pattern.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, pixels)
    recipe("images").lay_out(str(tmp_path / "data"), tmp_path / "out", {"size": "20"})
    learned = find_sources([str(tmp_path / "out/learn")])
    assert len(learned) == 2
    assert all(next(source.images()).pixels[...].max() > field.max() for source in learned)
    known = {pair.key for pair in find_pairs(str(tmp_path / "data")).pairs}
    assert {source.key for source in learned} == set((tmp_path / "out/test.txt").read_text().split()) == known


def test_images_in_a_file_with_others_are_written_as_tiff(tmp_path, field):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for name in ("a", "b"):
            file[f"images/{name}"] = picture(field)[0]
            file[f"labels/{name}"] = field
    recipe("images").lay_out(str(tmp_path / "data.h5"), tmp_path / "out", {"size": "20"})
    assert names_in(tmp_path / "out/learn") == ["a.tif", "b.tif"]
    assert np.array_equal(tifffile.imread(tmp_path / "out/test/b.tif").squeeze(), picture(field)[0])


def test_lists_choose_what_is_learned_from_and_what_is_scored(tmp_path, field):
    data = write_data(tmp_path / "data", field)
    (tmp_path / "learn.txt").write_text("a\nc\n")
    (tmp_path / "test.txt").write_text("b.tif\n")
    values = {"names": str(tmp_path / "learn.txt"), "test_names": str(tmp_path / "test.txt"), "size": "20"}
    recipe("images").lay_out(str(data), tmp_path / "out", values | {"labels": "yes"})
    assert names_in(tmp_path / "out/learn") == names_in(tmp_path / "out/labels") == ["a.tif", "c.tif"]
    assert names_in(tmp_path / "out/test") == ["b.tif"]
    assert np.array_equal(tifffile.imread(tmp_path / "out/labels/a.tif"), field)


def test_the_size_of_objects_is_what_the_images_tell(tmp_path, field):
    data = write_data(tmp_path / "data", field, ("a",))
    recipe("images").lay_out(str(data), tmp_path / "out", {"size": ""})
    size = float((tmp_path / "out/size.txt").read_text())
    assert (tmp_path / "out/told.txt").read_text() == (tmp_path / "out/size.txt").read_text()
    assert size == pytest.approx(typical_size([picture(field, ground=10)]).diameter, abs=0.051)
    assert 15 < size < 30  # of discs of 20


def test_images_of_very_different_sizes_are_told_apart_as_pretrain_does(tmp_path, field):
    data = write_data(tmp_path / "data", field, ("a",))
    tifffile.imwrite(data / "images/large.tif", np.kron(picture(field)[0], np.ones((3, 3), np.uint8)))
    recipe("images").lay_out(str(data), tmp_path / "out", {})
    assert (tmp_path / "out/told.txt").read_text() == "each\n"
    assert 30 < float((tmp_path / "out/size.txt").read_text()) < 60  # half way between 20 and 60, or a little above
    recipe("images").lay_out(str(data), tmp_path / "given", {"size": "20"})
    assert (tmp_path / "given/told.txt").read_text() == "20\n"


def test_images_that_tell_no_size_ask_for_it_and_leave_nothing_behind(tmp_path, empty_field):
    data = write_data(tmp_path / "data", empty_field, ("a",))
    tifffile.imwrite(data / "images/a.tif", np.zeros(empty_field.shape, np.uint8))
    with pytest.raises(UsageError) as caught:
        recipe("images").lay_out(str(data), tmp_path / "out", {})
    problem = "the images do not tell how large their objects are"
    assert str(caught.value) == f"OBJECT_SIZE: {problem} (give their diameter in pixels)"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "value"), [("size", "30"), ("steps", "50"), ("test_names", "one.txt")])
def test_another_experiment_in_the_same_folder_is_refused(tmp_path, field, monkeypatch, name, value):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data", field)
    Path("one.txt").write_text("a\n")
    known = {"size": "20", "steps": "100", "test_names": ""}
    recipe("images").lay_out("data", Path("out"), known)
    recipe("images").lay_out("data", Path("out"), known)
    with pytest.raises(UsageError, match=r"the runs beside it had other settings: .* \(choose another OUT"):
        recipe("images").lay_out("data", Path("out"), known | {name: value})


def test_with_labels_no_image_is_learned_from_and_scored_on(tmp_path, field):
    data = write_data(tmp_path / "data", field)
    with pytest.raises(UsageError, match="it is in the pool too"):
        recipe("images").lay_out(str(data), tmp_path / "out", {"size": "20", "labels": "yes"})


# Fluorescence


def test_fluorescence_is_grey_with_a_dark_ground(field):
    is_fluorescence = recipe("fluorescence").is_fluorescence
    grey = picture(field)
    assert is_fluorescence(grey, rgb=False)
    assert is_fluorescence(np.repeat(grey, 3, 0), rgb=True)
    assert not is_fluorescence(255 - grey, rgb=False)  # bright field
    stained = np.stack([grey[0], grey[0] // 2, grey[0]])
    assert not is_fluorescence(stained, rgb=True)
    assert is_fluorescence(np.stack([grey[0], grey[0] // 2]), rgb=False)  # two stains, no colours
    assert not is_fluorescence(np.zeros((1, 8, 8), np.uint8), rgb=False)


def test_the_fluorescence_images_of_the_validation_list_are_told_from_the_others(data):
    folder = data / "dsb2018"
    found = recipe("fluorescence").fluorescence_names(str(folder), str(folder / "val.txt"))
    pairs = select(find_pairs(str(folder)), read_names(str(folder / "val.txt"))).pairs
    assert (len(pairs), len(found)) == (59, 47)
    for pair in pairs:
        pixels = pair.read().pixels[...].mean(0)
        cells = pair.labels.read().labels > 0
        assert (pixels[cells].mean() > pixels[~cells].mean()) == (pair.key in found)  # cells shine there alone


# The baseline


@pytest.mark.parametrize("inverted", [False, True], ids=["bright on dark", "dark on bright"])
def test_the_baseline_finds_discs(field, inverted):
    pixels = 255 - picture(field) if inverted else picture(field)
    found = recipe("watershed").segment(pixels, 20)
    values = score(field, found).values
    assert (values["n_predicted"], values["f1@0.75"]) == (9, 1.0)
    assert values["ctc/SEG"] > 0.85


def test_the_baseline_drops_what_is_below_a_tenth_of_an_object(field):
    with_dirt = field.copy()
    with_dirt[100:104, 10:14] = 10  # 16 px; a tenth of a disc of 20 px are 31
    assert recipe("watershed").segment(picture(with_dirt), 20).max() == 9
    kept = recipe("watershed").without_small(np.array([[0, 7, 7, 3], [2, 2, 2, 3]]), 3)
    assert kept.tolist() == [[0, 0, 0, 0], [1, 1, 1, 0]]


def test_the_baseline_finds_nothing_where_there_is_nothing(empty_field):
    assert recipe("watershed").segment(np.zeros((1, *empty_field.shape)), 20).max() == 0


def test_the_baseline_fills_a_folder_once(tmp_path, field):
    data = write_data(tmp_path / "data", field)
    run = recipe("watershed").segment_folder
    assert run(str(data / "images"), tmp_path / "out", 20.0) == 3
    assert names_in(tmp_path / "out") == ["a.tif", "b.tif", "c.tif"]
    assert tifffile.imread(tmp_path / "out/b.tif").max() == 9
    with pytest.raises(UsageError, match=r"exists already \(choose another name, or remove it\)"):
        run(str(data / "images"), tmp_path / "out", 20.0)


def test_the_baseline_can_take_the_size_that_each_image_tells(tmp_path, field):
    data = write_data(tmp_path / "data", field, ("a",))
    tifffile.imwrite(data / "images/a.tif", np.kron(picture(field)[0], np.ones((4, 4), np.uint8)))
    found = {}
    for name, each in (("all", False), ("own", True)):
        recipe("watershed").segment_folder(str(data / "images"), tmp_path / name, 400.0, each=each)
        found[name] = int(tifffile.imread(tmp_path / name / "a.tif").max())
    assert found["own"] == 9
    assert found["all"] < 9  # blurred as much as cells of 400 px would bear


def test_the_baseline_finds_most_nuclei_of_the_samples():
    pairs = find_pairs(str(ROOT / "cellkit/samples")).pairs
    shining = [pair for pair in pairs if recipe("fluorescence").is_fluorescence(pair.read().pixels[...], rgb=False)]
    assert len(shining) >= 2
    for pair in shining:
        pixels = pair.read().pixels[...]
        found = recipe("watershed").segment(pixels, typical_size([pixels]).diameter)
        assert score(pair.labels.read().labels, found).values["f1@0.5"] > 0.5


# Scores to tables and figures


def summary(mean: float, n: int = 4) -> dict[str, float | int | None]:
    return {"n": n, "mean": mean, "low": None if n == 1 else mean - 0.1, "high": None if n == 1 else mean + 0.1}


def write_scores(path: Path, mean: float, seg: float | None = 0.25, n: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    means = dict(zip(METRICS, (mean, seg), strict=True))
    summaries = {"f1@0.5": summary(mean, n), "ctc/SEG": summary(seg or 0.0, n if seg is not None else 0)}
    pooled = {name: None if value is None else value + 0.05 for name, value in means.items()}
    path.write_text(json.dumps({"mean": means, "pooled": pooled, "summary": summaries}))


def test_scores_become_rows_and_undefined_ones_are_left_out(tmp_path):
    write_scores(tmp_path / "scores/oce.json", 0.5, seg=None)
    write_scores(tmp_path / "scores/watershed.json", 0.75, n=1)
    rows = recipe("rows").scores_of(tmp_path, METRICS, 1.5)
    assert [(row.method, row.metric, row.scale, row.mean, row.pooled) for row in rows] == [
        ("oce", "f1@0.5", 1.5, 0.5, pytest.approx(0.55)),
        ("watershed", "f1@0.5", 1.5, 0.75, pytest.approx(0.8)),
        ("watershed", "ctc/SEG", 1.5, 0.25, pytest.approx(0.3)),
    ]
    assert math.isnan(rows[1].low)
    assert (rows[0].low, rows[0].high) == (0.4, 0.6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no scores can be read (remove it and run the recipe again)"),
        ('{"summary": 3, "pooled": {}}', "no scores can be read (remove it and run the recipe again)"),
        ('{"summary": {"aji": {}}, "pooled": {}}', "there is no metric 'f1@0.5' (choose from aji)"),
    ],
)
def test_scores_that_cannot_be_used_are_named(tmp_path, content, message):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores/oce.json").write_text(content)
    with pytest.raises(InputError) as caught:
        recipe("rows").scores_of(tmp_path, METRICS)
    assert str(caught.value) == f"{tmp_path}/scores/oce.json: {message}"


@pytest.mark.parametrize("kind", ["methods", "scales", "supported"])
def test_nothing_finished_is_told(tmp_path, kind):
    with pytest.raises(NoInputError, match=r"(nothing is scored|no run is finished) \(run cellulus.*\.sh first\)"):
        recipe("report").KINDS[kind](tmp_path, METRICS)


def test_the_table_of_methods_has_intervals_and_pooled_scores(tmp_path):
    write_scores(tmp_path / "scores/nuclei.json", 0.75, n=1)
    write_scores(tmp_path / "scores/oce.json", 0.5)
    difference = {"n": 4, "difference": -0.25, "low": None, "high": None}
    compared = {"comparison": {"metrics": {"f1@0.5": difference, "ctc/SEG": difference | {"difference": None}}}}
    (tmp_path / "scores/oce-nuclei.json").write_text(json.dumps(compared))
    lines = recipe("report").report_methods(tmp_path, METRICS).splitlines()
    assert lines[2:6] == [
        "| method | images | f1@0.5 | pooled | ctc/SEG | pooled |",
        "|---|---|---|---|---|---|",
        "| Cellulus (no labels) | 4 | 0.500 [0.400, 0.600] | 0.550 | 0.250 [0.150, 0.350] | 0.300 |",
        "| bundled model (supervised) | 1 | 0.750 | 0.800 | 0.250 | 0.300 |",
    ]
    assert lines[-1] == "| Cellulus (no labels) - bundled model (supervised) | -0.250 |  |"


def test_the_table_of_scales_has_a_column_each_in_order_of_size(tmp_path):
    for factor, mean in (("1.25", 0.5), ("0.5", 0.25), ("1", 0.75)):
        write_scores(tmp_path / f"scale-{factor}/scores/oce.json", mean)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/size.txt").write_text("20.0\n")
    text = recipe("report").report_scales(tmp_path, METRICS[:1])
    assert "Sizes of objects that were told: 40.0, 20.0, 16.0 px." in text
    means = "0.250 [0.150, 0.350] | 0.750 [0.650, 0.850] | 0.500 [0.400, 0.600] |"
    assert f"| f1@0.5 | Cellulus (no labels) | mean | {means}" in text.splitlines()
    assert "|  |  | pooled | 0.300 | 0.800 | 0.550 |" in text.splitlines()
    drawn = ElementTree.parse(tmp_path / "figure.svg").getroot()
    texts = [element.text for element in drawn.iter() if element.tag.endswith("text")]
    assert {"0.5", "1", "1.25", "scale factor", "f1@0.5", "Cellulus (no labels)"} <= set(texts)


@pytest.fixture
def experiment(tmp_path):
    """Runs on 5 % of the labels in three draws, on all in one, with pseudo labels in those of 5 %; one unfinished."""
    for draw, (alone, supported) in enumerate([(0.25, 0.5), (0.5, 0.5625), (0.375, 0.75)]):
        write_scores(tmp_path / f"runs/sparse/fraction0.05-draw{draw}/scores.json", alone)
        write_scores(tmp_path / f"runs/supported/fraction0.05-draw{draw}/scores.json", supported)
    write_scores(tmp_path / "runs/sparse/fraction1-draw0/scores.json", 0.875)
    write_scores(tmp_path / "runs/pseudo/fraction0-draw0/scores.json", 0.4375)
    write_scores(tmp_path / "oce.json", 0.375)
    (tmp_path / "runs/supported/fraction1-draw0").mkdir()
    return tmp_path


def test_differences_are_paired_by_draw_with_an_interval_of_t(experiment):
    lines = recipe("report").report_supported(experiment, METRICS[:1]).splitlines()
    alone, supported = np.array([0.25, 0.5, 0.375]), np.array([0.5, 0.5625, 0.75])
    gain = supported - alone
    low, high = scipy.stats.t.interval(0.95, 2, gain.mean(), scipy.stats.sem(gain))
    expected = f"{gain.mean():.3f} ± {gain.std(ddof=1):.3f} [{low:.3f}, {high:.3f}]"
    assert lines[-1] == f"| 5 % | {expected} | 3 of 3 |"
    assert lines[4:6] == ["| learned from | 0 % | 5 % | 100 % |", "|---|---|---|---|"]
    assert "| Cellulus itself | 0.375 |  |  |" in lines
    assert "| pseudo labels alone | 0.438 |  |  |" in lines
    assert any(line.startswith("| labels alone |  | 0.375 ± 0.125 [") and line.endswith("| 0.875 |") for line in lines)
    rows = (experiment / "results.csv").read_text().splitlines()
    assert rows[0] == "method,fraction,draw,metric,mean,pooled"
    assert len(rows) == 1 + 3 + 3 + 1 + 1 + 1


def test_the_figure_has_a_mark_for_each_part_and_bars_of_one_deviation(experiment):
    recipe("report").report_supported(experiment, METRICS)
    drawn = ElementTree.parse(experiment / "figure.svg").getroot()
    titles = {element.text for element in drawn.iter() if element.tag.endswith("title")}
    assert {"labels alone, 100 %: 0.875", "Cellulus itself, 0 %: 0.375"} <= titles
    kinds = [element.get("class", "") for element in drawn.iter()]
    assert sum(kind.startswith("bar") for kind in kinds) == 2  # SEG is the same in all draws
    assert sum(kind.startswith("dot") for kind in kinds) == 2 * (2 + 1 + 1 + 1) + 4  # and the legend's
    places = recipe("figure")._places([0.0, 0.01, 0.1, 1.0])
    assert places == pytest.approx({0.0: 0.0, 0.01: 0.6, 0.1: 1.6, 1.0: 2.6})
