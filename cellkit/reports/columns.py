"""Which metrics the tables show, of those that a report has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from cellkit.metrics import THRESHOLDS, ImageReport, SetReport

SHOWN_THRESHOLDS = (0.5, 0.75, 0.9)  # in the summary; another table has all
FAMILIES = ("ap_dsb", "f1", "precision", "recall")

KEY_FIGURES = (
    "ap_dsb", "f1@0.5", "pq", "ctc/SEG", "aji", "coco/segm/AP", "coco/bbox/AP", "iou", "hd95_um", "hd95",
)  # fmt: skip
MOST_FIGURES = 8
IMAGE_COLUMNS = (
    "n_true", "n_predicted", "ap_dsb", "f1@0.5", "precision@0.5", "recall@0.5", "pq", "ctc/SEG", "aji", "iou", "hd95",
    "splits", "merges",
)  # fmt: skip
GROUP_COLUMNS = ("n_true", "n_predicted", "ap_dsb", "f1@0.5", "pq", "ctc/SEG", "aji", "iou")
COUNTS = ("n_true", "n_predicted")


def summary_names(report: SetReport) -> list[str]:
    """Metrics of the summary: of those with thresholds three."""
    shown = {f"{t:g}" for t in SHOWN_THRESHOLDS}
    names = dict.fromkeys([*report.mean, *report.pooled])
    return [n for n in names if not n.startswith("coco/") and (_threshold(n) in shown or not _threshold(n))]


def _threshold(name: str) -> str:
    return name.partition("@")[2]


def threshold_rows(report: SetReport) -> list[tuple[float, list[str]]]:
    """Each threshold and the names of its values."""
    rows = [(t, [f"{family}@{t:g}" for family in FAMILIES]) for t in THRESHOLDS]
    return [(t, names) for t, names in rows if all(name in report.mean for name in names)]


def coco_rows(report: SetReport) -> list[tuple[str, list[str]]]:
    """Each kind of shape (``segm``, ``bbox``) and the names of its values."""
    rows: dict[str, list[str]] = {}
    for name in report.pooled:
        if name.startswith("coco/"):
            rows.setdefault(name.split("/")[1], []).append(name)
    return list(rows.items())


def key_figures(report: SetReport) -> list[tuple[str, float]]:
    """Names and values for the top of the page: means over images, of COCO the value of the set."""
    values = {**report.pooled, **report.mean}
    defined = [(name, values[name]) for name in KEY_FIGURES if name in values and not math.isnan(values[name])]
    lengths = [name for name, _ in defined if name.startswith("hd95")]
    return [figure for figure in defined if figure[0] not in lengths[1:]][:MOST_FIGURES]


def present(names: Sequence[str], values: Iterable[str]) -> list[str]:
    """Those of the names that there are values of."""
    known = set(values)
    return [name for name in names if name in known]


def worst_first(images: Sequence[ImageReport], metric: str = "ap_dsb") -> list[ImageReport]:
    """Images in ascending order of a metric; those that do not define it come last."""
    return sorted(images, key=lambda image: _rank(image.values.get(metric, math.nan)))


def _rank(value: float) -> tuple[bool, float]:
    return math.isnan(value), 0.0 if math.isnan(value) else value


def outcomes(values: dict[str, float]) -> dict[str, int] | None:
    """Cells found, missed and false at IoU >= 0.5, from pooled values or from those of one image."""
    names = ("n_true", "n_predicted", "recall@0.5")
    if any(math.isnan(values.get(name, math.nan)) for name in names):
        return None
    found = round(values["recall@0.5"] * values["n_true"])
    return {
        "found": found,
        "missed": round(values["n_true"]) - found,
        "false": round(values["n_predicted"]) - found,
    }
