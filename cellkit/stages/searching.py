"""Settings of decoding that suit a few labelled images best, from predictions alone: one line after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellkit.config import NO_SETTINGS, JsonValue, Settings
from cellkit.errors import InputError, UsageError
from cellkit.io.label_image import whole
from cellkit.io.maps import Prediction
from cellkit.overlap import ordered_map
from cellkit.representations import Representation
from cellkit.stages.postprocessing import decode, representation_of
from cellkit.stages.thresholds import DECIMALS, agreement

ROUNDS = 2  # over all lines; a third seldom moves anything


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """A prediction with the cells that are really there: labels (H, W) at the size of the image."""

    prediction: Prediction
    labels: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found.

    Attributes:
        settings: those that were searched, with the best values.
        score: of them; see :func:`cellkit.stages.thresholds.agreement`.
        before: score of the settings as they were.
        images: how many decided.
    """

    settings: dict[str, JsonValue]
    score: float
    before: float
    images: int


def search_lines(images: Sequence[Labelled], overrides: Settings = NO_SETTINGS, *, workers: int = 1) -> Found:
    """Try the values of one setting after the other, each with the best of the others, until none moves.

    Never worse on these images than the settings as they are; of equal values the first one, as it was, is kept.

    Args:
        images: at least one, all of one representation.
        overrides: settings that stay as they are given.
        workers: images decoded at once.

    Raises:
        UsageError: the representation has nothing to search, or all of it was given.
        InputError: predictions of several representations, or labels of another size than the image.
    """
    representation = _representation(images, overrides)
    names = [name for name in representation.searched if name not in overrides]
    if not names:
        problem = f"'{representation.name}' has no setting left to search"
        raise UsageError("--search", problem, "leave it out, or give fewer settings")
    stored = representation_of(images[0].prediction, overrides)[1].to_dict()
    chosen = {name: stored[name] for name in names}
    best = before = _score(images, {**overrides, **chosen}, workers)
    for _ in range(ROUNDS):
        former = dict(chosen)
        for name in names:
            for value in representation.searched[name]:
                if value == chosen[name]:
                    continue
                score = _score(images, {**overrides, **chosen, name: value}, workers)
                if score > best:
                    best, chosen = score, {**chosen, name: value}
        if chosen == former:
            break
    return Found(settings=chosen, score=best, before=before, images=len(images))


def _representation(images: Sequence[Labelled], overrides: Settings) -> Representation:
    first = images[0].prediction
    for image in images:
        name = image.prediction.representation.name
        if name != first.representation.name:
            problem = f"is of '{name}', but {first.key} of '{first.representation.name}'"
            raise InputError(image.prediction.source, problem, "search on predictions of one model")
        if image.labels.shape != image.prediction.shape:
            sizes = [" x ".join(map(str, shape)) for shape in (image.labels.shape, image.prediction.shape)]
            problem = f"its labels have {sizes[0]} pixels, the image {sizes[1]}"
            raise InputError(image.prediction.key, problem, "give the labels of this image")
    return representation_of(first, overrides)[0]


def _score(images: Sequence[Labelled], settings: Settings, workers: int) -> float:
    """Mean over images."""

    def one(image: Labelled) -> float:
        return agreement(image.labels, whole(decode(image.prediction, settings)), image.prediction.key)

    return round(float(np.mean(list(ordered_map(one, images, workers)))), DECIMALS)
