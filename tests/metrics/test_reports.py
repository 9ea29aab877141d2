"""Means and pooled values of sets, and metrics by name."""

from __future__ import annotations

import math

import pytest

from cellkit.errors import UsageError
from cellkit.metrics import canonical_name, find_metric, metric_names, score, summarise

DISTANCES = {"hd95", "asd", "hd95_um", "asd_um"}


@pytest.fixture
def report(situation):
    names = ("shifted_cell", "merged_pair", "empty_truth", "both_empty")
    return summarise(score(*situation(name), key=name) for name in names)


def test_images_stay_in_their_order(report):
    assert [image.key for image in report.images] == ["shifted_cell", "merged_pair", "empty_truth", "both_empty"]


def test_mean_is_over_the_images_that_define_the_metric(report):
    assert report.mean["ap_dsb@0.5"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert report.defined["ap_dsb@0.5"] == 3
    assert report.mean["ctc/SEG"] == pytest.approx((0.6 + 0.5) / 2)
    assert report.defined["ctc/SEG"] == 2
    assert report.mean["iou"] == pytest.approx((0.6 + 1 + 0 + 1) / 4)
    assert report.mean["n_true"] == 3 / 4


def test_pooled_is_from_summed_counts(report):
    tp, fp, fn = 2, 2, 1
    assert report.pooled["ap_dsb@0.5"] == tp / (tp + fp + fn)
    assert report.pooled["precision@0.5"] == tp / (tp + fp)
    assert report.pooled["recall@0.5"] == tp / (tp + fn)
    assert report.pooled["ctc/SEG"] == pytest.approx((0.6 + 0.5 + 0.5) / 3)
    assert report.pooled["aji"] == (48 + 64) / (80 + 128 + 64)
    assert (report.pooled["n_true"], report.pooled["n_predicted"]) == (3, 4)


def test_a_set_without_images_is_undefined():
    report = summarise([])
    assert report.images == ()
    assert math.isnan(report.mean["ap_dsb"])
    assert math.isnan(report.pooled["ap_dsb"])
    assert report.defined["ap_dsb"] == 0
    assert set(report.mean) == set(report.pooled) == set(metric_names()) - DISTANCES


def test_a_metric_that_no_image_defines_is_undefined(situation):
    report = summarise([score(*situation("both_empty"))])
    assert math.isnan(report.mean["ctc/SEG"])
    assert report.defined["ctc/SEG"] == 0


def test_the_order_of_images_changes_no_bit(real_pairs):
    images = [score(*pair) for pair in real_pairs]
    there, back = summarise(images), summarise(images[::-1])
    assert there.mean == back.mean
    assert there.pooled == back.pooled


def test_names_cover_the_contract():
    names = metric_names()
    assert len(names) == len(set(names)) == 51 + 10
    assert names[-4:] == ("hd95", "asd", "hd95_um", "asd_um")
    for name in ("ap_dsb", "ap_dsb@0.5", "ap_dsb@0.95", "precision@0.55", "recall@0.6", "f1@0.75", "ctc/SEG"):
        assert name in names
    for name in ("ctc/DET", "maji", "splits", "merges", "count_error", "area_error"):
        assert name in names
    for name in ("aji", "aji_plus", "pq", "sq", "rq", "iou", "dice", "n_true", "n_predicted"):
        assert name in names


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("f1@0.5", "f1@0.5"),
        ("f1@0.50", "f1@0.5"),
        ("f1@.5", "f1@0.5"),
        ("ap_dsb@0.950", "ap_dsb@0.95"),
        ("mean/f1@0.50", "f1@0.5"),
        ("pooled/f1@0.50", "pooled/f1@0.5"),
        ("ctc/SEG", "ctc/SEG"),
        ("pooled/ctc/SEG", "pooled/ctc/SEG"),
    ],
)
def test_names_are_read_as_people_write_them(name, known):
    assert canonical_name(name) == known


def test_distances_have_a_mean_but_no_pooled_value(report):
    assert DISTANCES & set(report.pooled) == set()
    assert report.defined["hd95"] == 3  # empty_truth has none
    assert report.mean["asd"] == pytest.approx((score_of(report, 0, "asd") + 0 + 0) / 3)
    assert find_metric(report, "asd") == report.mean["asd"] > 0
    with pytest.raises(UsageError) as error:
        find_metric(report, "pooled/asd")
    assert str(error.value) == "pooled/asd: distances have no pooled value (asd is their mean over images)"


def score_of(report, image, name):
    return report.images[image].values[name]


def test_micrometres_of_some_images_are_averaged_over_these(situation):
    pair = situation("shifted_cell")
    report = summarise([score(*pair), score(*pair, pixel_size=0.25), score(*pair, surfaces=False)])
    assert report.defined["asd"] == 2
    assert report.defined["asd_um"] == 1
    assert report.mean["asd_um"] == report.mean["asd"] / 4


def test_a_metric_that_was_not_computed_is_undefined(report):
    assert "hd95_um" not in report.mean
    assert math.isnan(find_metric(report, "hd95_um"))


def test_a_metric_of_the_set_alone_is_found_by_its_name(report):
    report.pooled["coco/segm/AP"] = 0.25
    assert find_metric(report, "coco/segm/AP") == find_metric(report, "pooled/coco/segm/AP") == 0.25
    assert canonical_name("coco/segm/AP50", ["coco/segm/AP50"]) == "coco/segm/AP50"
    with pytest.raises(UsageError, match="no such metric"):
        canonical_name("coco/segm/AP50")


def test_find_metric_gives_the_mean_or_the_pooled_value(report):
    assert find_metric(report, "ap_dsb@0.50") == report.mean["ap_dsb@0.5"]
    assert find_metric(report, "mean/ap_dsb@0.5") == report.mean["ap_dsb@0.5"]
    assert find_metric(report, "pooled/ap_dsb@0.5") == report.pooled["ap_dsb@0.5"]
    assert report.mean["ap_dsb@0.5"] != report.pooled["ap_dsb@0.5"]


CHOICES = (
    "choices: n_true, n_predicted, ap_dsb, ap_dsb@0.5..0.95, precision@0.5..0.95, recall@0.5..0.95, f1@0.5..0.95, "
    "pq, sq, rq, ctc/SEG, ctc/DET, aji, aji_plus, maji, iou, dice, splits, merges, count_error, area_error, "
    "hd95, asd, hd95_um, asd_um; pooled/NAME for the pooled value"
)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("seg", "did you mean ctc/SEG? "),
        ("DICE", "did you mean dice? "),
        ("pooled/aji_pluss", "did you mean aji_plus? "),
        ("xyzzy", ""),
    ],
)
def test_an_unknown_name_lists_near_names_and_choices(report, name, hint):
    with pytest.raises(UsageError) as error:
        find_metric(report, name)
    assert str(error.value) == f"{name}: no such metric ({hint}{CHOICES})"


def test_a_threshold_that_is_not_reported_is_unknown():
    with pytest.raises(UsageError, match=r"f1@0.52: no such metric \(did you mean f1@0.5"):
        canonical_name("f1@0.52")


@pytest.mark.parametrize("name", ["", "pooled/", "@", "f1@", "f1@one", "f1@0.5@0.5", "f1@-0.5", "f1@inf"])
def test_names_that_are_none(name):
    with pytest.raises(UsageError, match="no such metric"):
        canonical_name(name)
