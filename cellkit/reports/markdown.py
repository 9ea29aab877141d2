"""The report as Markdown tables, as GitHub and GitLab show them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from cellkit.metrics import SetReport
from cellkit.reports import columns
from cellkit.reports.definitions import UNDEFINED, shown
from cellkit.reports.evaluation import Evaluation
from cellkit.reports.markup import UNPRINTABLE

SPECIAL = re.compile(r"([\\`*\[\]<>#|~&$]|(?<![^\W_])_|_(?![^\W_]))")  # an underscore inside a word is one
MOST_IMAGES = 50  # the lowest; a longer table is for --csv


def render_markdown(evaluation: Evaluation) -> str:
    """Tables of the summary, the groups, the images with the lowest scores, and the problems; names are escaped."""
    report = evaluation.report
    lines = [
        f"# {_text(evaluation.title)}",
        "",
        f"- truth: {_text(evaluation.truth)}",
        f"- prediction: {_text(evaluation.prediction)}",
        f"- images: {len(report.images):,}",
        *_summary(evaluation),
        *_coco(report),
        *_groups(evaluation),
        *_images(report),
        *_problems(evaluation.problems),
    ]
    if evaluation.written:
        lines += ["", _text(evaluation.written)]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """Text in which nothing is markup and no cell ends."""
    sound = UNPRINTABLE.sub("\ufffd", " ".join(text.split())).encode("utf-8", "replace").decode()
    return SPECIAL.sub(r"\\\1", sound)


def _code(name: str) -> str:
    """The name of a metric; all are free of backticks and pipes."""
    return f"`{name}`"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table whose first column is text and the others numbers; cells are markup already."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return ["", *("| " + " | ".join(row) + " |" for row in (heads, rule, *rows))]


def _summary(evaluation: Evaluation) -> list[str]:
    report, summaries = evaluation.report, evaluation.summaries or {}
    rows = []
    for name in columns.summary_names(report):
        mean = shown(name, report.mean.get(name, math.nan), averaged=True)
        summary = summaries.get(name)
        spread = [UNDEFINED] * 3
        if summary is not None and summary.n:
            interval = f"{shown(name, summary.low, averaged=True)} to {shown(name, summary.high, averaged=True)}"
            spread = [interval, *(shown(name, value, averaged=True) for value in (summary.median, summary.std))]
        pooled = shown(name, report.pooled.get(name, math.nan))
        rows.append([_code(name), mean, *(spread if summaries else []), pooled])
    heads = ["metric", "mean", *(["95 % interval", "median", "std"] if summaries else []), "pooled"]
    return ["", "## Summary", *_table(heads, rows)]


def _coco(report: SetReport) -> list[str]:
    rows = [[_code(name), shown(name, report.pooled[name])] for _, names in columns.coco_rows(report) for name in names]
    return ["", "## COCO", *_table(["metric", "value"], rows)] if rows else []


def _groups(evaluation: Evaluation) -> list[str]:
    if not evaluation.groups:
        return []
    names = columns.present(columns.GROUP_COLUMNS, evaluation.report.mean)
    rows = []
    for group, report in evaluation.groups.items():
        values = [(report.pooled if name in columns.COUNTS else report.mean).get(name, math.nan) for name in names]
        shown_values = [shown(name, value) for name, value in zip(names, values, strict=True)]
        rows.append([_text(group), f"{len(report.images):,}", *shown_values])
    return ["", "## Groups", *_table(["group", "images", *map(_code, names)], rows)]


def _images(report: SetReport) -> list[str]:
    if not report.images:
        return []
    names = columns.present(columns.IMAGE_COLUMNS, report.mean)
    lowest = columns.worst_first(report.images)[:MOST_IMAGES]
    rows = [[_text(image.key), *(shown(n, image.values.get(n, math.nan)) for n in names)] for image in lowest]
    title = f"## The {len(lowest)} lowest of {len(report.images):,} images"
    return [
        "",
        title if len(lowest) < len(report.images) else "## Images",
        *_table(["image", *map(_code, names)], rows),
    ]


def _problems(problems: Sequence[str]) -> list[str]:
    return ["", "## Problems", "", *(f"- {_text(problem)}" for problem in problems)] if problems else []
