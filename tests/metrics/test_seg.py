"""SEG equals py-ctcmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tifffile
from ctc_metrics.metrics.technical.seg import seg as peer_seg
from ctc_metrics.utils.representations import match as peer_match

from cellkit.metrics import score, summarise


def peer_frame(folder, truth, prediction):
    """Truth labels and IoUs of the matches of one frame, by py-ctcmetrics from files."""
    paths = folder / "man_seg000.tif", folder / "mask000.tif"
    for path, labels in zip(paths, (truth, prediction), strict=True):
        tifffile.imwrite(path, labels.astype(np.uint16))
    labels, _, _, _, ious = peer_match(*map(str, paths))
    return labels, ious


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
