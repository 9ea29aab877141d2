"""What the charts draw, read back from their coordinates."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from cellkit.metrics import THRESHOLDS, ImageReport, SetReport, score, summarise
from cellkit.metrics.statistics import Summary
from cellkit.reports import charts
from cellkit.reports import plotting as p

BOTTOM = p.HEIGHT - p.BOTTOM


def paths(svg: str, kind: str) -> list[np.ndarray]:
    """Points (N, 2) of the paths of a class outside the legend."""
    found = []
    for element in ElementTree.fromstring(svg).iter("path"):
        if element.get("class", "").split()[0] == kind and "," in element.get("d"):
            found.append(np.array(re.findall(r"(-?[\d.]+),(-?[\d.]+)", element.get("d")), float))
    return found


def hovers(svg: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(svg).iter("title")][1:]


@pytest.fixture
def report(two_touching_cells):
    moved = np.roll(two_touching_cells, 3, axis=1)
    return summarise([score(two_touching_cells, moved, "a"), score(two_touching_cells, two_touching_cells, "b")])


def test_scores_are_drawn_at_their_thresholds(report):
    svg = charts.threshold_chart(report)
    lines = paths(svg, "line")
    assert len(lines) == 4
    top = p.Frame(p.share_axis(""), p.share_axis(""), charts.FAMILIES).top
    values = (BOTTOM - lines[0][:, 1]) / (BOTTOM - top)
    assert values == pytest.approx([report.mean[f"ap_dsb@{t:g}"] for t in THRESHOLDS], abs=1e-3)
    assert f"f1@0.75: {report.mean['f1@0.75']:.3f}" in hovers(svg)


def test_the_interval_of_ap_lies_around_its_line(report):
    summaries = {
        f"ap_dsb@{t:g}": Summary(n=2, undefined=0, mean=0.5, median=0.5, std=0.1, low=0.2, high=0.8) for t in THRESHOLDS
    }
    assert len(paths(charts.threshold_chart(report, summaries), "band")) == 1
    assert not paths(charts.threshold_chart(report, {}), "band")


def test_undefined_scores_draw_no_line(empty_field):
    assert not paths(charts.threshold_chart(summarise([score(empty_field, empty_field)])), "line")


def test_curves_are_thinned_and_end_with_their_numbers():
    recall = np.linspace(0, 0.75, 100_000)
    svg = charts.precision_recall_chart({"IoU 0.5": (recall, 1 - recall / 2)})
    (curve,) = paths(svg, "line")
    assert len(curve) == charts.MOST_POINTS
    assert hovers(svg) == ["IoU 0.5: precision 0.625, recall 0.750"]
    assert curve[-1, 0] == pytest.approx(p.LEFT + 0.75 * (p.WIDTH - p.LEFT - p.RIGHT), abs=0.01)


def test_of_many_curves_five_are_drawn_from_the_first_to_the_last():
    line = np.array([0.0, 1.0])
    svg = charts.precision_recall_chart({f"IoU {t:g}": (line, line) for t in THRESHOLDS})
    assert [text.partition(":")[0] for text in hovers(svg)] == ["IoU 0.5", "IoU 0.6", "IoU 0.7", "IoU 0.85", "IoU 0.95"]


@pytest.mark.parametrize(("points", "dots", "lines"), [([], 0, 0), ([0.5], 1, 0), ([math.nan, 0.5], 1, 0)])
def test_a_prediction_without_scores_is_a_dot(points, dots, lines):
    svg = charts.precision_recall_chart({"IoU 0.5": (np.array(points), np.array(points))})
    assert len(hovers(svg)) == dots
    assert len(paths(svg, "line")) == lines


def heights(outline: np.ndarray, svg: str) -> np.ndarray:
    """Counts of a histogram, from its outline and the highest tick of the axis."""
    ticks = [e.text for e in ElementTree.fromstring(svg).iter("text") if e.get("class") == "tick end"]
    top = min(float(e.get("y")) - 4 for e in ElementTree.fromstring(svg).iter("text") if e.get("class") == "tick end")
    return (BOTTOM - outline[1:-1:2, 1]) / (BOTTOM - top) * float(ticks[-1].replace(",", ""))


def test_areas_are_counted_on_a_logarithmic_axis():
    rng = np.random.default_rng(0)
    true, predicted = rng.lognormal(5, 1, 500), rng.lognormal(6, 0.5, 300)
    svg = charts.area_chart(true, predicted, "px")
    first, second = paths(svg, "area")
    both = np.concatenate([true, predicted])
    edges = np.geomspace(both.min(), both.max(), charts.AREA_BINS + 1)
    assert heights(first, svg) == pytest.approx(np.histogram(true, edges)[0], abs=0.1)
    assert heights(first, svg).sum() == pytest.approx(500, abs=1)
    assert heights(second, svg).sum() == pytest.approx(300, abs=1)


@pytest.mark.parametrize("areas", [[], [7.0], [5.0, 5.0], [0.0, math.nan, 3.0]])
def test_few_areas_are_drawn_too(areas):
    svg = charts.area_chart(np.array(areas), np.array([]), "px")
    counted = sum(area > 0 for area in areas)
    assert heights(paths(svg, "area")[0], svg).sum() == pytest.approx(counted, abs=0.1)


def test_fits_start_at_the_threshold_unless_some_are_lower():
    svg = charts.iou_chart(np.array([0.5, 0.9, 1.0]))
    assert 'class="tick middle">0.5</text>' in svg
    assert ">0.0</text>" not in svg
    assert "median 0.900" in svg
    assert ">0.0</text>" in charts.iou_chart(np.array([0.2]))


def test_scores_of_images_leave_undefined_ones_out():
    images = tuple(ImageReport(str(i), {"ap_dsb": v}, {}) for i, v in enumerate([0.1, 0.1, 0.9, math.nan]))
    svg = charts.score_chart(SetReport(images, {}, {}, {}))
    assert heights(paths(svg, "area")[0], svg).sum() == pytest.approx(3, abs=0.1)
    assert "median 0.100" in svg


def test_counts_name_their_images():
    images = tuple(
        ImageReport(f"<{t}>", {"n_true": float(t), "n_predicted": float(q)}, {}) for t, q in [(0, 0), (12, 1300)]
    )
    svg = charts.count_chart(SetReport(images, {}, {}, {}))
    assert hovers(svg) == ["<0>: 0 true, 0 predicted", "<12>: 12 true, 1,300 predicted"]
