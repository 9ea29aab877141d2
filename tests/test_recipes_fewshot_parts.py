"""The Python of the few-shot recipe: images, watershed, rows, and tables against independent arithmetic."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.stats
import tifffile
from scipy import ndimage

from cellkit.cli.training import datasets
from cellkit.data.diameter import diameter_of
from cellkit.data.splits import draw_shots
from cellkit.errors import InputError, NoInputError, UsageError
from cellkit.metrics import score

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
METRICS = ("iou", "ap_dsb@0.5")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))


def recipe(name: str):
    """The Python beside the scripts, imported as the scripts' own imports find it."""
    return importlib.import_module(f"fewshot_{name}")


def discs(*places: tuple[int, int, int]) -> np.ndarray:
    """Labels (80, 100) of discs (row, column, radius)."""
    y, x = np.ogrid[:80, :100]
    labels = np.zeros((80, 100), np.int32)
    for number, (row, column, radius) in enumerate(places, 1):
        labels[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = number
    return labels


def write_domain(folder: Path, count: int, seed: int = 0, radius: int = 10) -> Path:
    noise = np.random.default_rng(seed)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        labels = discs((30, 30, radius + number % 3), (40, 70, radius + number % 3))
        pixels = (labels > 0) * 100 + noise.integers(0, 50, labels.shape)
        tifffile.imwrite(folder / f"images/i{number}.tif", pixels.astype(np.uint8))
        tifffile.imwrite(folder / f"labels/i{number}.tif", labels.astype(np.uint16))
    return folder


# Images


@pytest.fixture
def domains(tmp_path):
    """Two domains of 8 and 5 images whose files have the same names."""
    return [str(write_domain(tmp_path / name, count, seed)) for seed, (name, count) in enumerate((("a", 8), ("b", 5)))]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in (folder / "images").iterdir()}


def test_pool_and_test_images_are_apart_and_sources_are_whole(domains, tmp_path):
    lines = recipe("images").lay_out(domains, tmp_path / "out", {"pool": "4", "test": "", "steps": "3"})
    assert lines == ["a: 8 in source/, 4 in pool/, 4 in test/", "b: 5 in source/, 2 in pool/, 3 in test/"]
    for name, count in (("a", 8), ("b", 5)):
        pool, test = names_in(tmp_path / "out/pool" / name), names_in(tmp_path / "out/test" / name)
        assert pool.isdisjoint(test)
        assert pool | test == names_in(tmp_path / "out/source" / name)
        assert len(pool | test) == count
    link = tmp_path / "out/source/b/images/i3.tif"
    assert link.resolve() == Path(domains[1]) / "images/i3.tif"
    expected = tifffile.imread(Path(domains[1]) / "labels/i3.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "out/source/b/labels/i3.tif"), expected)
    pooled = [diameter_of(tifffile.imread(path)) for path in (tmp_path / "out/pool/a/labels").iterdir()]
    assert float((tmp_path / "out/a.diameter.txt").read_text()) == pytest.approx(np.median(pooled), abs=0.01)


def test_counts_are_limits_and_the_seed_chooses_the_images(domains, tmp_path):
    chosen = {}
    for seed in ("0", "1"):
        values = {"pool": "2", "test": "3", "source": "4", "seed": seed}
        recipe("images").lay_out(domains, tmp_path / seed, values)
        chosen[seed] = [names_in(tmp_path / seed / part / "a") for part in ("source", "pool", "test")]
        assert [len(names) for names in chosen[seed]] == [4, 2, 3]
    assert chosen["0"] != chosen["1"]


def test_a_domain_with_few_images_is_a_source_only(domains, tmp_path):
    lines = recipe("images").lay_out(domains, tmp_path / "out", {"least": "5"})
    assert lines == ["a: 8 in source/, 3 in pool/, 5 in test/", "b: 5 in source/"]
    assert not (tmp_path / "out/pool/b").exists()


def test_images_with_equal_bytes_count_once(domains, tmp_path):
    for part in ("images", "labels"):
        folder = Path(domains[0]) / part
        (folder / "again.tif").write_bytes((folder / "i0.tif").read_bytes())
    assert recipe("images").lay_out(domains, tmp_path / "out", {"pool": "4"})[0].startswith("a: 8 in source/")


def test_a_test_image_in_another_domain_is_refused(domains, tmp_path):
    for part in ("images", "labels"):
        (Path(domains[1]) / part / "x.tif").write_bytes((Path(domains[0]) / part / "i0.tif").read_bytes())
    with pytest.raises(UsageError) as caught:
        recipe("images").lay_out(domains, tmp_path / "out", {"pool": "1", "least": "1"})
    assert str(caught.value).startswith(str(tmp_path))
    assert str(caught.value).endswith("(never score on images that may be learned from: take one away)")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "4"}, "had other settings: steps 3, now 4 (choose another OUT, or remove its folder to begin anew)"),
        ({"seed": "1"}, "had other settings: images of pool/a "),
    ],
    ids=["settings", "images"],
)
def test_another_experiment_in_the_same_folder_is_refused(domains, tmp_path, change, message):
    known = {"steps": "3", "pool": "3"}
    for _ in range(2):
        recipe("images").lay_out(domains, tmp_path / "out", known)
    with pytest.raises(UsageError) as caught:
        recipe("images").lay_out(domains, tmp_path / "out", known | change)
    assert message in str(caught.value)


