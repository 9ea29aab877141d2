"""Reports of groups of images."""

from __future__ import annotations

import pytest

from cellkit.metrics import score, summarise
from cellkit.metrics.groups import NO_GROUP, grouped, members


@pytest.fixture
def report(situation):
    return summarise(score(*situation(name), key=name) for name in ("perfect", "shifted_cell", "merged_pair"))


def test_each_group_is_a_set_of_its_own(report):
    reports = grouped(report, {"shifted_cell": "plate 2", "perfect": "plate 1", "merged_pair": "plate 2"})
    assert list(reports) == ["plate 1", "plate 2"]
    assert [image.key for image in reports["plate 2"].images] == ["shifted_cell", "merged_pair"]
    assert reports["plate 1"].mean["ap_dsb@0.5"] == 1
    assert reports["plate 2"] == summarise(report.images[1:])
    assert reports["plate 2"].pooled["n_true"] == 3


def test_images_without_group_come_last(report):
    reports = grouped(report, {"perfect": "zebrafish", "merged_pair": "", "of another set": "mouse"})
    assert list(reports) == ["zebrafish", NO_GROUP]
    assert [image.key for image in reports[NO_GROUP].images] == ["shifted_cell", "merged_pair"]


def test_one_group_is_the_whole_set(report):
    reports = grouped(report, dict.fromkeys((image.key for image in report.images), "all"))
    assert reports == {"all": report}


def test_a_set_without_images_has_no_groups():
    assert grouped(summarise([]), {"a": "b"}) == {}


def test_members_keep_the_order_of_images():
    assert members(["c", "a", "b"], {"c": "x", "a": "", "b": "x"}) == {"x": ["c", "b"], NO_GROUP: ["a"]}
