"""Reports of parts of a set: a cell type, a plate, a microscope."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cellkit.metrics import summarise
from cellkit.metrics.reports import SetReport

NO_GROUP = "(none)"  # how the images without group are called in reports


def members(keys: Iterable[str], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of images by group: groups in the order of their names, those without group last.

    Args:
        keys: names of images; each group keeps their order.
        groups: group of each image by its name; images that are not in it, or whose group is empty, are without.
    """
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(groups.get(key, "") or NO_GROUP, []).append(key)
    return {group: found[group] for group in sorted(found, key=lambda group: (group == NO_GROUP, group))}


def grouped(report: SetReport, groups: Mapping[str, str]) -> dict[str, SetReport]:
    """A report of each group of images, as if it were the whole set; order and names as in :func:`members`."""
    images = {image.key: image for image in report.images}
    return {group: summarise(images[key] for key in keys) for group, keys in members(images, groups).items()}
