"""Scores against what they cost: annotated shots, parameters, time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from cellkit.errors import InputError

Floats: TypeAlias = NDArray[np.float64]

PLATEAU = 0.9  # the part of the limit that counts as enough
REACH = 1e3  # k_d is looked for so far below the fewest shots and above the most: beyond, curves are straight lines
STEPS_PER_DECADE = 20  # of the search; what follows needs only the right valley
TOLERANCE = 1e-12  # of log k_d; rounding of the sum of squares leaves about 1e-8


@dataclass(frozen=True, kw_only=True)
class ShotFit:
    """The curve Y = Bmax X / (Kd + X) through scores Y at X shots.

    Attributes:
        n: points fitted.
        b_max: the score that ever more shots lead to.
        k_d: the shots that reach half of it; 0 where the fewest shots reach as much as the most.
        b_max_error: standard error of b_max; NaN for two points, and where k_d is 0, the end of what it can be.
        k_d_error: standard error of k_d; likewise.
        r2: 1 - residual sum of squares / sum of squares about the mean; NaN where all scores are equal.
    """

    n: int
    b_max: float
    k_d: float
    b_max_error: float
    k_d_error: float
    r2: float

    def score(self, shots: float) -> float:
        """The score that the curve has at a number of shots above 0."""
        return self.b_max * shots / (self.k_d + shots)

    def shots_for(self, part: float = PLATEAU) -> float:
        """The shots that reach a part of b_max, in (0, 1): part / (1 - part) times k_d, so 9 k_d for 0.9."""
        return part / (1 - part) * self.k_d


def fit_shots(shots: Floats, scores: Floats) -> ShotFit:
    """Least squares of the hyperbola Y = Bmax X / (Kd + X) with Kd >= 0, every point with the same weight.

    Repeats of a number of shots are points of their own. For each Kd the best Bmax has a closed form, so only Kd is
    searched: from a thousandth of the fewest to a thousand times the most shots, then within the best step. The
    standard errors are those of the linearised model: residual variance over n - 2 degrees of freedom times (J' J)^-1.

    Args:
        shots: (N,) numbers of annotated images, above 0.
        scores: (N,) their scores.

    Raises:
        InputError: a number is not finite, shots are not above 0, all are the same number, or the scores rise in
            proportion to the shots and have no limit.

    Source: Scellseg, eq. 6.
    """
    _check(shots, scores)
    ladder = _ladder(shots)
    place = int(np.argmin([_loss(math.log(k_d), shots, scores) for k_d in ladder]))
    if place == ladder.size - 1:
        raise InputError("shots", "the scores do not level off, so the curve has no limit", "add scores at more shots")
    k_d = 0.0
    if place > 0:
        around = (math.log(ladder[place - 1]), math.log(ladder[place + 1]))
        found = minimize_scalar(
            _loss, bounds=around, args=(shots, scores), method="bounded", options={"xatol": TOLERANCE}
        )
        k_d = math.exp(float(found.x))
    b_max = _best_limit(shots, scores, k_d)
    residuals = scores - b_max * shots / (k_d + shots)
    b_max_error, k_d_error = _errors(shots, residuals, b_max, k_d)
    spread = float(((scores - scores.mean()) ** 2).sum())
    return ShotFit(
        n=shots.size,
        b_max=b_max,
        k_d=k_d,
        b_max_error=b_max_error,
        k_d_error=k_d_error,
        r2=1 - float(residuals @ residuals) / spread if np.ptp(scores) > 0 else math.nan,
    )


def _check(shots: Floats, scores: Floats) -> None:
    if not (np.isfinite(shots).all() and np.isfinite(scores).all()):
        raise InputError("shots", "a number of the curve is not finite", "leave undefined scores out")
    if not (shots > 0).all():
        raise InputError("shots", "the curve is 0 at 0 shots, whatever the scores", "give scores of 1 shot and more")
    if np.unique(shots).size < 2:
        raise InputError("shots", "a curve needs scores at two numbers of shots at least", "add some")


def _ladder(shots: Floats) -> Floats:
    """Half-way points to try, in equal ratios."""
    low, high = math.log10(shots.min() / REACH), math.log10(shots.max() * REACH)
    return np.logspace(low, high, math.ceil((high - low) * STEPS_PER_DECADE) + 1)


def _loss(log_k_d: float, shots: Floats, scores: Floats) -> float:
    """Sum of squares left by the best b_max for a k_d."""
    k_d = math.exp(log_k_d)
    residuals = scores - _best_limit(shots, scores, k_d) * shots / (k_d + shots)
    return float(residuals @ residuals)


def _best_limit(shots: Floats, scores: Floats, k_d: float) -> float:
    part = shots / (k_d + shots)
    return float(part @ scores) / float(part @ part)


def _errors(shots: Floats, residuals: Floats, b_max: float, k_d: float) -> tuple[float, float]:
    """Standard errors of both parameters, by the QR of the slopes: they are nearly parallel where k_d is large."""
    freedom = shots.size - 2
    if freedom == 0 or k_d == 0 or b_max == 0:
        return math.nan, math.nan
    part = shots / (k_d + shots)
    slopes = np.stack([part, -b_max * part / (k_d + shots)], axis=1)
    sizes = np.linalg.norm(slopes, axis=0)
    inverse = np.linalg.inv(np.linalg.qr(slopes / sizes, mode="r"))
    errors = np.linalg.norm(inverse, axis=1) / sizes * math.sqrt(float(residuals @ residuals) / freedom)
    return float(errors[0]), float(errors[1])


def efficiency(performance: Floats, costs: Floats, upper_bound: int) -> Floats:
    """Performance efficiency of methods: how near each is to the upper bound, in performance and in cost.

    Performance and costs are each brought to mean 0 and standard deviation 1 over the methods; the distance of a method
    is the Euclidean distance of its two numbers to those of the upper bound; the efficiency is 1 less the distances
    brought to [0, 1] by their least and their largest. So it is 1 for the upper bound, 0 for the method farthest from
    it, and depends on which methods are compared. Nearness is what counts: to be better or cheaper than the upper bound
    is distance too, as in the paper. Which divisor the standard deviation has does not matter, nor do the units or the
    direction of either axis. An axis on which all methods are equal adds nothing; where both are so, all are 1.

    Args:
        performance: (N,) mean score of each method by one metric.
        costs: (N,) what each costs; the paper takes the number of parameters.
        upper_bound: place of the method trained on the target itself.

    Returns:
        (N,) efficiencies in [0, 1].

    Raises:
        InputError: fewer than two methods, or a number is not finite.

    Source: CULPICO, section on evaluation metrics.
    """
    if performance.size < 2:
        raise InputError("efficiency", "there is nothing to compare with the upper bound", "add other methods")
    points = np.stack([performance, costs], axis=1)
    if not np.isfinite(points).all():
        raise InputError("efficiency", "a score or a cost is not finite", "leave undefined scores out")
    spread = points.std(axis=0)
    varied = np.ptp(points, axis=0) > 0  # the rounding of a mean must not become a difference
    normal = (points[:, varied] - points[:, varied].mean(axis=0)) / spread[varied]
    distances = np.sqrt(((normal - normal[upper_bound]) ** 2).sum(axis=1))
    farthest = distances.max()  # the least is the 0 of the upper bound itself
    return np.ones_like(distances) if farthest == 0 else 1 - distances / farthest
