"""Gather a few-shot experiment with detectors: python recipes/cupre_report.py OUT [HEADER]

Writes OUT/results.csv, OUT/tables.md (as Table II of CUPre, with standard deviations and t intervals, and differences
to COCO draw by draw), and where fine-tunings were validated OUT/curves.csv and OUT/figures/curves.svg (as its Figure
3); prints the tables. HEADER is what they begin with. Runs that are not finished are not in it: call it at any time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from cupre_figure import figure
from cupre_rows import METRICS, NAMES, SCRIPT, Row, draws_of, gather, gather_curves, write_rows
from scellseg_tables import NOTE, Estimate, estimate

from cellkit.errors import CellkitError, NoInputError
from cellkit.io.atomic import written_whole

AGAINST = "coco"
WORDS = "Average precision on the test images in percent, over the thresholds of IoU .50:.05:.95. " + NOTE


def report(folder: Path, header: str = "") -> str:
    """Write all files of the experiment in ``folder`` and return the tables.

    Raises:
        NoInputError: no run is finished.
        InputError: scores cannot be read.
    """
    rows = gather(folder)
    if not rows:
        raise NoInputError(folder, "no run is finished", f"run {SCRIPT} first")
    write_rows(folder / "results.csv", rows)
    points = gather_curves(folder)
    if points:
        (folder / "figures").mkdir(exist_ok=True)
        write_rows(folder / "curves.csv", points)
        _write(folder / "figures/curves.svg", figure(points))
    parts = [header, ""] if header else []
    parts += [WORDS, ""]
    for metric in METRICS:
        parts += [f"## AP_{metric}", "", *score_table(rows, metric), ""]
        parts += [f"## AP_{metric}: difference to {NAMES[AGAINST]}", "", *difference_table(rows, metric), ""]
    text = "\n".join(parts)
    _write(folder / "tables.md", text)
    return text


def score_table(rows: Sequence[Row], metric: str, columns: Sequence[str] | None = None) -> list[str]:
    """A line per fraction, a column per baseline (None: those of the rows); the best mean is bold."""
    baselines, fractions = _both(rows)
    baselines = baselines if columns is None else list(columns)
    lines = _head("fraction", *(NAMES[name] for name in baselines))
    for fraction in fractions:
        found = [draws_of(rows, name, fraction, metric) for name in baselines]
        means = [estimate(list(draws.values())).mean if draws else -1.0 for draws in found]
        cells = [
            _bold(_percent(estimate(list(draws.values()))), best=mean == max(means)) if draws else ""
            for draws, mean in zip(found, means, strict=True)
        ]
        lines.append(_line(f"{fraction:.0%}", *cells))
    return lines


def difference_table(rows: Sequence[Row], metric: str) -> list[str]:
    """As :func:`score_table`: by how much a baseline is above COCO in the draws that both have."""
    baselines, fractions = _both(rows)
    others = [name for name in baselines if name != AGAINST]
    lines = _head("fraction", *(NAMES[name] for name in others))
    for fraction in fractions:
        base = draws_of(rows, AGAINST, fraction, metric)
        cells = []
        for name in others:
            own = draws_of(rows, name, fraction, metric)
            gains = [own[draw] - base[draw] for draw in own if draw in base]
            cells.append(_percent(estimate(gains), signed=True) if gains else "")
        lines.append(_line(f"{fraction:.0%}", *cells))
    return lines


def _both(rows: Sequence[Row]) -> tuple[list[str], list[float]]:
    return list(dict.fromkeys(row.baseline for row in rows)), sorted({row.fraction for row in rows})


def _percent(found: Estimate, *, signed: bool = False) -> str:
    form = "+.1f" if signed else ".1f"
    mean = f"{100 * found.mean:{form}}"
    if found.n == 1:
        return mean
    return f"{mean} ± {100 * found.sd:.1f} [{100 * found.low:{form}}, {100 * found.high:{form}}]"


def _bold(text: str, *, best: bool) -> str:
    number, space, rest = text.partition(" ")
    return f"**{number}**{space}{rest}" if best else text


def _head(*cells: str) -> list[str]:
    return [_line(*cells), "|" + " --- |" * len(cells)]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _write(path: Path, text: str) -> None:
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        sys.stdout.write(report(Path(sys.argv[1]), *sys.argv[2:3]))
    except CellkitError as error:
        sys.exit(f"cupre_report: error: {error}")
