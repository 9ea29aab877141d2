"""Evaluations to report, and a browser to look at them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from cellkit.metrics import SetReport, score, summarise
from cellkit.metrics.intersections import intersections
from cellkit.metrics.matching import match
from cellkit.metrics.statistics import summarise_values
from cellkit.reports import Evaluation, choose_examples, draw_example

HOSTILE = "<script>window.hostile = 1</script>\" onerror='window.hostile = 2' | `x` <img src=x onerror=alert(1)>.png"
COCO = {f"coco/{shape}/{name}": 0.5 for shape in ("segm", "bbox") for name in ("AP", "AP50", "APs", "AR", "AR@100")}


def grid(shape: tuple[int, int], pitch: int, size: int, shift: int = 0, left_out: int = 0) -> np.ndarray:
    """Labels (H, W): squares on a grid, moved to the right, each ``left_out``-th missing."""
    labels = np.zeros(shape, np.int32)
    number = 0
    for y in range(2, shape[0] - size - 1, pitch):
        for x in range(2, shape[1] - size - 1, pitch):
            number += 1
            if not left_out or number % left_out:
                labels[y : y + size, x + shift : x + shift + size] = number
    return labels


def labelled_images(count: int) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Image (1, 60, 90), truth and prediction by name, from bad to good; the first has a hostile name."""
    images = {}
    for index in range(count):
        truth = grid((60, 90), 12 + index % 5, 8)
        prediction = grid((60, 90), 12 + index % 5, 8, shift=max(0, 3 - index % 5), left_out=index % 4 + 2)
        image = (100 * (truth > 0) + np.arange(90))[None].astype(np.uint8)
        images[f"field {index:03d}" if index else HOSTILE] = (image, truth, prediction)
    return images


def build(count: int, *, problems: tuple[str, ...] = (HOSTILE,)) -> Evaluation:
    """An evaluation with everything in it."""
    images = labelled_images(count)
    reports = [score(truth, prediction, key) for key, (_, truth, prediction) in images.items()]
    report = summarise(reports)
    report = SetReport(report.images, report.mean, report.pooled | COCO, report.defined)
    tables = [intersections(truth, prediction) for _, truth, prediction in images.values()]
    recall = np.linspace(0, 0.8, 3000)
    return Evaluation(
        title=f"Squares {HOSTILE}",
        truth=f"truth/{HOSTILE}",
        prediction="prediction & more",
        written=f"cellkit evaluate {HOSTILE}",
        report=report,
        summaries=summarise_values(report, resamples=50),
        precision_recall={f"IoU {t:g}": (recall, 1 - t * recall**2) for t in (0.5, 0.6, 0.7, 0.75, 0.8, 0.9)},
        true_areas=np.concatenate([table.truth_areas for table in tables]) * 1.0,
        predicted_areas=np.concatenate([table.predicted_areas for table in tables]) * 1.5,
        matched_ious=np.concatenate([table.iou[match(table, 0.5)] for table in tables]),
        groups={HOSTILE: summarise(report.images[:2]), "others": summarise(report.images[2:])},
        problems=problems,
        examples=tuple(draw_example(key, (p, "ap_dsb", s), *images[key]) for p, key, s in choose_examples(report)),
    )


@pytest.fixture(scope="session")
def evaluation() -> Evaluation:
    """Twelve images with hostile names, and everything that a report can show."""
    return build(12)


@pytest.fixture(scope="session")
def large_evaluation() -> Evaluation:
    """Sixty images and seven problems: tables are folded."""
    return build(60, problems=("x: no prediction",) * 7)


@pytest.fixture(scope="session")
def bare_evaluation() -> Evaluation:
    """Boxes alone: nothing but COCO's values."""
    values = {name: value for name, value in COCO.items() if "bbox" in name}
    report = SetReport(images=(), mean={}, pooled=values, defined={})
    return Evaluation(title="boxes", truth="a.json", prediction="b.json", report=report)


@pytest.fixture(scope="session")
def empty_evaluation() -> Evaluation:
    """Two images without any cell: no metric but the counts is defined."""
    background = np.zeros((20, 30), np.int32)
    report = summarise([score(background, background, key) for key in "ab"])
    return Evaluation(title="empty", truth="a", prediction="b", report=report, summaries=summarise_values(report))


@pytest.fixture(scope="session")
def driver() -> ModuleType:
    """The module that drives a browser."""
    spec = importlib.util.spec_from_file_location("browser", Path(__file__).with_name("browser.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def browser(driver, tmp_path_factory):
    """A running headless browser; without one the test is skipped, or fails where browsers are required."""
    program = driver.find_browser()
    if program is None:
        driver.absence()
    with driver.running(program, tmp_path_factory.mktemp("profile")) as running:
        yield running
