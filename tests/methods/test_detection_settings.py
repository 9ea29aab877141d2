"""Settings of learning to detect: the published defaults, and one line for what gives no loss."""

from __future__ import annotations

import re

import pytest

from cellkit.errors import UsageError
from cellkit.methods.detection_settings import DetectionSettings


def test_defaults_are_those_of_the_published_cascade():
    settings = DetectionSettings()
    assert settings.anchor_overlaps == (0.3, 0.7)
    assert (settings.anchors, settings.anchor_fraction) == (256, 0.5)
    assert (settings.before_nms, settings.proposals, settings.proposal_overlap) == (2000, 2000, 0.7)
    assert (settings.regions, settings.region_fraction) == (512, 0.25)
    assert settings.region_overlaps == (0.5, 0.6, 0.7)


def test_settings_travel():
    settings = DetectionSettings(anchors=12, region_overlaps=(0.4,))
    assert DetectionSettings.from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anchors": 0}, "anchors: 0 is none (give 1 or more)"),
        ({"before_nms": 0}, "before_nms: 0 is none (give 1 or more)"),
        ({"proposals": -1}, "proposals: -1 is none (give 1 or more)"),
        ({"regions": 0}, "regions: 0 is none (give 1 or more)"),
        ({"anchor_fraction": 0.0}, "anchor_fraction: 0 is out of range (give a number above 0, up to 1)"),
        ({"region_fraction": 1.5}, "region_fraction: 1.5 is out of range (give a number above 0, up to 1)"),
        ({"proposal_overlap": 1.1}, "proposal_overlap: 1.1 is out of range (give 0 to 1)"),
        ({"anchor_overlaps": (0.5,)}, "anchor_overlaps: (0.5,) is no range (give low and high, above 0, up to 1)"),
        (
            {"anchor_overlaps": (0.7, 0.3)},
            "anchor_overlaps: (0.7, 0.3) is no range (give low and high, above 0, up to 1)",
        ),
        ({"region_overlaps": ()}, "region_overlaps: () is out of range (one a stage, above 0, up to 1)"),
        (
            {"region_overlaps": (0.5, 0.0)},
            "region_overlaps: (0.5, 0.0) is out of range (one a stage, above 0, up to 1)",
        ),
    ],
)
def test_what_gives_no_loss_is_refused(changes, message):
    with pytest.raises(UsageError, match="^" + re.escape(message) + "$"):
        DetectionSettings(**changes)
