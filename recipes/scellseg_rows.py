"""Scores of runs as rows: from the JSON files that ``cellkit evaluate`` wrote to one CSV, and back."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cellkit.errors import InputError, NoInputError
from cellkit.io.atomic import written_whole

RUN = re.compile(r"shots(\d+)-draw(\d+)")
TARGET, RETAINED = "target.json", "retained.json"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One score of one run; the columns are those that ``cellkit evaluate --curve`` reads, and more.

    Attributes:
        dataset: the images that the model was tuned to.
        model: name of the base.
        method: base and fine-tuning, e.g. ``scellseg contrastive``: a curve each.
        shots: labelled images learned from.
        draw: seed of their choice.
        metric: a name of cellkit-metrics(7).
        score: mean over images after fine-tuning.
        before: the same of the base.
    """

    dataset: str
    model: str
    method: str
    shots: int
    draw: int
    metric: str
    score: float
    before: float


COLUMNS = tuple(field.name for field in fields(Row))


def gather(folder: Path, metrics: Sequence[str], file: str = TARGET) -> list[Row]:
    """The scores of all runs that are finished.

    Args:
        folder: with runs/DATASET/MODEL/METHOD/shotsK-drawD/ and bases/MODEL/, as scellseg-shots.sh makes them.
        metrics: which scores.
        file: ``target.json``: on images like the shots; ``retained.json``: on those that the base was made for.

    Returns:
        rows by dataset, model, method, shots, draw; a score that is undefined before or after is left out.

    Raises:
        InputError: a file of scores cannot be read or lacks a metric, or a run has no score of its base.
    """
    rows: list[Row] = []
    for run in sorted(folder.glob("runs/*/*/*/shots*-draw*")):
        match = RUN.fullmatch(run.name)
        if match is None or not (run / file).is_file():
            continue
        dataset, model, tuning = run.parts[-4:-1]
        base = folder / "bases" / model / (f"{dataset}.{TARGET}" if file == TARGET else RETAINED)
        after, before = read_scores(run / file, metrics), read_scores(base, metrics)
        for metric in metrics:
            score, reference = after[metric], before[metric]
            if score is not None and reference is not None:
                rows.append(
                    Row(
                        dataset=dataset,
                        model=model,
                        method=f"{model} {tuning}",
                        shots=int(match[1]),
                        draw=int(match[2]),
                        metric=metric,
                        score=score,
                        before=reference,
                    )
                )
    return sorted(rows, key=lambda row: (row.dataset, row.model, row.method, row.shots, row.draw))


def read_scores(path: Path, metrics: Sequence[str]) -> dict[str, float | None]:
    """Means over images of what ``cellkit evaluate --json`` printed; None for undefined ones.

    Raises:
        InputError: the file cannot be read, or has no such metric.
    """
    try:
        mean = json.loads(path.read_text(encoding="utf-8"))["mean"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(path, "no scores can be read", "remove it and run scellseg-shots.sh again") from error
    for metric in metrics:
        if metric not in mean:
            raise InputError(path, f"there is no metric {metric!r}", f"choose from {', '.join(mean)}")
    return {metric: None if mean[metric] is None else float(mean[metric]) for metric in metrics}


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the CSV, whole or not at all."""
    with written_whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read_rows(path: Path) -> list[Row]:
    """Read it back.

    Raises:
        InputError: it cannot be read, or lacks a column.
        NoInputError: it has no rows.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(_parsed(csv.DictReader(file)))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(path, "is no table of runs", f"it needs the columns {', '.join(COLUMNS)}") from error
    if not rows:
        raise NoInputError(path, "no run is finished", "run scellseg-shots.sh first")
    return rows


def _parsed(lines: Iterator[dict[str, str]] | csv.DictReader[str]) -> Iterator[Row]:
    for line in lines:
        yield Row(
            dataset=line["dataset"],
            model=line["model"],
            method=line["method"],
            shots=int(line["shots"]),
            draw=int(line["draw"]),
            metric=line["metric"],
            score=float(line["score"]),
            before=float(line["before"]),
        )
