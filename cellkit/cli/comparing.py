"""What ``cellkit evaluate`` prints of two predictions, and of groups of images."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from rich.console import Console
from rich.table import Table

from cellkit.cli.comparing_tables import CsvTable, read_table
from cellkit.data.folders import frame_key, unmarked
from cellkit.errors import NoInputError, UsageError
from cellkit.io.keys import suffix_of
from cellkit.metrics import SetReport
from cellkit.metrics.comparisons import Comparison, compare, most_changed, unpaired
from cellkit.metrics.groups import NO_GROUP, grouped
from cellkit.metrics.statistics import LEVEL, RESAMPLES

NAME_COLUMNS = ("image", "name", "key", "file")  # of these the first that there is, else the first column
SHOWN_THRESHOLDS = ("0.5", "0.75", "0.9")  # of the ten; JSON has all
GROUP_METRICS = ("ap_dsb", "f1@0.5", "pq", "ctc/SEG", "aji", "dice")  # as many as fit beside the names of groups
CHANGED = 5  # images named in the table
CHANGED_BY = "ap_dsb"
WIDTH = 100
INTERVAL = f"{100 * LEVEL:g} % interval"
LEAST_P = 0.0001  # below, p is shown as less than that

Document = dict[str, Any]
Names = tuple[str, str]


def write_comparison(
    first: SetReport,
    second: SetReport,
    *,
    names: Names = ("A", "B"),
    metrics: Sequence[str] | None = None,
    changed_by: str = CHANGED_BY,
    as_json: bool = False,
) -> None:
    """Print how a second prediction differs from the first: a table for people, or one JSON document.

    Args:
        first: the prediction that is compared with.
        second: the prediction that may be better.
        names: what the two are called.
        metrics: those that the table has; None: all, of ten thresholds three. JSON has all.
        changed_by: the metric that tells which images changed most.
        as_json: JSON on stdout.

    Raises:
        UsageError: images have no value called ``changed_by``.
        NoInputError: no image is in both.
    """
    document = comparison_document(first, second, names=names, changed_by=changed_by)
    if as_json:
        _write_json({"comparison": document})
        return
    shown = set(metrics) if metrics is not None else set(shown_names(document["metrics"]))
    console = _console()
    console.print(_comparison_table(document, [name for name in document["metrics"] if name in shown], names))
    for name, keys in (("first", document["only_first"]), ("second", document["only_second"])):
        if keys:
            console.print(f"\nonly in {document[name]}: {', '.join(keys[:CHANGED])}{_more(len(keys) - CHANGED)}")
    console.print()
    console.print(_changes_table(document, names))


def comparison_document(
    first: SetReport, second: SetReport, *, names: Names = ("A", "B"), changed_by: str = CHANGED_BY
) -> Document:
    """All of a comparison as a plain dict for JSON; undefined values are None.

    Raises:
        UsageError: images have no value called ``changed_by``.
        NoInputError: no image is in both.
    """
    only_first, only_second = unpaired(first, second)
    paired = len(first.images) - len(only_first)
    if not paired:
        raise NoInputError(f"{names[0]}, {names[1]}", "no image is in both", "names must be equal but for suffixes")
    changes = most_changed(first, second, changed_by, n=paired)
    return {
        "first": names[0],
        "second": names[1],
        "n_images": paired,
        "only_first": list(only_first),
        "only_second": list(only_second),
        "level": LEVEL,
        "resamples": RESAMPLES,
        "metrics": {name: _as_plain(comparison) for name, comparison in compare(first, second).items()},
        "pooled": _pooled(first, second),
        "changed_by": changed_by,
        "changed": [
            {"image": c.key, "first": c.first, "second": c.second, "difference": c.difference} for c in changes
        ],
    }


def _as_plain(comparison: Comparison) -> Document:
    return {name: _number(value) for name, value in dataclasses.asdict(comparison).items()}


def _pooled(first: SetReport, second: SetReport) -> Document:
    """The values of the sets as they are, over all their images."""
    return {
        name: {
            "first": _number(value),
            "second": _number(second.pooled[name]),
            "difference": _number(second.pooled[name] - value),
        }
        for name, value in first.pooled.items()
        if name in second.pooled
    }


def shown_names(names: Iterable[str]) -> list[str]:
    """The names that a table for people has: of the metrics at ten thresholds, three."""
    return [name for name in names if name.partition("@")[2] in ("", *SHOWN_THRESHOLDS)]


def _comparison_table(document: Document, metrics: Sequence[str], names: Names) -> Table:
    """A row per metric; then those that only the set has."""
    table = _table(f"{document['n_images']} images", "n", *names, "difference", INTERVAL, "p", "better", "worse")
    for name in metrics:
        c = document["metrics"][name]
        interval = "-" if c["low"] is None else f"{c['low']:+.4f} {c['high']:+.4f}"
        means = (_show(c["first"]), _show(c["second"]), _show(c["difference"], "+"))
        table.add_row(name, str(c["n"]), *means, interval, _show_p(c["p"]), _count(c["improved"]), _count(c["worse"]))
    of_set = [name for name in document["pooled"] if name not in document["metrics"]]
    for name in shown_names(of_set):
        values = document["pooled"][name]
        table.add_row(name, "", _show(values["first"]), _show(values["second"]), _show(values["difference"], "+"))
    return table


def _changes_table(document: Document, names: Names) -> Table:
    changes = document["changed"]
    table = _table(f"changed most by {document['changed_by']}", *names, "difference")
    for change in changes[:CHANGED]:
        differences = (_show(change["first"]), _show(change["second"]), _show(change["difference"], "+"))
        table.add_row(change["image"], *differences)
    if not changes:
        table.add_row("no image changed")
    return table


def read_groups(path: str, column: str) -> dict[str, str]:
    """The group of each image, from a column of a CSV table with a row per image.

    Images are named in a column called image, name, key or file, else in the first, with or without folder and suffix.

    Raises:
        UsageError: there is no such column, or two rows name one image and different groups.
        InputError: the table cannot be read.
        NoInputError: it has no rows.
    """
    table = read_table(path)
    if column not in table.columns:
        raise UsageError("--group-by", f"{path} has no column {column!r}", f"columns: {', '.join(table.columns)}")
    namer = _naming_column(table)
    groups: dict[str, str] = {}
    named = [(row, _stem(row.cells[namer])) for row in table.rows if row.cells[namer]]
    for row, stem in named:
        if groups.setdefault(stem, row.cells[column]) != row.cells[column]:
            raise UsageError(row.place, f"a second group of {stem}", "give one row per image")
    aliases = {
        alias: groups[stem] for row, stem in named for alias in (row.cells[namer], frame_key(stem), unmarked(stem))
    }
    return {alias: group for alias, group in aliases.items() if alias} | groups


def _naming_column(table: CsvTable) -> str:
    lowered = {name.lower(): name for name in table.columns}
    return next((lowered[name] for name in NAME_COLUMNS if name in lowered), table.columns[0])


def _stem(name: str) -> str:
    """The name without folders, of whichever system, and without the known image suffix."""
    file = PurePath(name.replace("\\", "/")).name
    return file[: len(file) - len(suffix_of(file))]


def group_report(report: SetReport, groups: Mapping[str, str], table: str) -> dict[str, SetReport]:
    """A report per group of images; those without group are in "(none)", the last.

    Args:
        report: of all images.
        groups: of :func:`read_groups`.
        table: its file, for the message.

    Raises:
        NoInputError: no image has a group.
    """
    reports = grouped(report, groups)
    if set(reports) <= {NO_GROUP}:
        example = f", e.g. {report.images[0].key}" if report.images else ""
        raise NoInputError(
            table, f"it gives no group to any scored image{example}", "names must be those of the images"
        )
    return reports


def write_groups(
    reports: Mapping[str, SetReport], *, metrics: Sequence[str] = GROUP_METRICS, as_json: bool = False
) -> None:
    """Print a row per group: the means over its images of some metrics, or all as one JSON document.

    Args:
        reports: of :func:`group_report`.
        metrics: those that the table has, if the reports have them.
        as_json: JSON on stdout.
    """
    if as_json:
        _write_json({"groups": groups_document(reports)})
        return
    every = list(reports.values())
    known = [name for name in metrics if all(name in report.mean or name in report.pooled for report in every)]
    table = _table("group", "images", *known)
    for group, report in reports.items():
        values = report.pooled | report.mean  # the value of the set where images have none
        table.add_row(group, str(len(report.images)), *(_show(_number(values[name])) for name in known))
    _console().print(table)


def groups_document(reports: Mapping[str, SetReport]) -> Document:
    """The reports of groups as a plain dict for JSON; undefined values are None."""
    return {
        group: {
            "n_images": len(report.images),
            "mean": {name: _number(value) for name, value in report.mean.items()},
            "pooled": {name: _number(value) for name, value in report.pooled.items()},
            "defined": dict(report.defined),
            "images": [image.key for image in report.images],
        }
        for group, report in reports.items()
    }


def _number(value: Any) -> Any:  # noqa: ANN401 - whatever a dataclass holds
    """The value, None where it is undefined."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_json(document: Document) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def _console() -> Console:
    """Names of images are text, whatever brackets and colons they have."""
    return Console(file=sys.stdout, width=WIDTH, markup=False, emoji=False, highlight=False)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _show(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.4f}"


def _show_p(p: float | None) -> str:
    if p is None:
        return "-"
    return f"<{LEAST_P}" if p < LEAST_P else f"{p:.4f}"


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def _more(number: int) -> str:
    return f" and {number} more" if number > 0 else ""
