"""Learning rates by step."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest

from cellkit.config import ScheduleName
from cellkit.engine.schedules import SCHEDULES, rate_factor
from cellkit.engine.settings import FitSettings


def factors(**settings):
    chosen = FitSettings(**settings)
    return [rate_factor(step, chosen) for step in range(chosen.steps)]


def test_table_and_names_agree():
    assert set(SCHEDULES) == set(get_args(ScheduleName))


@pytest.mark.parametrize("name", get_args(ScheduleName))
def test_every_schedule_warms_up_and_never_exceeds_the_full_rate(name):
    rates = factors(schedule=name, steps=100, warmup=10)
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert max(rates) == pytest.approx(1.0)
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))


def test_cosine_ends_near_zero_and_is_half_in_the_middle():
    rates = factors(schedule="cosine", steps=110, warmup=10)
    assert rates[60] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001


def test_flat_decay_is_that_of_scellseg():
    """500 epochs: 10 of warm-up, flat, then halved every 10 of the last 100."""
    rates = factors(schedule="flat-decay", steps=500, warmup=10)
    assert rates[399] == 1
    assert [rates[400 + 10 * i] for i in range(10)] == [0.5 ** (i + 1) for i in range(10)]
    assert rates[409] == rates[400]
    assert rates[-1] == 0.5**10


def test_flat_decay_takes_its_length():
    rates = factors(schedule="flat-decay", steps=100, decay=50)
    assert rates[49] == 1
    assert rates[50] == 0.5
    assert set(factors(schedule="flat-decay", steps=100, decay=0)) == {1.0}


def test_halving_is_after_each_quarter():
    rates = factors(schedule="halving", steps=100)
    assert [rates[i] for i in (0, 24, 25, 49, 50, 74, 75, 99)] == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


def test_late_tenths_are_those_of_detectron():
    """240,000 and 255,000 of 270,000 steps."""
    rates = factors(schedule="late-tenths", steps=270)
    assert [rates[i] for i in (0, 239, 240, 254, 255, 269)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_constant_is_constant():
    assert set(factors(schedule="constant", steps=7)) == {1.0}


def test_tenths_are_those_of_cellulus():
    """50 epochs: a tenth after 20, a hundredth after 30."""
    rates = factors(schedule="tenths", steps=50)
    assert rates[0] == rates[19] == 1
    assert rates[20] == rates[29] == pytest.approx(0.1)
    assert rates[30] == rates[49] == pytest.approx(0.01)
