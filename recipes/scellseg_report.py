"""Gather a shot experiment: python recipes/scellseg_report.py OUT METRIC...

Writes OUT/results.csv (and retained.csv), tables.md, figure.svg (and retained.svg), and prints the tables. Runs
that are not finished are not in it, so it can be called at any time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from scellseg_figure import figure
from scellseg_rows import RETAINED, TARGET, gather, write_rows
from scellseg_tables import NOTE, difference_tables, score_tables

from cellkit.errors import CellkitError, NoInputError
from cellkit.io.atomic import written_whole

METRICS = ("ap_dsb@0.5", "ap_dsb", "maji")


def report(folder: Path, metrics: Sequence[str]) -> str:
    """Write all files of the experiment in ``folder`` and return the tables.

    Raises:
        NoInputError: no run is finished.
        InputError: scores cannot be read.
    """
    parts = [NOTE, ""]
    kinds = ((TARGET, "results", "images like the shots"), (RETAINED, "retained", "the base's own kind, tuned to"))
    for file, name, images in kinds:
        rows = gather(folder, metrics, file)
        if not rows and file == TARGET:
            raise NoInputError(folder, "no run is finished", "run scellseg-shots.sh first")
        if rows:
            write_rows(folder / f"{name}.csv", rows)
            _write(folder / ("figure.svg" if file == TARGET else f"{name}.svg"), figure(rows))
            parts += [score_tables(rows, f"Scores on {images}"), difference_tables(rows, f"Differences on {images}")]
    text = "\n".join(parts)
    _write(folder / "tables.md", text)
    return text


def _write(path: Path, text: str) -> None:
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        sys.stdout.write(report(Path(sys.argv[1]), sys.argv[2:] or METRICS))
    except CellkitError as error:
        sys.exit(f"scellseg_report: error: {error}")
