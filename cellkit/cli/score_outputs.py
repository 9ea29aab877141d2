"""What ``cellkit evaluate`` writes of the scores: JSON, CSV, a table for people, a row per object."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cellkit.cli.comparing import groups_document, shown_names
from cellkit.cli.inputs import STREAM
from cellkit.io.atomic import written_whole
from cellkit.metrics import SetReport
from cellkit.metrics.objects import COLUMNS, object_table
from cellkit.metrics.statistics import Summary
from cellkit.stages.scoring import Scored

WIDTH = 110


def write_json(report: SetReport, summaries: Mapping[str, Summary], groups: Mapping[str, SetReport]) -> None:
    """One JSON document on stdout; undefined values are null."""
    document: dict[str, Any] = {
        "n_images": len(report.images),
        "mean": _plain(report.mean),
        "pooled": _plain(report.pooled),
        "defined": report.defined,
        "summary": {name: _plain(asdict(summary)) for name, summary in summaries.items()},
    }
    if groups:
        document["groups"] = groups_document(groups)
    document["images"] = [{"image": image.key, **_plain(image.values)} for image in report.images]
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def write_csv(report: SetReport, target: str) -> None:
    """One row per image, to a file (whole or not at all) or stdout."""
    rows = ([image.key, *(_cell(image.values.get(name)) for name in report.mean)] for image in report.images)
    _write_rows(["image", *report.mean], rows, target)


def write_objects(images: Sequence[Scored], target: str) -> None:
    """One row per true and per predicted object, to a file (whole or not at all) or stdout."""
    _write_rows(["image", *COLUMNS], _object_rows(images), target)


def _object_rows(images: Sequence[Scored]) -> Iterator[list[object]]:
    for image in images:
        if image.table is not None:
            for row in object_table(image.table, image.scores).rows():
                yield [image.report.key, *(_cell(value) for value in row)]


def _cell(value: object) -> object:
    """Nothing for what is not known; all digits of a number."""
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return "" if value is None else value


def _write_rows(header: Sequence[str], rows: Iterator[list[object]], target: str) -> None:
    if target == STREAM:
        _fill(sys.stdout, header, rows)
        return
    with written_whole(Path(target)) as path, path.open("w", encoding="utf-8", newline="") as file:
        _fill(file, header, rows)


def _fill(file: io.TextIOBase | Any, header: Sequence[str], rows: Iterator[list[object]]) -> None:  # noqa: ANN401
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)


def write_text(text: str, target: str) -> None:
    """A document, to a file (whole or not at all) or stdout."""
    if target == STREAM:
        sys.stdout.write(text)
        return
    with written_whole(Path(target)) as path:
        path.write_text(text, encoding="utf-8")


def write_table(report: SetReport, summaries: Mapping[str, Summary]) -> None:
    """Mean over images with its interval, and value over the set, for people."""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{len(report.images)} image" + ("" if len(report.images) == 1 else "s"), no_wrap=True)
    for column in ("mean", "median", "std", "95 % interval", "pooled"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in shown_names(dict.fromkeys((*report.mean, *report.pooled))):
        summary = summaries.get(name)
        pooled = _show(report.pooled.get(name, math.nan))
        if summary is None:
            table.add_row(name, "", "", "", "", pooled)
            continue
        interval = "-" if math.isnan(summary.low) else f"{_show(summary.low)} {_show(summary.high)}"
        table.add_row(name, *map(_show, (summary.mean, summary.median, summary.std)), interval, pooled)
    Console(file=sys.stdout, width=WIDTH, markup=False, emoji=False, highlight=False).print(table)


def _show(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if value == int(value) and abs(value) > 1 else f"{value:.4f}"
