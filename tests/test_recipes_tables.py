"""Tables and figure of the recipes against independent arithmetic."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.stats

from cellkit.cli.comparing_tables import read_table
from cellkit.cli.curve_fits import shot_entries
from cellkit.errors import CellkitError, InputError, NoInputError

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
METRICS = ("ap_dsb@0.5", "maji")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))


def recipe(name: str):
    """The Python beside the scripts, imported as the scripts' own imports find it."""
    return importlib.import_module(f"scellseg_{name}")


def row(**values):
    defaults = {"dataset": "worms", "model": "cellpose", "method": "cellpose classic", "shots": 1, "draw": 0}
    return recipe("rows").Row(**defaults | {"metric": "ap_dsb@0.5", "score": 0.5, "before": 0.1} | values)


def write_scores(path: Path, **values: float | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"n_images": 2, "mean": {"ap_dsb@0.5": 0.5, "maji": 0.25} | values}))


@pytest.fixture
def experiment(tmp_path):
    """Two finished runs, one that is not, and their base."""
    write_scores(tmp_path / "bases/unet2/worms.target.json", maji=0.125)
    write_scores(tmp_path / "bases/unet2/retained.json", maji=0.75)
    for draw, score in ((0, 0.5), (1, 0.625)):
        run = tmp_path / f"runs/worms/unet2/classic/shots3-draw{draw}"
        write_scores(run / "target.json", maji=score)
        write_scores(run / "retained.json", maji=score + 0.125)
    (tmp_path / "runs/worms/unet2/classic/shots8-draw0").mkdir()
    return tmp_path


# Scores to rows


def test_finished_runs_become_rows_with_the_score_of_their_base(experiment):
    rows = recipe("rows").gather(experiment, ["maji"])
    common = {"model": "unet2", "method": "unet2 classic", "shots": 3, "metric": "maji", "before": 0.125}
    assert rows == [row(**common, draw=0, score=0.5), row(**common, draw=1, score=0.625)]


def test_what_is_retained_is_measured_against_the_base_on_its_own_images(experiment):
    rows = recipe("rows").gather(experiment, ["maji"], "retained.json")
    assert [(r.score, r.before) for r in rows] == [(0.625, 0.75), (0.75, 0.75)]


def test_an_undefined_score_is_left_out(experiment):
    write_scores(experiment / "runs/worms/unet2/classic/shots3-draw0/target.json", maji=None)
    assert [r.draw for r in recipe("rows").gather(experiment, METRICS) if r.metric == "maji"] == [1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no scores can be read (remove it and run scellseg-shots.sh again)"),
        ('{"mean": {"aji": 0.5}}', "there is no metric 'maji' (choose from aji)"),
    ],
)
def test_scores_that_cannot_be_used_are_named(experiment, content, message):
    bad = experiment / "runs/worms/unet2/classic/shots3-draw0/target.json"
    bad.write_text(content)
    with pytest.raises(InputError) as caught:
        recipe("rows").gather(experiment, ["maji"])
    assert str(caught.value) == f"{bad}: {message}"


def test_a_run_without_the_score_of_its_base_is_no_run(experiment):
    (experiment / "bases/unet2/worms.target.json").unlink()
    with pytest.raises(InputError, match=r"worms\.target\.json: no scores can be read"):
        recipe("rows").gather(experiment, ["maji"])


def test_rows_come_back_from_the_csv_with_all_digits(tmp_path):
    rows = [row(score=1 / 3, before=0.1 + 0.2), row(dataset='comma, "quoted"', shots=8)]
    recipe("rows").write_rows(tmp_path / "results.csv", rows)
    assert recipe("rows").read_rows(tmp_path / "results.csv") == rows
    assert (tmp_path / "results.csv").read_text().splitlines()[0] == (
        "dataset,model,method,shots,draw,metric,score,before"
    )


def test_a_table_of_something_else_is_refused(tmp_path):
    (tmp_path / "results.csv").write_text("shots,score\n1,0.5\n")
    with pytest.raises(InputError, match=r"is no table of runs \(it needs the columns dataset,|is no table of runs"):
        recipe("rows").read_rows(tmp_path / "results.csv")
    (tmp_path / "results.csv").write_text("dataset,model,method,shots,draw,metric,score,before\n")
    with pytest.raises(NoInputError, match="no run is finished"):
        recipe("rows").read_rows(tmp_path / "results.csv")


