"""The classical baseline: python recipes/cellulus_watershed.py IMAGES OUT SIZE [each]

Otsu's threshold of the smoothed image, and a watershed of the distance to the ground from its maxima. All lengths
follow from SIZE, the diameter of an object in pixels, or with 'each' from that which is estimated from each image
where it tells one; nothing is tuned. Writes OUT/NAME.tif for each image of IMAGES.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scellseg_split import write_labels
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from cellkit.errors import CellkitError, UsageError
from cellkit.io.sources import find_sources
from cellkit.ops.object_size import object_size
from cellkit.representations.embedding import EmbeddingSettings

SMOOTHING = 1 / 20  # of an object's diameter: a tenth of its radius
APART = 1 / 2  # of an object's diameter: the middles of two that touch are further apart
PERCENTILES = 1.0, 99.8


def segment(pixels: NDArray[Any], size: float) -> NDArray[np.int32]:
    """Cells of an image.

    Args:
        pixels: (C, H, W); channels are averaged. Objects are what is brighter than the ground, or darker where the
            median is nearer to white than to black.
        size: diameter of an object in pixels.

    Returns:
        labels (H, W); objects below a tenth of the area of a disc of that diameter are dropped, as Cellulus does.
    """
    grey = pixels.astype(np.float64).mean(0)
    low, middle, high = np.percentile(grey, (PERCENTILES[0], 50.0, PERCENTILES[1])).tolist()
    smooth = ndimage.gaussian_filter(-grey if middle - low > high - middle else grey, SMOOTHING * size)
    mask = ndimage.binary_fill_holes(smooth > threshold_otsu(smooth))
    distance = ndimage.distance_transform_edt(mask)
    pieces = ndimage.label(mask)[0]
    places = peak_local_max(distance, min_distance=max(1, round(APART * size)), labels=pieces, exclude_border=False)
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(places.T)] = np.arange(1, len(places) + 1)
    return without_small(watershed(-distance, markers, mask=mask), EmbeddingSettings.for_object(size).min_area)


def without_small(labels: NDArray[Any], least: int) -> NDArray[np.int32]:
    """Labels (H, W) numbered from 1 without those of fewer than ``least`` pixels."""
    areas = np.bincount(labels.ravel())
    kept = areas >= least
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return np.asarray(numbers[labels], np.int32)


def segment_folder(images: str, folder: Path, size: float, *, each: bool = False) -> int:
    """Write the labels of a folder of images, all or none, and return how many images there were.

    Args:
        images: the folder.
        folder: one that is not there yet.
        size: diameter of an object in pixels.
        each: take that which is estimated from an image, where it tells one.

    Raises:
        UsageError: the folder is there, or the size is none.
        NoInputError: there is no image.
        InputError: an image cannot be read, or has more cells than fit 16 bits.
    """
    if folder.exists():
        raise UsageError(folder, "exists already", "choose another name, or remove it")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was cut off
    part.mkdir(parents=True)
    count = 0
    for source in find_sources([images]):
        for image in source.images():
            pixels = np.asarray(image.pixels[...])
            own = object_size(pixels) if each else None
            write_labels(part / f"{image.key}.tif", segment(pixels, own or size), source.path)
            count += 1
    os.rename(part, folder)
    return count


if __name__ == "__main__":
    try:
        chosen = "each" in sys.argv[4:]
        written = segment_folder(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), each=chosen)
        sys.stdout.write(f"{sys.argv[2]}: {written} images, objects of {sys.argv[3]} pixels\n")
    except CellkitError as error:
        sys.exit(f"cellulus_watershed: error: {error}")
