"""What ``cellkit evaluate --curve results.csv`` reads and prints.

The table has one row per run and a line of names. Two kinds are known by their columns:

* ``shots,score``: for each method the curve Y = Bmax X / (Kd + X) of Scellseg.
* ``method,cost,score``, where the cost is called parameters, time or cost: the performance efficiency of CULPICO. The
  method called ``upper bound`` is the one that the others are compared with.

Further columns, all optional: ``method``; ``dataset`` (of shots: a curve each; of costs: a method's scores and costs
are averaged over all its rows); ``metric`` (a curve or a comparison each). Any other column is passed over.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from rich.console import Console
from rich.table import Table

from cellkit.cli.comparing_tables import CsvTable, Row, read_table
from cellkit.errors import InputError, PartialError, UsageError
from cellkit.metrics.curves import efficiency, fit_shots

SHOTS, SCORE = "shots", "score"
COSTS = ("parameters", "time", "cost")
CURVE_SERIES = ("metric", "dataset", "method")  # a curve for each combination
EFFICIENCY_SERIES = ("metric",)  # a comparison for each
UPPER_BOUND = "upper bound"
WIDTH = 100
SHOT_DECIMALS = 4  # a fit of 6.0000001 shots asks for 6
NAMED = 5  # curves named in the closing error

Entry: TypeAlias = dict[str, Any]


def write_curves(path: str, *, as_json: bool = False) -> None:
    """Print the curves or the efficiencies of a table of results.

    Args:
        path: a CSV file; its columns are those of this module's docstring.
        as_json: one JSON document on stdout: ``{"shots": [...]}`` or ``{"efficiency": [...]}``.

    Raises:
        UsageError: the columns are of neither kind, or of both; or no method is the upper bound.
        InputError: the table cannot be read, a number is none, or the only curve cannot be fitted.
        NoInputError: the table has no rows.
        PartialError: some of several curves cannot be fitted; the others are printed.
    """
    table = read_table(path)
    cost = _cost_of(path, table)
    failures: list[str] = []
    if cost is None:
        entries, failures = shot_entries(path, table)
        document, shown = {"shots": entries}, _shots_table(entries)
    else:
        entries = efficiency_entries(path, table, cost)
        document, shown = {"efficiency": entries}, _efficiency_table(entries, cost)
    if as_json:
        sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    else:
        Console(file=sys.stdout, width=WIDTH, markup=False, emoji=False, highlight=False).print(shown)
    if failures:
        more = f"; and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
        problem = f"{len(failures)} of {len(failures) + len(entries)} curves not fitted"
        raise PartialError(path, f"{problem}: {'; '.join(failures[:NAMED])}{more}")


def _cost_of(path: str, table: CsvTable) -> str | None:
    """The column of costs, or None for a table of shots."""
    found = [name for name in (SHOTS, *COSTS) if name in table.columns]
    if SCORE not in table.columns or len(found) != 1:
        have = ", ".join(table.columns)
        wanted = f"it needs {SCORE}, and one of {SHOTS}, {', '.join(COSTS)}"
        raise UsageError("--curve", f"the columns of {path} are {have}", wanted)
    if found[0] == SHOTS:
        return None
    if "method" not in table.columns:
        raise UsageError("--curve", f"{path} has no column method", f"efficiency compares methods by {found[0]}")
    return found[0]


def _series(table: CsvTable, columns: Sequence[str]) -> dict[tuple[str, ...], list[Row]]:
    """The rows by what they have in these columns, in the order of their first rows; "" for columns that are not."""
    series: dict[tuple[str, ...], list[Row]] = {}
    for row in table.rows:
        series.setdefault(tuple(row.cells.get(column, "") for column in columns), []).append(row)
    return series


def shot_entries(path: str, table: CsvTable) -> tuple[list[Entry], list[str]]:
    """The fitted curves as plain dicts, and what was wrong with the others.

    Raises:
        InputError: a number is none, or no curve could be fitted: the reason of the first.
    """
    entries: list[Entry] = []
    errors: list[InputError] = []
    failures: list[str] = []
    for names, rows in _series(table, CURVE_SERIES).items():
        shots, scores = (np.array([row.number(column) for row in rows]) for column in (SHOTS, SCORE))
        try:
            fit = fit_shots(shots, scores)
        except InputError as error:
            known = [name for name in names if name]
            errors.append(InputError(", ".join((path, *known)), error.problem, error.repair))
            failures.append(f"{' '.join(known)}: {error.problem}")
            continue
        values = dataclasses.asdict(fit) | {"shots_for_90_percent": fit.shots_for(0.9)}
        plain = {name: None if math.isnan(value) else value for name, value in values.items()}
        entries.append(_named(CURVE_SERIES, names) | plain)
    if not entries:
        raise errors[0]
    return entries, failures


def efficiency_entries(path: str, table: CsvTable, cost: str) -> list[Entry]:
    """The efficiency of each method by each metric, as plain dicts, the most efficient first.

    Raises:
        UsageError: no method is the upper bound.
        InputError: a number is none, or there is but one method.
    """
    return [
        _named(EFFICIENCY_SERIES, names) | entry
        for names, rows in _series(table, EFFICIENCY_SERIES).items()
        for entry in _compared(path, rows, cost)
    ]


def _compared(path: str, rows: list[Row], cost: str) -> list[Entry]:
    methods: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        methods.setdefault(row.cells["method"], []).append((row.number(SCORE), row.number(cost)))
    names = list(methods)
    bound = [place for place, name in enumerate(names) if _is_upper_bound(name)]
    if len(bound) != 1:
        found = "several methods are" if bound else "no method is"
        raise UsageError("--curve", f"{path}: {found} called {UPPER_BOUND!r}", f"methods: {', '.join(names)}")
    scores, costs = np.array([np.mean(points, axis=0) for points in methods.values()]).T
    try:
        values = efficiency(scores, costs, bound[0])
    except InputError as error:
        raise InputError(path, error.problem, error.repair) from error
    entries = [
        {"method": name, "n": len(methods[name]), SCORE: score, cost: spent, "efficiency": value}
        for name, score, spent, value in zip(names, scores.tolist(), costs.tolist(), values.tolist(), strict=True)
    ]
    return sorted(entries, key=lambda entry: -entry["efficiency"])


def _is_upper_bound(method: str) -> bool:
    return " ".join(method.lower().replace("_", " ").replace("-", " ").split()) == UPPER_BOUND


def _named(columns: Sequence[str], names: Sequence[str]) -> Entry:
    """What tells a series from others, of the columns that the table has."""
    return {column: name for column, name in zip(columns, names, strict=True) if name}


def _shots_table(entries: Sequence[Entry]) -> Table:
    table = _table(CURVE_SERIES, entries, ("points", "Bmax", "Kd", "R2", "shots for 90 %"))
    for entry in entries:
        limit = _with_error(entry["b_max"], entry["b_max_error"])
        centre = _with_error(entry["k_d"], entry["k_d_error"])
        r2 = "-" if entry["r2"] is None else f"{entry['r2']:.4f}"
        table.add_row(*_cells(CURVE_SERIES, entries, entry), str(entry["n"]), limit, centre, r2, _needed(entry))
    return table


def _needed(entry: Entry) -> str:
    """Whole shots, at least one: nobody annotates a part of a shot."""
    return str(max(1, math.ceil(round(entry["shots_for_90_percent"], SHOT_DECIMALS))))


def _efficiency_table(entries: Sequence[Entry], cost: str) -> Table:
    columns = ("metric", "method")
    table = _table(columns, entries, ("runs", SCORE, cost, "efficiency"))
    for entry in entries:
        numbers = (f"{entry[SCORE]:.4f}", _amount(entry[cost]), f"{entry['efficiency']:.4f}")
        table.add_row(*_cells(columns, entries, entry), str(entry["n"]), *numbers)
    return table


def _amount(cost: float) -> str:
    return f"{cost:,.0f}" if cost.is_integer() else f"{cost:,.6g}"


def _table(columns: Sequence[str], entries: Sequence[Entry], numbers: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in _present(columns, entries):
        table.add_column(column, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _present(columns: Sequence[str], entries: Sequence[Entry]) -> list[str]:
    return [column for column in columns if any(column in entry for entry in entries)]


def _cells(columns: Sequence[str], entries: Sequence[Entry], entry: Entry) -> list[str]:
    return [entry.get(column, "") for column in _present(columns, entries)]


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"