def test_the_csv_gives_one_curve_per_dataset_method_and_metric(tmp_path):
    def scores(limit, half):
        return [(shots, limit * shots / (half + shots)) for shots in (1, 3, 8)]

    rows = [row(shots=shots, score=score) for shots, score in scores(0.8, 2.0)]
    rows += [row(method="cellpose l2sp", shots=shots, score=score) for shots, score in scores(0.6, 1.0)]
    rows += [row(dataset="fibroblasts", shots=shots, score=score) for shots, score in scores(0.5, 4.0)]
    path = tmp_path / "results.csv"
    recipe("rows").write_rows(path, rows)
    entries, failures = shot_entries(str(path), read_table(str(path)))
    found = {(e["dataset"], e["method"]): (round(e["b_max"], 5), round(e["k_d"], 4)) for e in entries}
    assert failures == []
    assert found == {
        ("worms", "cellpose classic"): (0.8, 2.0),
        ("worms", "cellpose l2sp"): (0.6, 1.0),
        ("fibroblasts", "cellpose classic"): (0.5, 4.0),
    }


# Tables


@pytest.mark.parametrize("values", [[0.2, 0.5], [0.61, 0.55, 0.7], [0.1, 0.1, 0.4, 0.9, 0.25]])
def test_the_interval_is_that_of_students_t(values):
    found = recipe("tables").estimate(values)
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
    assert (found.n, found.mean, found.sd) == pytest.approx((len(values), np.mean(values), np.std(values, ddof=1)))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_the_note_tells_the_width_of_the_interval_of_three_draws():
    found = recipe("tables").estimate([1.0, 2.0, 3.0])
    assert f"{(found.high - found.mean) / found.sd:.2f} standard deviations" in recipe("tables").NOTE


def test_one_draw_has_no_interval():
    found = recipe("tables").estimate([0.5])
    assert math.isnan(found.sd)
    assert str(found) == "0.500"


def test_differences_are_paired_by_shots_and_draw():
    one = {(1, 0): 0.5, (1, 1): 0.75, (3, 0): 0.625, (3, 2): 0.875}
    other = {(1, 0): 0.25, (1, 1): 0.875, (3, 0): 0.5, (3, 1): 0.5, (8, 0): 0.5}
    rows = [row(method="a", shots=shots, draw=draw, score=score) for (shots, draw), score in one.items()]
    rows += [row(method="b", shots=shots, draw=draw, score=score) for (shots, draw), score in other.items()]
    found = recipe("tables").differences(rows, "a", "b")
    assert found == {"1": [0.25, -0.125], "3": [0.125], "all": [(0.25 + 0.125) / 2]}  # draw 0 alone has both


def test_tables_say_before_after_and_what_is_better():
    rows = []
    for shots, draw, classic, contrastive in ((1, 0, 0.2, 0.3), (1, 1, 0.4, 0.3), (8, 0, 0.6, 0.7), (8, 1, 0.6, 0.9)):
        common = {"model": "scellseg", "shots": shots, "draw": draw, "before": 0.05}
        rows.append(row(**common, method="scellseg classic", score=classic))
        rows.append(row(**common, method="scellseg contrastive", score=contrastive))
    rows.append(row(model="unet2", method="unet2 classic", score=0.25))
    lines = recipe("tables").score_tables(rows, "After").splitlines()
    assert lines[0] == "## After: worms, ap_dsb@0.5"
    assert lines[2] == "| method | before | 1 shot | 8 shots |"
    assert [line.split(" | ")[0] for line in lines[4:7]] == [
        "| unet2 classic",
        "| scellseg classic",
        "| scellseg contrastive",
    ]
    assert lines[4] == "| unet2 classic | 0.100 | 0.250 |  |"
    assert lines[5].startswith("| scellseg classic | 0.050 | 0.300 ± 0.141 [-0.971, 1.571] | 0.600 ± 0.000 [0.600, ")
    differences = recipe("tables").difference_tables(rows, "Differences").splitlines()
    differences = [line for line in differences if "contrastive - scellseg classic" in line]
    assert [line for line in differences if "| 8 |" in line] == [
        "| scellseg contrastive - scellseg classic | 8 | 0.200 ± 0.141 [-1.071, 1.471] | 2 of 2 |"
    ]
    assert next(line for line in differences if "| 1 |" in line).endswith("| 1 of 2 |")


