"""Scores and curves of a few-shot experiment with detectors, from what ``cellkit evaluate`` and ``finetune`` wrote."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cellkit.errors import InputError
from cellkit.io.atomic import written_whole

METRICS = {"bbox": "coco/bbox/AP", "segm": "coco/segm/AP"}  # AP_bbox and AP_segm
BASELINES = ("scratch", "cells-moco", "coco", "coco++", "cupre--", "cupre", "cupre++")  # in the order of the tables
NAMES = {
    "scratch": "Scratch",
    "cells-moco": "Cells-MoCo",
    "coco": "COCO",
    "coco++": "COCO++",
    "cupre--": "CUPre--",
    "cupre": "CUPre",
    "cupre++": "CUPre++",
}
RUN = re.compile(r"fraction([0-9.]+)-draw(\d+)")
SCRIPT = "cupre-fewshot.sh"
SCORES, CURVE = "scores.json", "curve.csv"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One score of one fine-tuned model, as the CSV has it.

    Attributes:
        baseline: a name of ``BASELINES``.
        fraction: part of the pool that was learned from.
        draw: seed of the draw and of the training.
        metric: ``bbox`` or ``segm``.
        score: average precision on the test images, 0 to 1.
    """

    baseline: str
    fraction: float
    draw: int
    metric: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """One validation in the course of a fine-tuning; see :class:`Row`.

    Attributes:
        step: of the optimiser.
    """

    baseline: str
    fraction: float
    draw: int
    metric: str
    step: int
    score: float


def place_of(row: Row | Point) -> tuple[int, float, int, str]:
    """Sort key: the order of the tables."""
    return BASELINES.index(row.baseline), row.fraction, row.draw, row.metric


def gather(folder: Path) -> list[Row]:
    """All runs that are finished.

    Args:
        folder: with runs/BASELINE/fractionF-drawD/scores.json, as cupre-fewshot.sh makes them.

    Raises:
        InputError: a file cannot be read or lacks a score.
    """
    rows = []
    for path, baseline, fraction, draw in _runs(folder, SCORES):
        try:
            pooled = json.loads(path.read_text(encoding="utf-8"))["pooled"]
            scores = {metric: float(pooled[name]) for metric, name in METRICS.items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(path, "no scores can be read", f"remove it and run {SCRIPT} again") from error
        for metric, score in scores.items():
            rows.append(Row(baseline=baseline, fraction=fraction, draw=draw, metric=metric, score=score))
    return sorted(rows, key=place_of)


def gather_curves(folder: Path) -> list[Point]:
    """All validations of all fine-tunings that had some.

    Raises:
        InputError: a file cannot be read.
    """
    points = []
    for path, baseline, fraction, draw in _runs(folder, CURVE):
        try:
            with path.open(newline="", encoding="utf-8") as file:
                found = [row for row in csv.DictReader(file) if row.get(METRICS["bbox"])]
            for row in found:
                at = {"baseline": baseline, "fraction": fraction, "draw": draw, "step": int(row["step"])}
                points += [Point(**at, metric=metric, score=float(row[name])) for metric, name in METRICS.items()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(path, "no course of a training can be read", "remove its folder and run again") from error
    return sorted(points, key=lambda point: (*place_of(point), point.step))


def _runs(folder: Path, file: str) -> list[tuple[Path, str, float, int]]:
    found = []
    for path in folder.glob(f"runs/*/*/{file}"):
        match, baseline = RUN.fullmatch(path.parent.name), path.parent.parent.name
        if match is not None and baseline in BASELINES:
            found.append((path, baseline, float(match[1]), int(match[2])))
    return found


def draws_of(rows: Sequence[Row], baseline: str, fraction: float, metric: str) -> Mapping[int, float]:
    """Score by draw."""
    wanted = (baseline, fraction, metric)
    return {row.draw: row.score for row in rows if (row.baseline, row.fraction, row.metric) == wanted}


def write_rows(path: Path, rows: Sequence[Row] | Sequence[Point]) -> None:
    """Write rows, at least one, as CSV; whole or not at all."""
    tables = [asdict(row) for row in rows]
    with written_whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(tables[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(tables)
