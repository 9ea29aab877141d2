"""Shot curves and performance efficiency."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from cellkit.errors import InputError
from cellkit.metrics.curves import efficiency, fit_shots

SCALES = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], float)  # of the paper's BBBC010 and mito experiments
WIDE = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 386], float)  # of its LIVECell experiment


def hyperbola(shots, b_max, k_d):
    return b_max * shots / (k_d + shots)


@given(st.floats(0.01, 100), st.floats(0.01, 300), st.sampled_from(["paper", "wide", "two points"]))
def test_exact_points_give_their_curve_back(b_max, k_d, name):
    shots = {"paper": SCALES, "wide": WIDE, "two points": np.array([1.0, 8.0])}[name]
    fit = fit_shots(shots, hyperbola(shots, b_max, k_d))
    assert fit.b_max == pytest.approx(b_max, rel=1e-5)
    assert fit.k_d == pytest.approx(k_d, rel=1e-5)
    assert fit.r2 == pytest.approx(1)


def test_two_points_by_hand():
    """1 shot 0.4 and 3 shots 0.6: 1/Y is linear in 1/X with slope 1.25 and intercept 1.25, so Bmax 0.8 and Kd 1."""
    fit = fit_shots(np.array([1.0, 3.0]), np.array([0.4, 0.6]))
    assert (fit.n, fit.b_max, fit.k_d) == (2, pytest.approx(0.8), pytest.approx(1.0))
    assert math.isnan(fit.b_max_error)
    assert math.isnan(fit.k_d_error)
    assert fit.shots_for(0.9) == pytest.approx(9.0)
    assert fit.shots_for(0.5) == pytest.approx(fit.k_d)
    assert fit.score(fit.shots_for(0.9)) == pytest.approx(0.9 * fit.b_max)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("b_max", "k_d"), [(0.8, 0.5), (0.9, 4.0), (60.0, 25.0)])
def test_noisy_repeats_agree_with_scipy(seed, b_max, k_d):
    shots = np.repeat(SCALES, 10)
    scores = hyperbola(shots, b_max, k_d) + np.random.default_rng(seed).normal(0, 0.03 * b_max, shots.size)
    best, covariance = curve_fit(hyperbola, shots, scores, p0=(b_max, k_d), xtol=1e-12, ftol=1e-12)
    fit = fit_shots(shots, scores)
    assert (fit.b_max, fit.k_d) == pytest.approx(tuple(best), rel=1e-5)
    assert (fit.b_max_error, fit.k_d_error) == pytest.approx(tuple(np.sqrt(np.diag(covariance))), rel=1e-4)
    residuals = scores - hyperbola(shots, *best)
    assert fit.r2 == pytest.approx(1 - np.sum(residuals**2) / np.sum((scores - scores.mean()) ** 2))


def test_errors_are_as_large_as_the_estimates_scatter():
    generator = np.random.default_rng(0)
    clean = hyperbola(np.repeat(SCALES, 3), 0.8, 1.0)
    fits = [fit_shots(np.repeat(SCALES, 3), clean + generator.normal(0, 0.02, clean.size)) for _ in range(100)]
    assert np.std([fit.k_d for fit in fits]) == pytest.approx(np.mean([fit.k_d_error for fit in fits]), rel=0.25)


def test_the_order_of_points_and_the_unit_of_scores_change_nothing():
    scores = hyperbola(SCALES, 0.7, 2.0) + np.random.default_rng(1).normal(0, 0.02, SCALES.size)
    fit, back, percent = (
        fit_shots(SCALES, scores),
        fit_shots(SCALES[::-1], scores[::-1]),
        fit_shots(SCALES, 100 * scores),
    )
    assert (back.b_max, back.k_d) == pytest.approx((fit.b_max, fit.k_d), rel=1e-6)
    assert (percent.b_max, percent.k_d, percent.k_d_error) == pytest.approx(
        (100 * fit.b_max, fit.k_d, fit.k_d_error), rel=1e-6
    )


def test_a_plateau_from_the_first_shot():
    flat = fit_shots(SCALES, np.full(10, 0.3))
    assert (flat.b_max, flat.k_d, flat.shots_for(0.9)) == (pytest.approx(0.3), 0.0, 0.0)
    assert math.isnan(flat.r2)
    falling = fit_shots(SCALES, 1 - 0.05 * SCALES)
    assert (falling.b_max, falling.k_d) == (pytest.approx(1 - 0.05 * 5.5), 0.0)
    assert falling.r2 == pytest.approx(0.0)
    assert math.isnan(falling.k_d_error)
    nothing = fit_shots(SCALES, np.zeros(10))
    assert (nothing.b_max, nothing.k_d) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("shots", "scores", "message"),
    [
        ([1, 2, 4], [0.1, 0.2, 0.4], "shots: the scores do not level off, so the curve has no limit (add scores at"),
        ([1, 2, 4], [0.1, 0.3, 0.9], "shots: the scores do not level off"),
        ([0, 1, 2], [0.1, 0.2, 0.3], "shots: the curve is 0 at 0 shots, whatever the scores (give scores of 1 shot"),
        ([3, 3, 3], [0.1, 0.2, 0.3], "shots: a curve needs scores at two numbers of shots at least (add some)"),
        ([], [], "shots: a curve needs scores at two numbers of shots at least"),
        ([1, 2, 3], [0.1, math.nan, 0.3], "shots: a number of the curve is not finite (leave undefined scores out)"),
    ],
)
def test_what_has_no_curve(shots, scores, message):
    with pytest.raises(InputError) as error:
        fit_shots(np.array(shots, float), np.array(scores, float))
    assert str(error.value).startswith(message)


# efficiency


def test_efficiency_by_hand():
    """Scores 1, 0, 1/2 and costs 1, 1, 3.

    In units of their standard deviations, sqrt(1/6) and sqrt(8/9), the distances to the first are sqrt(6) and
    sqrt(1.5 + 4.5) = sqrt(6): both others are as far as any.
    """
    values = efficiency(np.array([1.0, 0.0, 0.5]), np.array([1.0, 1.0, 3.0]), 0)
    assert values == pytest.approx([1, 0, 0], abs=1e-12)
    between = efficiency(np.array([1.0, 0.0, 0.5]), np.ones(3), 0)
    assert between == pytest.approx([1, 0, 0.5])


def literal_efficiency(performance, costs, upper_bound):
    """The section of the paper, sentence by sentence."""
    z_performance = [(p - np.mean(performance)) / np.std(performance, ddof=1) for p in performance]
    z_costs = [(c - np.mean(costs)) / np.std(costs, ddof=1) for c in costs]
    distances = [
        math.dist((p, c), (z_performance[upper_bound], z_costs[upper_bound]))
        for p, c in zip(z_performance, z_costs, strict=True)
    ]
    return [1 - (d - min(distances)) / (max(distances) - min(distances)) for d in distances]


@pytest.mark.parametrize("seed", range(4))
def test_efficiency_is_that_of_the_paper(seed):
    generator = np.random.default_rng(seed)
    performance, costs = generator.random(7), generator.random(7) * 3e7
    ours = efficiency(performance, costs, 3)
    assert ours == pytest.approx(literal_efficiency(performance, costs, 3))
    assert (ours[3], ours.min()) == (1.0, 0.0)
    assert efficiency(-50 * performance, costs / 1e6, 3) == pytest.approx(ours)  # neither units nor directions matter
    turn = generator.permutation(7)
    assert efficiency(performance[turn], costs[turn], int(np.flatnonzero(turn == 3)[0])) == pytest.approx(ours[turn])


def test_efficiency_without_differences():
    assert efficiency(np.full(3, 0.1), np.full(3, 0.3), 1).tolist() == [1, 1, 1]


def test_efficiency_wants_two_methods_and_numbers():
    with pytest.raises(InputError, match="efficiency: there is nothing to compare with the upper bound"):
        efficiency(np.ones(1), np.ones(1), 0)
    with pytest.raises(InputError, match="efficiency: a score or a cost is not finite"):
        efficiency(np.array([1, math.nan]), np.ones(2), 0)
