"""Tables of a shot experiment: means over draws with their intervals, and differences between runs of the same draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scellseg_rows import Row
from scipy.special import stdtrit

LEVEL = 0.95
ORDER = ("unet2", "unet3", "hover", "cellpose", "scellseg")  # as in the paper's figures
PAIRS = (  # (what, less what): the paper's claims
    ("scellseg contrastive", "scellseg classic"),
    ("cellpose classic", "unet2 classic"),
    ("cellpose classic", "unet3 classic"),
    ("cellpose classic", "hover classic"),
    ("scellseg classic", "cellpose classic"),
)
NOTE = (
    "Mean ± standard deviation over draws [95 % interval of the mean]. The interval is Student's t with (draws - 1) "
    "degrees of freedom: with three draws 2.48 standard deviations to each side. All draws are scored on the same "
    "images, so it speaks of the choice of shots and the seed, not of other images."
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What several draws say.

    Attributes:
        n: draws.
        mean: of them.
        sd: standard deviation (n - 1); NaN for one draw.
        low: lower end of the 95 % interval of the mean; NaN for one draw.
        high: its upper end.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.n == 1:
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} ± {self.sd:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, standard deviation and t interval of at least one value."""
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Estimate(n=1, mean=mean, sd=math.nan, low=math.nan, high=math.nan)
    sd = float(np.std(values, ddof=1))
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * sd / math.sqrt(n)
    return Estimate(n=n, mean=mean, sd=sd, low=mean - half, high=mean + half)


def methods_of(rows: Iterable[Row]) -> list[str]:
    """Methods in the order of the paper's figures, others behind them."""
    models = {row.method: row.model for row in rows}
    return sorted(models, key=lambda m: (ORDER.index(models[m]) if models[m] in ORDER else len(ORDER), m))


def kinds_of(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Datasets and metrics in the order of their first rows."""
    return list(dict.fromkeys((row.dataset, row.metric) for row in rows))


def by_shots(rows: Iterable[Row], method: str) -> dict[int, dict[int, float]]:
    """Scores of a method by shots and draw."""
    found: dict[int, dict[int, float]] = {}
    for row in rows:
        if row.method == method:
            found.setdefault(row.shots, {})[row.draw] = row.score
    return dict(sorted(found.items()))


def base_of(rows: Iterable[Row], method: str) -> float:
    """Score of the base of a method."""
    return next(row.before for row in rows if row.method == method)


def differences(rows: Sequence[Row], first: str, second: str) -> dict[str, list[float]]:
    """First less second, of runs with the same shots and draw.

    Returns:
        differences by draw, by number of shots; ``all``: the mean over the numbers of shots of each draw that has all,
        for shots of a small draw are among those of a large one, and no repeats.
    """
    one, other = by_shots(rows, first), by_shots(rows, second)
    found = {
        shots: {draw: one[shots][draw] - other[shots][draw] for draw in sorted(set(one[shots]) & set(other[shots]))}
        for shots in one
        if shots in other
    }
    return _with_mean({shots: values for shots, values in found.items() if values})


def gains(rows: Sequence[Row], method: str) -> dict[str, list[float]]:
    """A method less its base, as :func:`differences`."""
    base = base_of(rows, method)
    scores = by_shots(rows, method)
    return _with_mean({shots: {draw: score - base for draw, score in found.items()} for shots, found in scores.items()})


def _with_mean(found: dict[int, dict[int, float]]) -> dict[str, list[float]]:
    """Differences by draw, by number of shots, and ``all``."""
    table = {str(shots): list(values.values()) for shots, values in found.items()}
    if len(found) > 1:
        whole = sorted(set.intersection(*(set(values) for values in found.values())))
        means = [float(np.mean([values[draw] for values in found.values()])) for draw in whole]
        table |= {"all": means} if means else {}
    return table


def score_tables(rows: Sequence[Row], title: str) -> str:
    """Scores before and after: a Markdown table per dataset and metric, a line per method."""
    return _each(rows, title, _scores)


def difference_tables(rows: Sequence[Row], title: str) -> str:
    """What fine-tuning changed, and differences that the paper claims: a Markdown table per dataset and metric."""
    return _each(rows, title, _differences)


def _each(rows: Sequence[Row], title: str, table: Callable[[Sequence[Row]], list[str]]) -> str:
    parts = []
    for dataset, metric in kinds_of(rows):
        lines = table([row for row in rows if (row.dataset, row.metric) == (dataset, metric)])
        parts.append("\n".join([f"## {title}: {dataset}, {metric}", "", *lines, ""]))
    return "\n".join(parts)


def _scores(rows: Sequence[Row]) -> list[str]:
    shots = sorted({row.shots for row in rows})
    lines = _head("method", "before", *(f"{count} shot{'s' if count > 1 else ''}" for count in shots))
    for method in methods_of(rows):
        found = by_shots(rows, method)
        cells = [str(estimate(list(found[count].values()))) if count in found else "" for count in shots]
        lines.append(_line(method, f"{base_of(rows, method):.3f}", *cells))
    return lines


def _differences(rows: Sequence[Row]) -> list[str]:
    tables = {f"{method} - its base": gains(rows, method) for method in methods_of(rows)}
    tables |= {f"{first} - {second}": differences(rows, first, second) for first, second in PAIRS}
    lines = _head("difference, paired by draw", "shots", "mean", "above 0")
    for name, table in tables.items():
        for shots, values in table.items():
            above = f"{sum(value > 0 for value in values)} of {len(values)}"
            lines.append(_line(name, shots, str(estimate(values)), above))
    return lines


def _head(*names: str) -> list[str]:
    return [_line(*names), "|" + "---|" * len(names)]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