def test_domains_that_cannot_be_left_out_are_refused(domains, tmp_path):
    with pytest.raises(UsageError) as caught:
        recipe("images").lay_out(domains[:1], tmp_path / "out", {})
    assert str(caught.value) == "a: one domain leaves no other to learn from (give two or more)"
    with pytest.raises(UsageError) as caught:
        recipe("images").lay_out([*domains, domains[0] + "/."], tmp_path / "out", {})
    assert str(caught.value) == "a: two domains have this name (give each once, in folders of different names)"
    with pytest.raises(UsageError) as caught:
        recipe("images").lay_out(domains, tmp_path / "out", {"pool": "0"})
    assert str(caught.value) == "POOL: '0' is no number of images (give a whole number from 1)"


# Watershed


def test_cells_that_touch_are_parted_and_the_foreground_stays():
    truth = discs((30, 30, 12), (30, 52, 12), (60, 80, 12))
    truth[5, 90] = 4  # a speck
    found = recipe("watershed").parted((truth > 0).astype(np.uint8), 24.0)
    assert ndimage.label(truth > 0)[1] == 3
    assert np.array_equal(found > 0, truth > 0)
    values = score(truth, found).values
    assert (values["n_predicted"], values["iou"], values["ap_dsb@0.5"]) == (4, 1.0, 1.0)
    assert not recipe("watershed").parted(np.zeros((9, 9), np.uint16), 24.0).any()


def test_a_folder_of_label_images_is_parted_and_what_was_there_goes(tmp_path):
    (tmp_path / "labels").mkdir()
    truth = discs((30, 30, 12), (30, 52, 12))
    tifffile.imwrite(tmp_path / "labels/x.tif", (truth > 0).astype(np.uint16))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old.tif").touch()
    assert recipe("watershed").part_folder(str(tmp_path / "labels"), tmp_path / "out", 24.0) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.tif"]
    assert tifffile.imread(tmp_path / "out/x.tif").max() == 2


def test_label_images_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(NoInputError) as caught:
        recipe("watershed").part_folder(str(tmp_path), tmp_path / "out", 24.0)
    assert str(caught.value) == f"{tmp_path}: no label image is in it (NAME.tif) (segment images into it first)"
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((5, 6, 7), np.uint16))
    with pytest.raises(InputError, match=r"x\.tif: has the shape \(5, 6, 7\) \(give label images \(H, W\)\)"):
        recipe("watershed").part_folder(str(tmp_path), tmp_path / "out", 24.0)
    (tmp_path / "x.tif").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"x\.tif: cannot be read as TIFF \(segment its image again\)"):
        recipe("watershed").part_folder(str(tmp_path), tmp_path / "out", 24.0)


@pytest.mark.parametrize(("shots", "draw"), [(1, 0), (1, 3), (2, 1)])
def test_the_size_is_that_of_the_shots_that_are_tuned_to(tmp_path, shots, draw):
    pool = write_domain(tmp_path / "pool:1", 6)
    selection, _ = datasets([str(pool)], names=None, val=None, pairs=None, channels=None, seed=0)
    chosen = draw_shots([pair.key for pair in selection.pairs], shots, draw)
    own = [diameter_of(pair.labels.read().labels) for pair in selection.pairs if pair.key in chosen]
    assert recipe("watershed").size_of(f"{pool}:{shots}:{draw}") == pytest.approx(np.median(own))
    assert recipe("watershed").size_of("24.5") == 24.5


# Rows


def write_scores(path: Path, iou: float | None, instances: float = 0.25) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"mean": dict(zip(METRICS, (iou, instances), strict=True))}))


SCORES = {  # by target, model and shots: of draws 0, 1, 2
    ("a", "reptile-bce", 1): (0.25, 0.5, 0.625),
    ("a", "reptile-all", 1): (0.5, 0.625, 0.625),
    ("a", "transfer", 1): (0.125, 0.25, 0.5),
    ("a", "reptile-bce", 5): (0.5, 0.75, 0.625),
    ("a", "reptile-all", 5): (0.75, 0.75, 0.875),
    ("a", "transfer", 5): (0.5, 0.75, 0.75),
    ("b", "reptile-bce", 1): (0.75, 0.625, 0.5),
    ("b", "reptile-all", 1): (0.875, 0.5, 0.75),
    ("b", "transfer", 1): (0.5, 0.375, 0.625),
}
BEFORE = {"reptile-bce": 0.0625, "reptile-all": 0.125, "transfer": 0.1875}