def test_what_tuning_changed_is_told_for_each_method():
    rows = [row(shots=shots, draw=draw, score=0.5 + draw / 4, before=0.75) for shots in (1, 3) for draw in (0, 1, 2)]
    assert recipe("tables").gains(rows, "cellpose classic") == {key: [-0.25, 0.0, 0.25] for key in ("1", "3", "all")}
    lines = recipe("tables").difference_tables(rows, "Differences").splitlines()
    changed = "0.000 ± 0.250 [-0.621, 0.621] | 1 of 3 |"
    assert lines[4:] == [f"| cellpose classic - its base | {shots} | {changed}" for shots in ("1", "3", "all")]


# The figure


def marks_of(document: str) -> dict[str, tuple[float, float]]:
    """Places of the signs of runs by the text that they show."""
    places = {}
    for path in ElementTree.fromstring(document).iter("{http://www.w3.org/2000/svg}path"):
        title = path.find("{http://www.w3.org/2000/svg}title")
        if title is not None:
            x, y = path.attrib["transform"].removeprefix("translate(").removesuffix(")").split()
            places[title.text] = (float(x), float(y))
    return places


def test_the_figure_has_a_panel_per_dataset_and_metric_and_a_line_per_method():
    rows = [
        row(dataset=dataset, method=method, shots=shots, metric=metric)
        for dataset in ("worms", "<cells>")
        for metric in METRICS
        for method in ("a", "b", "c")
        for shots in (1, 3)
    ]
    root = ElementTree.fromstring(recipe("figure").figure(rows))
    titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title") if "against" in title.text]
    assert titles == [f"{metric} on {dataset} against shots" for metric in METRICS for dataset in ("worms", "<cells>")]
    lines = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if path.attrib["class"].startswith("line")]
    assert len(lines) == 3 + 4 * 3  # the legend's, and those of the panels


def test_higher_scores_stand_higher_and_more_shots_further_right():
    rows = [row(shots=shots, score=score, before=0.1) for shots, score in ((1, 0.3), (3, 0.8), (8, 0.6))]
    marks = marks_of(recipe("figure").figure(rows))
    base, one, three, eight = (
        marks[f"cellpose classic, {n} shots: {s:.3f}"] for n, s in ((0, 0.1), (1, 0.3), (3, 0.8), (8, 0.6))
    )
    assert base[0] < one[0] < three[0] < eight[0]
    assert three[1] < eight[1] < one[1] < base[1]
    assert (base[1] - one[1]) / (base[1] - three[1]) == pytest.approx(0.2 / 0.7, abs=0.01)


def test_bars_reach_one_standard_deviation_to_each_side():
    rows = [row(draw=draw, score=score, before=0.0) for draw, score in enumerate((0.3, 0.4, 0.5))]
    document = recipe("figure").figure(rows)
    marks = {text.split(",")[1]: y for text, (_, y) in marks_of(document).items()}
    scale = (next(y for text, y in marks.items() if "0 shots" in text) - min(marks.values())) / 0.4
    bars = [
        p.attrib["d"] for p in ElementTree.fromstring(document).iter() if p.attrib.get("class", "").startswith("bar")
    ]
    assert len(bars) == 1  # the base has none
    low, high = (float(part.split()[1].split("h")[0]) for part in (bars[0][1:].split("M")[0], bars[0].split("M")[3]))
    assert (low - high) / scale == pytest.approx(2 * 0.1, rel=0.01)


# The report


def test_datasets_of_different_size_share_the_tables(experiment):
    write_scores(experiment / "bases/hover/cells.target.json")
    write_scores(experiment / "runs/cells/hover/classic/shots1-draw0/target.json")
    text = recipe("report").report(experiment, METRICS)
    assert [line for line in text.splitlines() if line.startswith("##")] == [
        f"## {what} on {images}: {dataset}, {metric}"
        for images, datasets in (
            ("images like the shots", ("cells", "worms")),
            ("the base's own kind, tuned to", ("worms",)),
        )
        for what in ("Scores", "Differences")
        for dataset in datasets
        for metric in METRICS
    ]
    assert (experiment / "tables.md").read_text() == text


def test_a_report_of_nothing_says_so(tmp_path):
    with pytest.raises(CellkitError) as caught:
        recipe("report").report(tmp_path, METRICS)
    assert str(caught.value) == f"{tmp_path}: no run is finished (run scellseg-shots.sh first)"
