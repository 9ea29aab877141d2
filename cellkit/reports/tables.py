"""The tables of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from cellkit.metrics import SetReport
from cellkit.metrics.statistics import Summary
from cellkit.reports import columns
from cellkit.reports.definitions import COCO_SHAPES, UNDEFINED, definition, shown
from cellkit.reports.evaluation import Evaluation
from cellkit.reports.markup import Html, join, tag

MOST_ROWS = 2_000  # images in the table: some 600 bytes each
BARRED = ("ap_dsb",)  # columns whose shares are drawn as bars too


def anchor(name: str) -> str:
    """The identifier of a metric's definition on the page."""
    return "m-" + "".join(letter if letter.isalnum() else "-" for letter in name)


def metric_link(name: str) -> Html:
    """The name, with its definition on hovering and behind the link."""
    return tag("a", name, href=f"#{anchor(family(name))}", title=definition(name).text, class_="metric")


def family(name: str) -> str:
    """The name that the definition stands under: without threshold, and COCO's values under one."""
    return "/".join(name.split("/")[:2]) if name.startswith("coco/") else name.partition("@")[0]


def summary_table(evaluation: Evaluation) -> Html:
    """Mean, interval, median, deviation, images and pooled value of each metric."""
    report, summaries = evaluation.report, evaluation.summaries or {}
    heads = ["mean", "95 % interval", "median", "std", "images"] if summaries else ["mean", "images"]
    rows = []
    for name in columns.summary_names(report):
        cells = _summary_cells(name, summaries.get(name)) if summaries else _plain_cells(name, report)
        rows.append(_row(metric_link(name), [*cells, shown(name, report.pooled.get(name, math.nan))]))
    return _table([tag("th", "metric", scope="col"), *_heads([*heads, "pooled"])], rows, "Summary")


def _summary_cells(name: str, summary: Summary | None) -> list[str]:
    if summary is None or summary.n == 0:
        return [UNDEFINED] * 4 + ["0"]
    interval = f"{shown(name, summary.low, averaged=True)} to {shown(name, summary.high, averaged=True)}"
    values = [shown(name, value, averaged=True) for value in (summary.mean, summary.median, summary.std)]
    return [values[0], interval if not math.isnan(summary.low) else UNDEFINED, *values[1:], f"{summary.n:,}"]


def _plain_cells(name: str, report: SetReport) -> list[str]:
    return [shown(name, report.mean.get(name, math.nan), averaged=True), f"{report.defined.get(name, 0):,}"]


def threshold_table(report: SetReport) -> Html:
    """Means over images at every threshold, the pooled values behind them."""
    rows = [
        _row(
            f"{threshold:.2f}",
            [f"{shown(n, report.mean[n])} ({shown(n, report.pooled.get(n, math.nan))})" for n in names],
        )
        for threshold, names in columns.threshold_rows(report)
    ]
    heads = [tag("th", metric_link(name), scope="col", class_="number") for name in columns.FAMILIES]
    return _table([tag("th", "IoU ≥", scope="col"), *heads], rows, "Mean over images (pooled) by IoU threshold")


def coco_table(report: SetReport) -> Html:
    """COCO's values, a row per kind of shape."""
    found = columns.coco_rows(report)
    heads = dict.fromkeys(name.split("/", 2)[2] for _, names in found for name in names)
    rows = []
    for shape, names in found:
        values = {name.split("/", 2)[2]: shown(name, report.pooled[name]) for name in names}
        link = tag("a", f"{shape} ({COCO_SHAPES.get(shape, shape)})", href=f"#{anchor(f'coco/{shape}')}")
        rows.append(_row(link, [values.get(head, UNDEFINED) for head in heads]))
    return _table([tag("th", "shape", scope="col"), *_heads(heads)], rows, "COCO")


def group_table(groups: Mapping[str, SetReport]) -> Html:
    """A row per group: means over its images, counts of all of them."""
    first = next(iter(groups.values()))
    names = columns.present(columns.GROUP_COLUMNS, first.mean)
    rows = [_row(tag("bdi", group), _group_cells(report, names)) for group, report in groups.items()]
    return _table([_sorter("group"), _sorter("images", numeric=True), *_metric_heads(names)], rows, "Groups")


def _group_cells(report: SetReport, names: Sequence[str]) -> list[str]:
    values = {name: (report.pooled if name in columns.COUNTS else report.mean).get(name, math.nan) for name in names}
    return [_cell(f"{len(report.images):,}", float(len(report.images))), *(_value(n, v) for n, v in values.items())]


def image_table(report: SetReport) -> Html:
    """A row per image, the lowest score first, at most ``MOST_ROWS``."""
    names = columns.present(columns.IMAGE_COLUMNS, report.mean)
    rows = [
        _row(tag("bdi", image.key), [_value(name, image.values.get(name, math.nan)) for name in names])
        for image in columns.worst_first(report.images)[:MOST_ROWS]
    ]
    return _table([_sorter("image"), *_metric_heads(names)], rows, "Images", tall=True)


def _table(heads: Iterable[str], rows: Iterable[Html], label: str, *, tall: bool = False) -> Html:
    body = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    return tag("div", body, class_="scroll tall" if tall else "scroll", tabindex="0", role="region", aria_label=label)


def _heads(texts: Iterable[str]) -> list[Html]:
    return [tag("th", text, scope="col", class_="number") for text in texts]


def _metric_heads(names: Iterable[str]) -> list[Html]:
    return [_sorter(name, numeric=True) for name in names]


def _sorter(name: str, *, numeric: bool = False) -> Html:
    """A head that sorts its column (without the script it is plain text)."""
    title = definition(name).text if numeric and name != "images" else None
    button = tag("button", name, type="button", title=title)
    return tag("th", button, scope="col", class_="number" if numeric else None)


def _row(name: str, cells: Iterable[str]) -> Html:
    written = [cell if isinstance(cell, Html) else _cell(cell) for cell in cells]
    return tag("tr", tag("th", name, scope="row"), *written)


def _value(name: str, value: float) -> Html:
    return _cell(shown(name, value), value, barred=name in BARRED)


def _cell(text: str, value: float | None = None, *, barred: bool = False) -> Html:
    """A cell; ``value`` is what it is sorted by."""
    known = value is not None and not math.isnan(value)
    style = f"--share:{value:.3f}" if known and barred else None
    return tag(
        "td", text, class_="number bar" if style else "number", style=style, data_value=repr(value) if known else None
    )


def definition_list(report: SetReport) -> Html:
    """What every metric on the page means."""
    names = dict.fromkeys(family(name) for name in [*report.mean, *report.pooled])
    items = [join([tag("dt", name, id=anchor(name)), tag("dd", _meaning(name))]) for name in names]
    return tag("dl", *items)


def _meaning(name: str) -> str:
    if not name.startswith("coco/"):
        return definition(name).text
    shape = COCO_SHAPES.get(name.removeprefix("coco/"), "shapes")
    return (
        f"COCO's evaluation of {shape} over the whole set: AP is the average precision, AR the average recall, both "
        "means over IoU 0.50 to 0.95; a number behind them is the one IoU in hundredths; s, m and l are cells of "
        "small, medium and large area."
    )
