"""Bring labelled images to one size of cells: python recipes/scellseg_rescale.py DATA OUT DIAMETER [NAMES]

Each image is resized so that its median cell has DIAMETER pixels, as pre-training does, and written with its labels to
OUT/images and OUT/labels. So images of a base's own kind, whose cells differ in size, are scored with one --diameter.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scellseg_split import write_labels
from skimage.transform import resize

from cellkit.data.diameter import diameter_of
from cellkit.data.layouts import find_pairs, read_names, select
from cellkit.errors import CellkitError, NoInputError, UsageError


def rescale(data: str, folder: Path, diameter: float, names: str | None = None) -> int:
    """Write the resized images, all or none.

    Args:
        data: labelled images in any layout.
        folder: a folder that is not there yet.
        diameter: of the cells in pixels, as they will be.
        names: file that lists the images to take, or None for all.

    Returns:
        how many; images without cells are left out, for they have no scale.

    Raises:
        UsageError: the folder is there.
        NoInputError: no image holds a cell.
        InputError: an image or its labels cannot be read, or do not fit 16 bits.
    """
    if folder.exists():
        raise UsageError(folder, "exists already", "choose another name, or remove it")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was cut off
    for name in ("images", "labels"):
        (part / name).mkdir(parents=True)
    found = find_pairs(data)
    count = 0
    for pair in (select(found, read_names(names)) if names else found).pairs:
        image = pair.read()
        pixels = np.asarray(image.pixels[...])
        labels = pair.labels.read((pixels.shape[1], pixels.shape[2])).labels
        own = diameter_of(labels)
        if own is not None:
            shape = tuple(max(1, round(side * diameter / own)) for side in labels.shape)
            _write(part / "images" / f"{pair.key}.tif", resized(pixels, shape), rgb=image.rgb)
            write_labels(part / "labels" / f"{pair.key}.tif", resized_labels(labels, shape), pair.labels.name)
            count += 1
    if not count:
        raise NoInputError(data, "no image holds a labelled cell", "outline some cells first")
    os.rename(part, folder)
    return count


def resized(pixels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Linear, smoothed before it shrinks: (C, H, W) -> (C, h, w), values kept."""
    channels = [resize(one.astype(np.float32), shape, order=1, preserve_range=True) for one in pixels]
    return np.stack(channels).astype(np.float32)


def resized_labels(labels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Nearest: (H, W) -> (h, w), ids kept."""
    rows, columns = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(shape, labels.shape, strict=True))
    return labels[np.ix_(rows, columns)]


def _write(path: Path, pixels: NDArray[np.float32], *, rgb: bool) -> None:
    if rgb:
        tifffile.imwrite(path, np.moveaxis(pixels, 0, -1), photometric="rgb", metadata={"axes": "YXS"})
    else:
        axes = "CYX" if len(pixels) > 1 else "YX"
        tifffile.imwrite(
            path, pixels if len(pixels) > 1 else pixels[0], photometric="minisblack", metadata={"axes": axes}
        )


if __name__ == "__main__":
    try:
        written = rescale(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:5])
        sys.stdout.write(f"{sys.argv[2]}: {written} images at {sys.argv[3]} pixels per cell\n")
    except CellkitError as error:
        sys.exit(f"scellseg_rescale: error: {error}")
