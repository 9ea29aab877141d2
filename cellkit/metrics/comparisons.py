"""Two predictions of the same truth, compared image by image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cellkit.errors import UsageError
from cellkit.metrics.reports import POOLED, ImageReport, SetReport, known_name
from cellkit.metrics.statistics import LEVEL, RESAMPLES, Floats, mean_intervals, names_of, value_table

DECIMALS = 12  # differences are rounded to: 0.8 - 0.7 and 0.7 - 0.6 are the same difference
EXACT = 200  # images up to which the rank sums are counted out, in 4 ms; beyond, the normal p is within 0.002 of that

LOWER_IS_BETTER = frozenset({"hd95", "asd", "hd95_um", "asd_um", "splits", "merges"})
NEARER_ZERO_IS_BETTER = frozenset({"count_error", "area_error"})
NEITHER_IS_BETTER = frozenset({"n_true", "n_predicted"})


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric of two predictions over the images where both define it.

    Attributes:
        n: the number of those images; all that follows is over them.
        first: mean of the first prediction.
        second: mean of the second.
        difference: mean of second - first.
        low: lower end of the bootstrap interval of the difference; NaN where n < 2.
        high: upper end.
        p: of the Wilcoxon signed-rank test, see :func:`signed_rank`; NaN where n is 0.
        improved: images where the second is better; None for metrics of which neither more nor less is better.
        worse: images where it is worse; None likewise.
        equal: images where both are equal.
    """

    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    improved: int | None
    worse: int | None
    equal: int


@dataclass(frozen=True)
class Change:
    """One metric of one image in two predictions.

    Attributes:
        key: name of the image.
        first: value of the first prediction.
        second: value of the second.
    """

    key: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        """The second value less the first."""
        return self.second - self.first


def compare(
    first: SetReport, second: SetReport, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> dict[str, Comparison]:
    """Paired differences of each metric that images of both reports have, in the order of the first.

    Images are paired by name; :func:`unpaired` lists the others. Swapping the reports turns the signs of the
    differences and of the ends of the interval, and improved into worse; the order of images changes nothing. The
    p values are those of single tests: of twenty metrics that do not differ, one is expected below 0.05.

    Args:
        first: the prediction that is compared with.
        second: the prediction that may be better.
        resamples: draws of images for the interval, the same for all metrics.
        level: part of the draws within the interval.
        seed: of the draws.
    """
    pairs = _paired(first, second)
    known = set(names_of(second))
    names = [name for name in names_of(first) if name in known]
    before, after = (value_table([pair[side] for pair in pairs], names) for side in (0, 1))
    differences = np.round(after - before, DECIMALS)
    lows, highs = mean_intervals(differences, resamples=resamples, level=level, seed=seed)
    return {
        name: _comparison(name, before[:, i], after[:, i], (float(lows[i]), float(highs[i])))
        for i, name in enumerate(names)
    }


def unpaired(first: SetReport, second: SetReport) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the images that only the first has, and of those that only the second has."""
    keys, others = (dict.fromkeys(image.key for image in report.images) for report in (first, second))
    return tuple(key for key in keys if key not in others), tuple(key for key in others if key not in keys)


def most_changed(first: SetReport, second: SetReport, metric: str, n: int = 5) -> list[Change]:
    """The images whose value differs most, the largest difference first, ties by name; equal images are left out.

    Args:
        first: the prediction that is compared with.
        second: the other.
        metric: the name of a value of images.
        n: at most so many.

    Raises:
        UsageError: images have no value of that name.
    """
    name = known_name(metric, names_of(first))
    if name.startswith(POOLED):
        raise UsageError(metric, "a pooled value is not of one image", f"give {name.removeprefix(POOLED)}")
    nowhere = math.nan
    changes = [
        Change(before.key, before.values.get(name, nowhere), after.values.get(name, nowhere))
        for before, after in _paired(first, second)
    ]
    sizes = {change.key: abs(round(change.difference, DECIMALS)) for change in changes}
    changed = [change for change in changes if sizes[change.key] > 0]  # NaN is not
    return sorted(changed, key=lambda change: -sizes[change.key])[:n]  # stable: they came in the order of names


def signed_rank(differences: Floats) -> float:
    """Two-sided p of Wilcoxon's signed-rank test that paired differences are symmetric about 0.

    Differences of 0 are left out, ties take their mean rank. Up to 200 differences p is exact given the ranks, with
    ties too: the part of all 2^n choices of signs whose rank sum is at least as far from its mean. Beyond, it is the
    normal approximation with correction for ties (scipy). Only zeros: 1. No number at all: NaN.

    Args:
        differences: (N,) finite numbers.

    Source: Wilcoxon 1945, Individual comparisons by ranking methods; Pratt and Gibbons 1981 for ties.
    """
    if not differences.size:
        return math.nan
    from scipy import stats  # takes as long to import as all else that scoring needs

    known = differences[differences != 0]
    if not known.size:
        return 1.0
    if known.size > EXACT:
        return float(stats.wilcoxon(known).pvalue)
    ranks = np.round(2 * stats.rankdata(np.abs(known))).astype(np.int64)  # mean ranks are halves: whole when doubled
    positive, total = int(ranks[known > 0].sum()), int(ranks.sum())
    chances = _rank_sums(ranks)
    outer = np.abs(2 * np.arange(total + 1) - total) >= abs(2 * positive - total)
    return min(1.0, float(chances[outer].sum()))


def _rank_sums(ranks: np.ndarray) -> Floats:
    """(S + 1,) chance of each sum 0 .. S of the ranks whose signs are positive, each sign by a fair coin."""
    chances = np.zeros(int(ranks.sum()) + 1)
    chances[0] = 1.0
    for rank in ranks:
        chances[rank:] = 0.5 * (chances[rank:] + chances[:-rank])
        chances[:rank] *= 0.5
    return chances


def _paired(first: SetReport, second: SetReport) -> list[tuple[ImageReport, ImageReport]]:
    """The images of both, by name: in the order of names, so that draws do not depend on the order of images."""
    others = {image.key: image for image in second.images}
    pairs = [(image, others[image.key]) for image in first.images if image.key in others]
    return sorted(pairs, key=lambda pair: pair[0].key)


def _comparison(name: str, before: Floats, after: Floats, interval: tuple[float, float]) -> Comparison:
    both = ~(np.isnan(before) | np.isnan(after))
    before, after = before[both], after[both]
    differences = np.round(after - before, DECIMALS)
    gains = _gains(name, before, after)
    return Comparison(
        n=before.size,
        first=_mean(before),
        second=_mean(after),
        difference=_mean(differences),
        low=interval[0],
        high=interval[1],
        p=signed_rank(differences),
        improved=None if gains is None else int(np.count_nonzero(gains > 0)),
        worse=None if gains is None else int(np.count_nonzero(gains < 0)),
        equal=int(np.count_nonzero((differences if gains is None else gains) == 0)),
    )


def _gains(name: str, before: Floats, after: Floats) -> Floats | None:
    """(N,) by how much the second is better, or None where more is as good as less."""
    if name in NEITHER_IS_BETTER:
        return None
    if name in NEARER_ZERO_IS_BETTER:
        before, after = -np.abs(before), -np.abs(after)
    sign = -1.0 if name in LOWER_IS_BETTER else 1.0
    return np.round(sign * (after - before), DECIMALS)


def _mean(values: Floats) -> float:
    return math.fsum(values.tolist()) / values.size if values.size else math.nan
