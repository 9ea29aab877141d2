"""SEG and DET equal py-ctcmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tifffile
from ctc_metrics.metrics.technical.det import det as peer_det
from ctc_metrics.metrics.technical.seg import seg as peer_seg
from ctc_metrics.utils.representations import count_acyclic_graph_correction_operations
from ctc_metrics.utils.representations import match as peer_match
from hypothesis import assume, given
from hypothesis import strategies as st

from cellkit.metrics import score, summarise
from cellkit.metrics.intersections import Intersections
from cellkit.metrics.seg import count_detections


def peer_match_of(folder, truth, prediction):
    """Labels of both sides, matched labels of both sides, and IoUs of one frame, by py-ctcmetrics from files."""
    paths = folder / "man_seg000.tif", folder / "mask000.tif"
    for path, labels in zip(paths, (truth, prediction), strict=True):
        tifffile.imwrite(path, labels.astype(np.uint16))
    return peer_match(*map(str, paths))


def peer_frame(folder, truth, prediction):
    """Truth labels and IoUs of the matches of one frame."""
    labels, _, _, _, ious = peer_match_of(folder, truth, prediction)
    return labels, ious


def peer_det_of(frames):
    """DET of a sequence of matched frames without tracks."""
    labels_ref, labels_comp, mapped_ref, mapped_comp, _ = zip(*frames, strict=True)
    counted = count_acyclic_graph_correction_operations(None, None, labels_ref, labels_comp, mapped_ref, mapped_comp)
    return peer_det(**counted)


def test_detection_of_real_images_equals_the_peer(tmp_path, real_pairs):
    frames = [peer_match_of(tmp_path, *pair) for pair in real_pairs]
    reports = [score(*pair, surfaces=False) for pair in real_pairs]
    for report, frame in zip(reports, frames, strict=True):
        assert report.values["ctc/DET"] == peer_det_of([frame])
    pooled = peer_det_of(frames)
    assert 0.2 < pooled < 0.99
    assert summarise(reports).pooled["ctc/DET"] == pooled
    assert sum(report.counts["det_splits"] for report in reports) > 0


@given(drawn=st.data())
def test_detection_of_tiny_images_equals_the_peer(tmp_path_factory, small_labels, drawn):
    truth, prediction = (np.pad(labels, 1) for labels in drawn.draw(small_labels))  # the peer needs some background
    assume(truth.any() and prediction.any())
    frame = peer_match_of(tmp_path_factory.getbasetemp(), truth, prediction)
    assert score(truth, prediction).values["ctc/DET"] == peer_det_of([frame])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("perfect", 1.0),
        ("merged_pair", 1 - 5 / 20),  # one split
        ("split_cell", 0.0),  # one missed and two false: worse than drawing it anew
        ("shifted_cell", 1.0),
        ("empty_prediction", 0.0),
        ("empty_truth", math.nan),
        ("both_empty", math.nan),
    ],
)
def test_detection_of_situations(situation, name, expected):
    assert score(*situation(name)).values["ctc/DET"] == pytest.approx(expected, nan_ok=True)


def test_of_predictions_that_overlap_each_other_the_best_detects():
    """Both cover most of the one truth object; the second fits better, the first is false."""
    table = Intersections(
        truth_ids=np.array([1]),
        predicted_ids=np.array([1, 2]),
        truth_areas=np.array([10]),
        predicted_areas=np.array([30, 10]),
        truth=np.array([0, 0]),
        predicted=np.array([0, 1]),
        pixels=np.array([10, 9]),
        truth_foreground=10,
        predicted_foreground=31,
        common_foreground=10,
    )
    counts = count_detections(table)
    assert counts["seg_iou"] == 9 / 11
    assert (counts["det_splits"], counts["det_misses"], counts["det_false"]) == (0, 0, 1)


def test_real_images_equal_the_peer(tmp_path, real_pairs):
    frames = [peer_frame(tmp_path, *pair) for pair in real_pairs]
    reports = [score(*pair) for pair in real_pairs]
    for report, (labels, ious) in zip(reports, frames, strict=True):
        assert report.values["ctc/SEG"] == peer_seg([labels], [ious])
    pooled = peer_seg([labels for labels, _ in frames], [ious for _, ious in frames])
    assert 0.2 < pooled < 0.9
    assert summarise(reports).pooled["ctc/SEG"] == pytest.approx(pooled, rel=1e-14)


def test_a_challenge_sequence_equals_the_peer(tmp_path, data, perturbed):
    truths = [tifffile.imread(path) for path in sorted(data.glob("ctc/*/01_GT/SEG/*.tif"))]
    assert truths
    for seed, truth in enumerate(truths):
        prediction = perturbed(truth, seed)
        labels, ious = peer_frame(tmp_path, truth, prediction)
        assert score(truth, prediction).values["ctc/SEG"] == peer_seg([labels], [ious])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("perfect", 1.0),
        ("merged_pair", 0.5),
        ("unevenly_merged_pair", (0.625 + 0.375) / 2),  # the prediction detects both
        ("split_cell", 0.0),  # exactly one half is not more than half
        ("shifted_cell", 0.6),
        ("empty_prediction", 0.0),
    ],
)
def test_situations(tmp_path, situation, name, expected):
    truth, prediction = situation(name)
    labels, ious = peer_frame(tmp_path, truth, prediction)
    assert score(truth, prediction).values["ctc/SEG"] == expected == peer_seg([labels], [ious])


@pytest.mark.parametrize("name", ["empty_truth", "both_empty"])
def test_no_truth_is_undefined(situation, name):
    assert math.isnan(score(*situation(name)).values["ctc/SEG"])


def test_pooled_is_over_cells_not_images(situation):
    one, two = score(*situation("shifted_cell")), score(*situation("perfect"))
    report = summarise([one, two])
    assert report.mean["ctc/SEG"] == pytest.approx((0.6 + 1.0) / 2)
    assert report.pooled["ctc/SEG"] == pytest.approx((0.6 + 2.0) / 3)
