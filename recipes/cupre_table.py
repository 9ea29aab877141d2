"""One table of several targets: python recipes/cupre_table.py OUT...

Each OUT is what cupre-fewshot.sh made for one target; its name stands for the target (of the cell types of LIVECell:
A172, BT474, ...). Prints Table II of CUPre: a line per target and fraction, AP_bbox and AP_segm of all baselines.
Intervals are in OUT/tables.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from cupre_report import score_table
from cupre_rows import METRICS, NAMES, SCRIPT, Row, gather, place_of

from cellkit.errors import CellkitError, NoInputError, UsageError


def table(folders: Sequence[Path]) -> list[str]:
    """The lines of the table.

    Args:
        folders: of the targets, at least one.

    Raises:
        NoInputError: a folder has no finished run.
        InputError: scores cannot be read.
        UsageError: no folder is given, or two are of one name.
    """
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < max(1, len(names)):
        problem = "two folders have one name" if names else "there is no folder"
        raise UsageError("cupre_table", problem, "name the outputs of cupre-fewshot.sh after their targets")
    rows = {name: _rows(folder) for name, folder in zip(names, folders, strict=True)}
    together = sorted((row for found in rows.values() for row in found), key=place_of)
    baselines = list(dict.fromkeys(row.baseline for row in together))
    heads = [f"AP_{metric} {NAMES[name]}" for metric in METRICS for name in baselines]
    lines = ["| target | fraction | " + " | ".join(heads) + " |", "|" + " --- |" * (2 + len(heads))]
    for target, found in rows.items():
        for fraction in sorted({row.fraction for row in found}):
            own = [row for row in found if row.fraction == fraction]
            cells = [cell for metric in METRICS for cell in _cells(own, metric, baselines)]
            lines.append(f"| {target} | {fraction:.0%} | " + " | ".join(cells) + " |")
    return lines


def _rows(folder: Path) -> list[Row]:
    found = gather(folder)
    if not found:
        raise NoInputError(folder, "no run is finished", f"run {SCRIPT} first")
    return found


def _cells(rows: Sequence[Row], metric: str, baselines: Sequence[str]) -> list[str]:
    """Mean and deviation of each baseline, the best bold; empty where it was not run."""
    (line,) = score_table(rows, metric, baselines)[2:]
    return [cell.partition(" [")[0].strip() for cell in line.split("|")[2:-1]]


if __name__ == "__main__":
    try:
        sys.stdout.write("\n".join(table([Path(word) for word in sys.argv[1:]])) + "\n")
    except CellkitError as error:
        sys.exit(f"cupre_table: error: {error}")