@pytest.fixture
def experiment(tmp_path):
    """Target a with 1 and 5 shots, b with 1; one run is not finished, one with 5 shots of b has no company."""
    for (target, model, shots), values in SCORES.items():
        write_scores(tmp_path / f"runs/{target}/{model}/untuned.json", BEFORE[model])
        for draw, iou in enumerate(values):
            write_scores(tmp_path / f"runs/{target}/{model}/shots{shots}-draw{draw}/target.json", iou)
    (tmp_path / "runs/b/transfer/shots5-draw0").mkdir()
    write_scores(tmp_path / "runs/b/reptile-all/shots5-draw0/target.json", 0.875)
    return tmp_path


def test_finished_runs_become_rows(experiment):
    write_scores(experiment / "runs/a/transfer/shots1-draw2/target.json", None)
    rows = recipe("rows").gather(experiment, METRICS)
    assert len(rows) == 2 * (3 * len(SCORES) + 1) - 1
    one = next(r for r in rows if (r.dataset, r.model, r.shots, r.draw) == ("a", "reptile-all", 5, 2))
    assert (one.method, one.metric, one.score, one.before) == ("reptile BCE+ER+D", "iou", 0.875, 0.125)
    assert [recipe("rows").name_of(name) for name in ("anil-er", "fomaml-d", "transfer")] == [
        "anil BCE+ER",
        "fomaml BCE+D",
        "transfer",
    ]


def test_a_model_without_a_score_at_0_shots_is_named(experiment):
    (experiment / "runs/a/transfer/untuned.json").unlink()
    with pytest.raises(InputError, match=r"a/transfer/untuned\.json: no scores can be read"):
        recipe("rows").gather(experiment, METRICS)


# Tables


def shown(values: np.ndarray) -> str:
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, values.mean(), scipy.stats.sem(values))
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f} [{low:.3f}, {high:.3f}]"


def scores_of(target: str, model: str, shots: int) -> np.ndarray:
    return np.array(SCORES[target, model, shots])


@pytest.fixture
def lines(experiment):
    return recipe("report").report(experiment, METRICS, header="Sizes: none.").splitlines()


def part(lines: list[str], title: str) -> list[str]:
    """The lines of a table and what stands below it."""
    start = lines.index(title)
    return lines[start : next((i for i in range(start + 1, len(lines)) if lines[i].startswith("#")), len(lines))]


def test_each_target_has_its_table_and_its_figure(lines, experiment):
    assert lines[0] == "Sizes: none."
    table = part(lines, "## Scores: a, iou")
    assert table[2] == "| method | before | 1 shot | 5 shots |"
    assert [line.split(" | ")[0] for line in table[4:7]] == ["| reptile BCE", "| reptile BCE+ER+D", "| transfer"]
    cells = " | ".join(shown(scores_of("a", "reptile-all", shots)) for shots in (1, 5))
    assert table[5] == f"| reptile BCE+ER+D | 0.125 | {cells} |"
    for name in ("a", "b", "average"):
        ElementTree.parse(experiment / f"figures/{name}.svg")
    assert len((experiment / "results.csv").read_text().splitlines()) == 1 + 2 * (3 * len(SCORES) + 1)


def test_differences_to_transfer_and_of_the_losses_are_paired_by_draw(lines):
    table = part(lines, "## Differences: a, iou")
    gain = scores_of("a", "reptile-all", 5) - scores_of("a", "transfer", 5)
    assert f"| reptile BCE+ER+D - transfer | 5 | {shown(gain)} | 2 of 3 |" in table
    both = np.mean([scores_of("a", "reptile-bce", k) - scores_of("a", "transfer", k) for k in (1, 5)], axis=0)
    assert f"| reptile BCE - transfer | all | {shown(both)} | 2 of 3 |" in table
    terms = scores_of("a", "reptile-all", 1) - scores_of("a", "reptile-bce", 1)
    assert f"| reptile BCE+ER+D - reptile BCE | 1 | {shown(terms)} | 2 of 3 |" in table
    assert not any("transfer - reptile" in line for line in table)


