"""Which kinds of objects labelled images tell apart, and the number that a detector has for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cellkit.data.coco import DEFAULT_CATEGORY, CocoLabels, read_coco
from cellkit.data.truth import Truth
from cellkit.errors import InputError
from cellkit.ops.run_lengths import Indices

if TYPE_CHECKING:
    from cellkit.data.layouts import Pair

CELL = "cell"  # what objects are where nobody says it


def category_names(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """The names of the categories that the annotations of images list, by ascending id.

    Categories of several files are the same where they have the same name. Layouts other than COCO's, and COCO files
    that list no category, have one: ``cell``.
    """
    found: dict[str, int] = {}
    for pair in pairs:
        for number, name in _listed(pair).items():
            found.setdefault(name, number)
    return tuple(sorted(found, key=lambda name: (found[name], name)))


def categories_of(pair: Pair, truth: Truth, names: Sequence[str], count: int) -> Indices:
    """The category of each object of an image, as a place in ``names``.

    Args:
        pair: the image.
        truth: its objects, without crowds.
        names: of the categories; one alone takes all objects, whatever they are called.
        count: N, of the objects.

    Returns:
        (N,) int64.

    Raises:
        InputError: an object is of a category that has no place.
    """
    if len(names) == 1 or count == 0:
        return np.zeros(count, np.int64)
    places, listed = {name: place for place, name in enumerate(names)}, _listed(pair)
    annotations = truth.annotations
    numbers = np.full(count, DEFAULT_CATEGORY) if annotations is None else annotations.categories[~annotations.crowd]
    kinds, which = np.unique(numbers, return_inverse=True)
    own = [listed.get(int(number), CELL) for number in kinds]
    strange = next((name for name in own if name not in places), None)
    if strange is not None:
        problem = f"an object is of the category '{strange}', which is not among those that are learned"
        raise InputError(pair.labels.name, problem, f"known are {', '.join(names)}; or make all one category")
    result: Indices = np.array([places[name] for name in own], np.int64)[which]
    return result


def _listed(pair: Pair) -> Mapping[int, str]:
    """Names of the categories by id, as the file of an image's annotations lists them."""
    coco = read_coco(pair.labels.file) if isinstance(pair.labels, CocoLabels) else None
    return (coco.categories if coco is not None else {}) or {DEFAULT_CATEGORY: CELL}
