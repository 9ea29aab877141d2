"""Curves and efficiencies of tables of results."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cellkit.cli.curve_fits import write_curves
from cellkit.errors import InputError, NoInputError, PartialError, UsageError
from cellkit.metrics.curves import efficiency, fit_shots

SHOTS = (1, 2, 4, 8)


@pytest.fixture
def table(tmp_path):
    def write(*lines: str) -> str:
        path = tmp_path / "results.csv"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(path)

    return write


def curve(prefix: str, b_max: float, k_d: float) -> list[str]:
    """Rows of an exact curve, after what tells it from others."""
    return [f"{prefix}{shots},{b_max * shots / (k_d + shots)!r}" for shots in SHOTS]


def test_a_curve_per_method(table, capsys):
    path = table("method,shots,score", *curve("CFT,", 0.8, 0.5), *curve("[red]FT,", 0.7, 1.5))
    write_curves(path)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "method points Bmax Kd R2 shots for 90 %".split()
    assert [(line[0], line[1], line[2], line[-1]) for line in lines[1:]] == [
        ("CFT", "4", "0.8", "5"),  # 9 x 0.5 = 4.5 shots
        ("[red]FT", "4", "0.7", "14"),
    ]


def test_json_of_curves(table, capsys):
    path = table("method,shots,score", *curve("CFT,", 0.8, 0.5), "two,1,0.4", "two,3,0.6")
    write_curves(path, as_json=True)
    first, second = json.loads(capsys.readouterr().out)["shots"]
    assert (first["method"], first["n"]) == ("CFT", 4)
    assert (first["b_max"], first["k_d"], first["r2"]) == pytest.approx((0.8, 0.5, 1.0))
    assert first["shots_for_90_percent"] == pytest.approx(4.5)
    assert (second["b_max_error"], second["k_d_error"]) == (None, None)


def test_whole_shots_are_asked_for(table, capsys):
    numbers = range(1, 20)
    rows = [row for number in numbers for row in curve(f"m{number},", 0.9, number / 9)]
    write_curves(table("method,shots,score", *rows))
    needed = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert needed == [str(number) for number in numbers]  # 6.0000001 is 6


def test_a_plateau_needs_one_shot(table, capsys):
    write_curves(table("shots,score", "1,0.5", "2,0.5", "3,0.5"))
    assert capsys.readouterr().out.splitlines()[1].split()[-2:] == ["-", "1"]


def test_curves_per_dataset_and_metric(table, capsys):
    rows = [line for name in ("elegans", "mito") for line in curve(f"{name},ap,", 0.8, 1.0 + len(name))]
    write_curves(table("dataset,metric,shots,score,seed", *(f"{row},1" for row in rows)), as_json=True)
    entries = json.loads(capsys.readouterr().out)["shots"]
    assert [(entry["dataset"], entry["metric"]) for entry in entries] == [("elegans", "ap"), ("mito", "ap")]
    assert [entry["k_d"] for entry in entries] == pytest.approx([8.0, 5.0])
    assert "method" not in entries[0]


def test_repeats_are_points(table, capsys):
    generator = np.random.default_rng(0)
    shots = np.repeat(SHOTS, 5).astype(float)
    scores = 0.8 * shots / (1 + shots) + generator.normal(0, 0.02, shots.size)
    write_curves(
        table("shots,score", *(f"{x},{y!r}" for x, y in zip(shots, scores.tolist(), strict=True))), as_json=True
    )
    entry = json.loads(capsys.readouterr().out)["shots"][0]
    fit = fit_shots(shots, scores)
    assert (entry["n"], entry["b_max"], entry["k_d_error"]) == (20, fit.b_max, fit.k_d_error)


def test_what_cannot_be_fitted_does_not_stop_the_others(table, capsys):
    path = table("method,shots,score", *curve("good,", 0.8, 1), "line,1,0.1", "line,2,0.2", "once,3,0.5")
    with pytest.raises(PartialError) as error:
        write_curves(path, as_json=True)
    assert str(error.value) == (
        f"{path}: 2 of 3 curves not fitted: line: the scores do not level off, so the curve has no limit; "
        "once: a curve needs scores at two numbers of shots at least"
    )
    assert [entry["method"] for entry in json.loads(capsys.readouterr().out)["shots"]] == ["good"]


def test_no_curve_can_be_fitted(table, capsys):
    path = table("method,shots,score", "line,1,0.1", "line,2,0.2")
    with pytest.raises(InputError) as error:
        write_curves(path)
    message = f"{path}, line: the scores do not level off, so the curve has no limit (add scores at more shots)"
    assert str(error.value) == message
    assert capsys.readouterr().out == ""


METHODS = ("lower bound,17266241,0.6", "Upper_Bound,17266241,0.9", "ours,34532482,0.85", "Na,51798723,0.87")


def test_efficiency_of_methods(table, capsys):
    write_curves(table("method,parameters,score", *METHODS))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["method", "runs", "score", "parameters", "efficiency"]
    assert lines[1] == ["Upper_Bound", "1", "0.9000", "17,266,241", "1.0000"]
    assert lines[2][0] == "ours"
    assert {line[-1] for line in lines[3:]} >= {"0.0000"}


def test_json_of_efficiency(table, capsys):
    write_curves(table("method,parameters,score", *METHODS), as_json=True)
    entries = {entry["method"]: entry for entry in json.loads(capsys.readouterr().out)["efficiency"]}
    rows = [method.split(",") for method in METHODS]
    expected = efficiency(np.array([float(row[2]) for row in rows]), np.array([float(row[1]) for row in rows]), 1)
    assert [entries[row[0]]["efficiency"] for row in rows] == pytest.approx(expected)
    assert list(entries) == sorted(entries, key=lambda name: -entries[name]["efficiency"])


@pytest.mark.parametrize("cost", ["parameters", "time", "cost"])
def test_a_method_is_the_mean_of_its_rows(table, capsys, cost):
    rows = ("upper bound,a,1,0.8", "upper bound,b,1,1.0", "x,a,2,0.5", "x,b,4,0.7", "y,a,5.5,0.1")
    write_curves(table(f"method,dataset,{cost},score", *rows), as_json=True)
    entries = {entry["method"]: entry for entry in json.loads(capsys.readouterr().out)["efficiency"]}
    assert (entries["x"]["n"], entries["x"]["score"], entries["x"][cost]) == (2, pytest.approx(0.6), 3.0)
    expected = efficiency(np.array([0.9, 0.6, 0.1]), np.array([1, 3, 5.5]), 0)
    assert [entries[name]["efficiency"] for name in ("upper bound", "x", "y")] == pytest.approx(expected)


def test_each_metric_is_a_comparison_of_its_own(table, capsys):
    rows = ("iou,upper bound,1,0.9", "iou,x,2,0.5", "iou,y,1,0.6", "hd95,upper bound,1,4", "hd95,x,2,9", "hd95,y,1,20")
    write_curves(table("metric,method,cost,score", *rows))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:2] == ["metric", "method"]
    assert [line[0] for line in lines[1:]] == ["iou"] * 3 + ["hd95"] * 3
    assert [line[-1] for line in lines if "upper" in line] == ["1.0000", "1.0000"]


@pytest.mark.parametrize(
    ("lines", "kind", "message"),
    [
        (
            ("method,score", "a,1"),
            UsageError,
            "--curve: the columns of {path} are method, score (it needs score, and one of shots, parameters, time, ",
        ),
        (
            ("shots,time,score", "1,1,1"),
            UsageError,
            "--curve: the columns of {path} are shots, time, score (it needs score, and one of shots, ",
        ),
        (("shots", "1"), UsageError, "--curve: the columns of {path} are shots (it needs score, and one of shots,"),
        (
            ("time,score", "1,1"),
            UsageError,
            "--curve: {path} has no column method (efficiency compares methods by time)",
        ),
        (
            ("method,time,score", "a,1,1", "b,2,2"),
            UsageError,
            "--curve: {path}: no method is called 'upper bound' (methods: a, b)",
        ),
        (
            ("method,time,score", "upper bound,1,1", "Upper-Bound,2,2"),
            UsageError,
            "--curve: {path}: several methods are called 'upper bound' (methods: upper bound, Upper-Bound)",
        ),
        (
            ("method,time,score", "upper bound,1,1"),
            InputError,
            "{path}: there is nothing to compare with the upper bound (add other methods)",
        ),
        (("shots,score", "1,high"), InputError, "{path}, line 2: score 'high' is no number (leave undefined rows out)"),
        (
            ("shots,score", "1,0.5", "2,"),
            InputError,
            "{path}, line 3: score '' is no number (leave undefined rows out)",
        ),
        (("shots,score", "1,nan"), InputError, "{path}, line 2: score 'nan' is no number (leave undefined rows out)"),
        (("shots,score",), NoInputError, "{path}: the table has no rows (one line of names, then one line per row)"),
        (("shots,score", "0,0.5", "1,0.7"), InputError, "{path}: the curve is 0 at 0 shots, whatever the scores"),
    ],
)
def test_tables_that_tell_no_curve(table, capsys, lines, kind, message):
    path = table(*lines)
    with pytest.raises(kind) as error:
        write_curves(path)
    assert str(error.value).startswith(message.format(path=path))
    assert capsys.readouterr().out == ""
