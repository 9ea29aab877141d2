"""Settings of adaptation that cannot be meant are refused, each in one line."""

from __future__ import annotations

from typing import get_args

import pytest

from cellkit.config import AdaptMethodName
from cellkit.errors import UsageError
from cellkit.methods.adapt_settings import LIMITS, AdaptSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statistics": "source"}, "statistics: 'source' is unknown (choose from target, both)"),
        ({"bound_statistics": "both"}, "bound_statistics: 'both' is unknown (choose from source, target)"),
        ({"consistency": "firm"}, "consistency: 'firm' is unknown (choose from soft, hard)"),
        ({"ramp": -1}, "ramp: -1 is out of range (give a number from 0 on)"),
        ({"collapse_window": 0}, "collapse_window: 0 is out of range (give a number from 1 on)"),
        ({"collapse_below": 1.5}, "collapse_below: 1.5 is out of range (give a number from 0 to 1)"),
        ({"collapse_above": float("nan")}, "collapse_above: nan is out of range (give a number from 0 to 1)"),
        ({"consistency_weight": -0.5}, "consistency_weight: -0.5 is out of range (give a number from 0 on)"),
        ({"teacher_decay": 1.01}, "teacher_decay: 1.01 is out of range (give a number from 0 to 1)"),
    ],
)
def test_what_cannot_be_meant_is_said(changes, message):
    with pytest.raises(UsageError) as caught:
        AdaptSettings(**changes)
    assert str(caught.value) == message


def test_ends_of_the_ranges_are_allowed():
    for name, (low, high) in LIMITS.items():
        values = [low] if high == float("inf") else [low, high]
        assert all(getattr(AdaptSettings(**{name: value}), name) == value for value in values)


def test_settings_survive_a_checkpoint():
    settings = AdaptSettings(statistics="both", ramp=7, discrepancy=False)
    assert AdaptSettings.from_dict(settings.to_dict()) == settings


def test_every_setting_belongs_to_a_method_and_every_method_has_some():
    by_method = {method: AdaptSettings.names_of(method) for method in get_args(AdaptMethodName)}
    assert frozenset().union(*by_method.values()) == set(AdaptSettings().to_dict())
    assert all(by_method.values())
    assert by_method["mcd"] == {"statistics", "mcd_n"}
