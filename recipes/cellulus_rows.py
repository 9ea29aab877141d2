"""Scores as rows, from the JSON files that ``cellkit evaluate`` wrote to CSV files."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cellkit.errors import InputError
from cellkit.io.atomic import written_whole

METHODS = {  # in the order of the tables
    "oce": "Cellulus (no labels)",
    "watershed": "Otsu + watershed",
    "nuclei": "bundled model (supervised)",
}
RUN = re.compile(r"fraction([0-9.]+)-draw(\d+)")
RUNS = {"sparse": "labels alone", "supported": "labels and pseudo labels", "pseudo": "pseudo labels alone"}
NO_RUN = {"oce": "Cellulus itself"}


@dataclass(frozen=True, kw_only=True)
class Score:
    """One score of one way to segment.

    Attributes:
        method: see :data:`METHODS`.
        scale: factor by which the images were magnified.
        metric: a name of cellkit-metrics(7).
        images: where it is defined.
        mean: over them.
        low: lower end of the 95 % bootstrap interval of the mean; NaN for one image.
        high: its upper end.
        pooled: over all cells, as the paper has it.
    """

    method: str
    scale: float
    metric: str
    images: int
    mean: float
    low: float
    high: float
    pooled: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """One score of one training on a part of the labels.

    Attributes:
        method: see :data:`RUNS`; or ``oce``, which never saw a label.
        fraction: of the cells that were labelled.
        draw: seed of their choice.
        metric: a name of cellkit-metrics(7).
        mean: over images.
        pooled: over all cells, as the paper has it.
    """

    method: str
    fraction: float
    draw: int
    metric: str
    mean: float
    pooled: float


def read_json(path: Path, *parts: str) -> dict[str, Any]:
    """What ``cellkit evaluate --json`` printed, with ``parts`` such as ``mean`` in it.

    Raises:
        InputError: it cannot be read, or lacks a part.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(found[part], dict) for part in parts):
            return found
        raise ValueError(parts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(path, "no scores can be read", "remove it and run the recipe again") from error


def _part(path: Path, part: Mapping[str, Any], metric: str) -> Any:  # noqa: ANN401 - from JSON
    if metric not in part:
        raise InputError(path, f"there is no metric {metric!r}", f"choose from {', '.join(part)}")
    return part[metric]


def scores_of(folder: Path, metrics: Sequence[str], scale: float = 1.0) -> list[Score]:
    """The scores of a run of cellulus.sh, of the methods that are scored; undefined ones are left out.

    Args:
        folder: with scores/METHOD.json.
        metrics: which.
        scale: of the run.

    Raises:
        InputError: a file cannot be read or lacks a metric.
    """
    files = {method: folder / "scores" / f"{method}.json" for method in METHODS}
    return [row for name, path in files.items() if path.is_file() for row in _scores(path, name, metrics, scale)]


def _scores(path: Path, method: str, metrics: Sequence[str], scale: float) -> list[Score]:
    found = read_json(path, "summary", "pooled")
    summaries = {metric: _part(path, found["summary"], metric) for metric in metrics}
    return [
        Score(
            method=method,
            scale=scale,
            metric=metric,
            images=summary["n"],
            mean=summary["mean"],
            low=_number(summary["low"]),
            high=_number(summary["high"]),
            pooled=_number(found["pooled"].get(metric)),
        )
        for metric, summary in summaries.items()
        if summary["n"]
    ]


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def runs_of(folder: Path, metrics: Sequence[str]) -> list[Run]:
    """The scores of all runs of cellulus-supported.sh that are finished, by method, fraction and draw.

    Args:
        folder: with runs/METHOD/fractionF-drawD/scores.json and, of Cellulus itself, oce.json.
        metrics: which.

    Raises:
        InputError: a file cannot be read or lacks a metric.
    """
    files = [(method, path) for method in RUNS for path in folder.glob(f"runs/{method}/*/scores.json")]
    named = [(method, path, RUN.fullmatch(path.parent.name)) for method, path in files]
    rows = [row for method, path, at in named if at for row in _runs(path, method, (at[1], at[2]), metrics)]
    if (folder / "oce.json").is_file():
        rows += _runs(folder / "oce.json", "oce", ("0", "0"), metrics)
    order = [*RUNS, *NO_RUN]
    return sorted(rows, key=lambda row: (order.index(row.method), row.fraction, row.draw, metrics.index(row.metric)))


def _runs(path: Path, method: str, at: tuple[str, str], metrics: Sequence[str]) -> list[Run]:
    found = read_json(path, "mean", "pooled")
    means = {metric: _part(path, found["mean"], metric) for metric in metrics}
    return [
        Run(
            method=method,
            fraction=float(at[0]),
            draw=int(at[1]),
            metric=metric,
            mean=mean,
            pooled=_number(found["pooled"].get(metric)),
        )
        for metric, mean in means.items()
        if mean is not None
    ]


def write_rows(path: Path, rows: Sequence[Score] | Sequence[Run]) -> None:
    """Write rows, at least one, as CSV; whole or not at all."""
    with written_whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
