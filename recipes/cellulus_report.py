"""Gather the scores of a Cellulus recipe: python recipes/cellulus_report.py KIND OUT METRIC...

KIND is methods (of cellulus.sh: scores.csv, table.md), scales (of cellulus-scales.sh) or supported (of
cellulus-supported.sh); these two write results.csv, tables.md and figure.svg. Prints the tables. Runs that are not
finished are not in them, so it can be called at any time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellulus_figure import run_figure, scale_figure
from cellulus_rows import METHODS, read_json, runs_of, scores_of, write_rows
from cellulus_tables import method_table, run_tables, scale_table

from cellkit.errors import CellkitError, InputError, NoInputError
from cellkit.io.atomic import written_whole

SCALE = "scale-"  # a folder for each factor


def report_methods(folder: Path, metrics: Sequence[str]) -> str:
    """Write the table of a run of cellulus.sh and return it.

    Raises:
        NoInputError: nothing is scored.
        InputError: scores cannot be read.
    """
    rows = scores_of(folder, metrics)
    if not rows:
        raise NoInputError(folder, "nothing is scored", "run cellulus.sh first")
    text = method_table(rows, _differences(folder))
    write_rows(folder / "scores.csv", rows)
    _write(folder / "table.md", text)
    return text


def _differences(folder: Path) -> dict[str, dict[str, Any]]:
    """What ``cellkit evaluate --compare`` said of each method and Cellulus."""
    found = {}
    for method in METHODS:
        path = folder / "scores" / f"oce-{method}.json"
        if path.is_file():
            found[method] = read_json(path, "comparison")["comparison"]["metrics"]
    return found


def report_scales(folder: Path, metrics: Sequence[str]) -> str:
    """Write table and figure of cellulus-scales.sh and return the table.

    Raises:
        NoInputError: nothing is scored.
        InputError: scores or the size of objects cannot be read.
    """
    scales = sorted((float(path.name.removeprefix(SCALE)), path) for path in folder.glob(f"{SCALE}*") if path.is_dir())
    rows = [row for scale, path in scales for row in scores_of(path, metrics, scale)]
    if not rows:
        raise NoInputError(folder, "nothing is scored", "run cellulus-scales.sh first")
    text = scale_table(rows, _size(folder / "images/size.txt"))
    _write(folder / "figure.svg", scale_figure(rows))
    write_rows(folder / "results.csv", rows)
    _write(folder / "tables.md", text)
    return text


def _size(path: Path) -> float:
    try:
        return float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            path, "no size of objects can be read", "remove its folder and run the recipe again"
        ) from error


def report_supported(folder: Path, metrics: Sequence[str]) -> str:
    """Write tables and figure of cellulus-supported.sh and return the tables.

    Raises:
        NoInputError: no run is finished.
        InputError: scores cannot be read.
    """
    rows = runs_of(folder, metrics)
    if not rows:
        raise NoInputError(folder, "no run is finished", "run cellulus-supported.sh first")
    text = run_tables(rows)
    _write(folder / "figure.svg", run_figure(rows))
    write_rows(folder / "results.csv", rows)
    _write(folder / "tables.md", text)
    return text


def _write(path: Path, text: str) -> None:
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")


KINDS = {"methods": report_methods, "scales": report_scales, "supported": report_supported}

if __name__ == "__main__":
    try:
        sys.stdout.write(KINDS[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:]))
    except CellkitError as error:
        sys.exit(f"cellulus_report: error: {error}")
