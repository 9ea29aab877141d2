"""Values of one image, and of a set of images."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cellkit.errors import UsageError
from cellkit.metrics.counting import Counts, Metric, Values, summed

POOLED = "pooled/"  # before a name: the value of the summed counts instead of the mean over images
MEAN = "mean/"


@dataclass(frozen=True)
class ImageReport:
    """The metrics of one image.

    Attributes:
        key: name of the image.
        values: metrics by name; NaN where a metric is not defined (see its docstring). Distances between surfaces are
            there if they were asked for, those in micrometres if the pixel size is known.
        counts: what is summed for the pooled metrics: objects, matched pairs, pixels, sums of IoU.
    """

    key: str
    values: dict[str, float]
    counts: dict[str, float]


@dataclass(frozen=True)
class SetReport:
    """The metrics of a set of images.

    Attributes:
        images: the images, in the order given.
        mean: each metric's mean over the images where it is defined; NaN where it is defined in none.
        pooled: each metric of the counts summed over all images, as if they were one large image. Distances between
            surfaces are not made of counts and have none.
        defined: for each metric, the number of images that its mean is over.
    """

    images: tuple[ImageReport, ...]
    mean: dict[str, float]
    pooled: dict[str, float]
    defined: dict[str, int]


def values_of(counts: Counts, metrics: Mapping[str, Metric]) -> Values:
    """The values of all metrics, in the order of the table."""
    return {name: value for metric in metrics.values() for name, value in metric(counts).items()}


def set_report(images: Sequence[ImageReport], metrics: Mapping[str, Metric], empty: Counts) -> SetReport:
    """Mean and pooled values; ``empty`` holds the counts of an image without objects, so that no image is a set too."""
    counts = summed([empty, *(image.counts for image in images)])
    pooled = values_of(counts, metrics)
    names = dict.fromkeys([*pooled, *(name for image in images for name in image.values)])
    columns = {name: _defined([image.values.get(name, math.nan) for image in images]) for name in names}
    return SetReport(
        images=tuple(images),
        mean={name: math.fsum(column) / len(column) if column else math.nan for name, column in columns.items()},
        pooled=pooled,
        defined={name: len(column) for name, column in columns.items()},
    )


def _defined(values: list[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def known_name(name: str, names: Iterable[str], unpooled: Container[str] = ()) -> str:
    """The name as reports have it: ``f1@0.50`` becomes ``f1@0.5``, ``mean/f1@0.5`` too; ``pooled/`` stays.

    Args:
        name: as somebody wrote it.
        names: those there are.
        unpooled: those of them that have no pooled value.

    Raises:
        UsageError: no metric is called that; the repair holds near names and all choices.
    """
    choices = tuple(names)
    prefix = POOLED if name.startswith(POOLED) else ""
    bare = _plain_threshold(name.removeprefix(prefix or MEAN))
    if bare in choices and not (prefix and bare in unpooled):
        return prefix + bare
    if bare in choices:
        raise UsageError(name, "distances have no pooled value", f"{bare} is their mean over images")
    near = _near(bare, choices)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(name, "no such metric", f"{hint}choices: {_listed(choices)}; {POOLED}NAME for the pooled value")


def value_named(report: SetReport, name: str) -> float:
    """The mean over images of the metric of that (known) name, or with ``pooled/`` the pooled value.

    A metric that only the whole set has (COCO) needs no ``pooled/``; one that was not computed is NaN.
    """
    if name.startswith(POOLED):
        return report.pooled.get(name.removeprefix(POOLED), math.nan)
    return report.mean.get(name, report.pooled.get(name, math.nan))


def _plain_threshold(name: str) -> str:
    family, at, threshold = name.partition("@")
    return f"{family}@{float(threshold):g}" if at and re.fullmatch(r"\d*\.?\d+", threshold) else name


def _near(name: str, choices: Sequence[str]) -> list[str]:
    lower = {choice.lower(): choice for choice in choices}
    inside = [choice for text, choice in lower.items() if name.lower() in text.split("/")]
    return inside or [lower[text] for text in difflib.get_close_matches(name.lower(), lower, n=3)]


def _listed(choices: Sequence[str]) -> str:
    """All names in short: those with thresholds once, with the first and the last threshold."""
    families: dict[str, list[str]] = {}
    for choice in choices:
        family, at, threshold = choice.partition("@")
        families.setdefault(family + at, []).append(threshold)
    return ", ".join(f"{family}{found[0]}..{found[-1]}" if found[1:] else family for family, found in families.items())