def test_the_average_is_over_targets_that_all_methods_have_draw_by_draw(lines):
    titles = [line for line in lines if line.startswith("## Scores: average")]
    assert titles == [f"## Scores: average of targets, {metric}" for metric in METRICS]
    table = part(lines, titles[0])
    assert table[2] == "| method | before | 1 shot | 5 shots |"
    mean = np.mean([scores_of(target, "reptile-all", 1) for target in "ab"], axis=0)
    assert table[5] == f"| reptile BCE+ER+D | 0.125 | {shown(mean)} | {shown(scores_of('a', 'reptile-all', 5))} |"
    assert "Targets by number of shots: 1: a, b; 5: a. Compare methods within a column, not columns." in table
    difference = mean - np.mean([scores_of(target, "transfer", 1) for target in "ab"], axis=0)
    expected = f"| reptile BCE+ER+D - transfer | 1 | {shown(difference)} | 3 of 3 |"
    assert expected in part(lines, "## Differences: average of targets, iou")


def test_one_target_has_no_average(tmp_path):
    write_scores(tmp_path / "runs/a/transfer/untuned.json", 0.25)
    write_scores(tmp_path / "runs/a/transfer/shots1-draw0/target.json", 0.5)
    text = recipe("report").report(tmp_path, METRICS)
    assert "average of targets" not in text
    assert "Differences" not in text
    assert "| transfer | 0.250 | 0.500 |" in text
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["a.svg"]


# Ladders

CLIMBED = {  # by model and number of steps: of draws 0 and 1
    ("reptile-all", 1): (0.25, 0.375),
    ("reptile-all", 10): (0.5, 0.75),
    ("reptile-all", 100): (0.75, 0.75),
    ("transfer", 1): (0.125, 0.125),
    ("transfer", 10): (0.25, 0.25),
    ("transfer", 100): (0.625, 0.625),
}


@pytest.fixture
def ladder(tmp_path):
    for (model, steps), values in CLIMBED.items():
        for draw, iou in enumerate(values):
            write_scores(tmp_path / f"runs/a/{model}/steps{steps}-draw{draw}/target.json", iou)
    write_scores(tmp_path / "runs/a/transfer/episodes30-draw0/target.json", 0.5)
    return tmp_path


def test_ladders_tell_the_first_number_of_steps_that_reaches_a_score(ladder):
    lines = recipe("report").report(ladder, METRICS, ["0.6", "0.7"]).splitlines()
    table = part(lines, "## Fine-tuning steps: a, iou")
    assert table[2].startswith(
        "| method | 1 | 10 | 100 | first to reach 0.6 | draws | times fewer than transfer | first"
    )
    assert table[4].endswith("| 10 | 1 of 2 | 10 | 100 | 2 of 2 | > 1 |")
    assert shown(np.array(CLIMBED["reptile-all", 10])) in table[4]
    assert table[5].endswith("| 100 | 2 of 2 |  | > 100 |  |  |")
    other = part(lines, "## Meta-training episodes (transfer: training on as many crops): a, iou")
    assert other[4] == "| transfer | 0.500 | > 30 |  |  | > 30 |  |  |"
    rows = (ladder / "ladder.csv").read_text().splitlines()
    assert rows[0] == "target,method,ladder,count,draw,metric,score"
    assert len(rows) == 1 + 2 * len(CLIMBED) + 1


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        ({1: 0.5, 10: 0.75}, {1: 0.5, 10: 0.5, 30: 0.75}, ["10", "1 of 1", "3"]),
        ({1: 0.75, 10: 0.75}, {1: 0.5, 10: 0.75}, ["<= 1", "1 of 1", ">= 10"]),
        ({1: 0.5, 10: 0.75}, {1: 0.75, 10: 0.75}, ["10", "1 of 1", "<= 0.1"]),
        ({1: 0.75}, {1: 0.75}, ["<= 1", "1 of 1", ""]),
        ({1: 0.5, 10: 0.75}, {1: 0.5, 30: 0.5}, ["10", "1 of 1", "> 3"]),
        ({1: 0.5}, {1: 0.75}, ["> 1", "", ""]),
    ],
    ids=["both", "own is a bound", "the other's is a bound", "both are bounds", "the other does not", "does not"],
)
def test_how_many_times_the_other_needs_is_a_bound_where_a_ladder_ends(own, other, expected):
    scores = [{count: {0: score} for count, score in found.items()} for found in (own, other)]
    assert recipe("tables")._goal_cells(*scores, 0.6) == expected


@pytest.mark.parametrize("text", ["much", "0", "1.5", "nan"])
def test_a_goal_that_is_no_score_is_refused(ladder, text):
    with pytest.raises(UsageError) as caught:
        recipe("report").report(ladder, METRICS, [text])
    assert str(caught.value) == f"STEPS_TO: '{text}' is no score (give numbers above 0 and up to 1, e.g. 0.6)"


def test_a_report_of_nothing_says_so(tmp_path):
    with pytest.raises(NoInputError) as caught:
        recipe("report").report(tmp_path, METRICS)
    assert str(caught.value) == f"{tmp_path}: no run is finished (run few-shot-lodo.sh first)"
