"""Pictures of how truth and prediction agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cellkit.errors import InputError
from cellkit.metrics.intersections import Labels, intersections
from cellkit.metrics.matching import match
from cellkit.ops.drawing import fit, overlay, to_rgb
from cellkit.reports.evaluation import Example

TRUE_OUTLINE = (90, 200, 255)  # blue against orange: apart for every kind of colour vision
PREDICTED_OUTLINE = (255, 176, 0)
MISSED = (0, 150, 255)  # the fills are kin to the outline of the side that stands alone
FALSE = (255, 50, 40)
BACKGROUND = (24, 26, 32)  # where there is no image
FILL = 0.5  # share of the colour in a fill: the image stays visible

LARGEST_SIDE = 1024  # px: five pictures stay a page of a few megabytes
SMALLEST_SIDE = 512  # smaller images are enlarged by a whole factor, so that outlines stay finer than cells
OVERSAMPLED = 4  # pixels of the image that one of the picture is averaged from, per axis


def draw_example(
    key: str,
    choice: tuple[int, str, float],
    image: NDArray[np.generic] | None,
    truth: Labels,
    prediction: Labels,
) -> Example:
    """An example for the report.

    Args:
        key: name of the image.
        choice: percentile, name of the metric, and score.
        image: (C, H, W) of any type, or None.
        truth: (H, W) labels.
        prediction: (H, W) labels.

    Raises:
        InputError: as :func:`draw_agreement`.
    """
    percentile, score_name, score = choice
    return Example(
        key=key,
        percentile=percentile,
        score_name=score_name,
        score=score,
        picture=draw_agreement(image, truth, prediction),
        plain=None if image is None else _canvas(image, (truth.shape[0], truth.shape[1])),
    )


def draw_agreement(
    image: NDArray[np.generic] | None, truth: Labels, prediction: Labels, threshold: float = 0.5
) -> NDArray[np.uint8]:
    """True and predicted outlines; cells without a partner are filled in the colour of their side.

    Large images are scaled down to a longer side of 1,024 px by averaging, and small ones enlarged by a whole factor to
    at least 512 px; labels are scaled by nearest pixels and outlined afterwards, so that outlines are one pixel wide.

    Args:
        image: (C, H, W) of any type, or None for a dark background.
        truth: (H, W) labels.
        prediction: (H, W) labels.
        threshold: IoU that a pair must reach to be matched, (0, 1].

    Returns:
        (h, w, 3) uint8.

    Raises:
        InputError: the labels, or the labels and the image, differ in height or width.
    """
    table = intersections(truth, prediction)
    pairs = match(table, threshold)
    missed = np.delete(table.truth_ids, table.truth[pairs])
    false = np.delete(table.predicted_ids, table.predicted[pairs])
    shape = (truth.shape[0], truth.shape[1])
    picture = _canvas(image, shape)
    truth, prediction = _scaled(truth, picture.shape), _scaled(prediction, picture.shape)
    picture = _filled(picture, np.isin(truth, missed), MISSED)
    picture = _filled(picture, np.isin(prediction, false), FALSE)
    picture = overlay(picture, truth, TRUE_OUTLINE)
    return overlay(picture, prediction, PREDICTED_OUTLINE)


def _canvas(image: NDArray[np.generic] | None, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The image, or darkness, in the size of the picture."""
    height, width = _size(shape)
    if image is None:
        return np.full((height, width, 3), BACKGROUND, np.uint8)
    if image.shape[1:] != shape:
        sizes = [" x ".join(map(str, size)) for size in (image.shape[1:], shape)]
        raise InputError(
            "image", f"its pixels are {sizes[0]}, but the labels are {sizes[1]}", "give labels of the image"
        )
    step = max(1, max(shape) // (OVERSAMPLED * LARGEST_SIDE))  # never all of a large image as floats
    picture = to_rgb(image[:, ::step, ::step])
    if max(height, width) >= max(shape):
        return fit(picture, max(height, width))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def _size(shape: tuple[int, int]) -> tuple[int, int]:
    longer = max(shape)
    if longer > LARGEST_SIDE:
        scale = LARGEST_SIDE / longer
        return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    factor = min(-(-SMALLEST_SIDE // longer), LARGEST_SIDE // longer)
    return shape[0] * factor, shape[1] * factor


def _scaled(labels: Labels, shape: tuple[int, ...]) -> Labels:
    rows = ((np.arange(shape[0]) + 0.5) / shape[0] * labels.shape[0]).astype(np.intp)
    columns = ((np.arange(shape[1]) + 0.5) / shape[1] * labels.shape[1]).astype(np.intp)
    scaled: Labels = labels[rows[:, None], columns]
    return scaled


def _filled(picture: NDArray[np.uint8], where: NDArray[np.bool_], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    filled = picture.copy()
    filled[where] = (1 - FILL) * picture[where] + FILL * np.array(colour)
    return filled
