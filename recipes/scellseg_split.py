"""Split labelled images: python recipes/scellseg_split.py DATA TARGET COUNT [SEED] [NAMES]

Draws COUNT images for TARGET/pool, from which shots are drawn; all others become TARGET/test. Both are folders with
images/ (links) and labels/ (16-bit TIFF; where objects overlap, one is on top). NAMES is a file that lists the images
to take, one per line. With COUNT 0 all images become TARGET/test.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellkit.data.dataset import Pair
from cellkit.data.layouts import find_pairs, read_names, select
from cellkit.data.splits import draw_shots
from cellkit.errors import CellkitError, InputError, UsageError
from cellkit.io.keys import split_dataset, suffix_of

LARGEST = np.iinfo(np.uint16).max


def split(data: str, target: Path, count: int, seed: int = 0, names: str | None = None) -> tuple[int, int]:
    """Write both folders.

    Args:
        data: labelled images in any layout with a file per image.
        target: a folder that is not there yet.
        count: images of the pool.
        seed: of the draw.
        names: file that lists the images to take, or None for all.

    Returns:
        images in the pool, images to test.

    Raises:
        UsageError: the folder is there, or there are too few images.
        InputError: an image is no file of its own, or its labels cannot be read or do not fit 16 bits.
    """
    if target.exists():
        raise UsageError(target, "exists already", "choose another name, or remove it")
    found = find_pairs(data)
    pairs = {pair.key: pair for pair in (select(found, read_names(names)) if names else found).pairs}
    if not 0 <= count < len(pairs):
        problem = f"a pool of {count} leaves nothing of {len(pairs)} images to test"
        raise UsageError(data, problem, f"give 0 to {len(pairs) - 1}")
    pool = draw_shots(list(pairs), count, seed) if count else []
    for part, keys in (("pool", pool), ("test", [key for key in pairs if key not in set(pool)])):
        if keys:
            _write(target / part, [pairs[key] for key in keys])
    return len(pool), len(pairs) - len(pool)


def _write(folder: Path, pairs: Sequence[Pair]) -> None:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for pair in pairs:
        file, dataset = split_dataset(pair.image)
        if dataset is not None or pair.plane is not None:
            raise InputError(pair.image, "is no image file of its own", "write the images as TIFF first")
        os.symlink(Path(file).resolve(), folder / "images" / (pair.key + suffix_of(file)))
        write_labels(folder / "labels" / f"{pair.key}.tif", pair.labels.read().labels, pair.labels.name)


def write_labels(path: Path, labels: NDArray[Any], name: str) -> None:
    """Write (H, W) ids as a 16-bit TIFF.

    Raises:
        InputError: they do not fit; ``name`` is where they come from.
    """
    if labels.max(initial=0) > LARGEST:
        raise InputError(name, f"an id is above {LARGEST}", "number the cells from 1")
    tifffile.imwrite(path, labels.astype(np.uint16), compression="zlib")


if __name__ == "__main__":
    try:
        sizes = split(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int((sys.argv[4:] or ["0"])[0]), *sys.argv[5:6])
        sys.stdout.write(f"{sys.argv[2]}: {sizes[0]} images in pool/, {sizes[1]} in test/\n")
    except CellkitError as error:
        sys.exit(f"scellseg_split: error: {error}")
