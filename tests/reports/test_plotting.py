"""Axes and marks."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.reports import plotting as p


@given(st.floats(0, 1e9))
@settings(max_examples=200, deadline=None)
def test_counts_fit_on_an_axis_of_round_steps(most):
    axis = p.count_axis("cells", most)
    values = [value for value, _ in axis.ticks]
    assert axis.low == values[0] == 0
    assert axis.high == values[-1] >= most * (1 - 1e-9)
    assert 2 <= len(values) <= 7
    assert axis.high <= max(5, 2 * most)
    assert all(re.fullmatch(r"[\d,]+|[\d.]+[kM]", text) for _, text in axis.ticks)


@given(st.floats(1e-3, 1e6), st.floats(1, 1e6))
@settings(max_examples=200, deadline=None)
def test_logarithmic_ticks_lie_inside_and_do_not_crowd(low, ratio):
    axis = p.log_axis("area", low, low * ratio)
    places = axis.fractions(np.array([value for value, _ in axis.ticks]))
    assert 2 <= len(places) <= 14
    assert len(places) < 2 or np.diff(places).min() > 0.07
    assert (places >= 0).all()
    assert (places <= 1).all()
    assert axis.fractions(np.array([axis.low, axis.high])).tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize("most", [0, 1, 2, 9, 10, 99, 313, 1000, 99_999])
def test_counts_from_nothing_to_thousands_share_an_axis(most):
    axis = p.log1p_axis("cells", most)
    assert axis.ticks[0] == (0, "0")
    assert 2 <= len(axis.ticks) <= 8
    assert axis.fractions(np.array([0.0, most]))[1] < 1 or most == 0


def test_shares_are_spaced_evenly():
    assert [text for _, text in p.share_axis("x").ticks] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert [text for _, text in p.share_axis("x", 0.5).ticks] == ["0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]


def test_coordinates_grow_to_the_right_and_upwards():
    frame = p.Frame(p.share_axis("x"), p.share_axis("y"))
    assert frame.across(np.array([0.0, 1.0])).tolist() == [p.LEFT, p.WIDTH - p.RIGHT]
    assert frame.down(np.array([0.0, 1.0])).tolist() == [p.HEIGHT - p.BOTTOM, frame.top]
    assert frame.down(np.array([7.0])).tolist() == [frame.top]  # nothing leaves the frame


def test_long_legends_break_into_rows_and_lower_the_frame():
    names = tuple(f"a long name {i}" for i in range(5))
    frame = p.Frame(p.share_axis("x"), p.share_axis("y"), names)
    assert [name for row in frame.rows for _, name in row] == list(names)
    assert len(frame.rows) > 1
    assert frame.top > p.Frame(p.share_axis("x"), p.share_axis("y"), names[:1]).top


def test_every_text_of_a_chart_is_escaped():
    frame = p.Frame(p.Axis("<x>", 0, 1, ((0, "<tick>"),)), p.share_axis("<y>"), ("<name>",))
    svg = p.chart("<title>", frame, [p.rule(frame, 0.5, "<note>"), p.marker(1, 1, 0, "<hover>")])
    for text in ("<x>", "<y>", "<tick>", "<name>", "<note>", "<hover>"):
        assert text not in svg
        assert text.replace("<", "&lt;").replace(">", "&gt;") in svg
    assert svg.count("<title>") == 2  # the elements alone
