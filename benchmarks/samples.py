"""The images that comparisons are made on: always the same ones of dsb2018."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Unavailable
from cellkit.config import Preprocessing
from cellkit.data.dataset import Pair
from cellkit.data.layouts import find_pairs
from cellkit.data.normalise import normalise, statistics

# Ten images, nearly in the proportions of the collection: four of 256 x 256, two of 256 x 320 (colour), two of
# 520 x 696 (67 and 313 nuclei), one of 360 x 360, one of 1024 x 1024.
SMALL = (
    "00071198d059ba7f",
    "10ba6cbee4873b32",
    "0121d6759c5adb29",
    "003cee89357d9fe1",
    "07fb37aafa662660",
    "02903040e19ddf92",
    "0bf33d3db4282d91",
    "0287e7ee5b007c91",
    "08275a5b1c2dfcd7",
    "05040e2e959c3f56",
)
# Twelve of 520 x 696, between 18 and 369 nuclei: four rows of three cover 2048 x 2048.
TILES = (
    "0ea221716cf13710",
    "10ba6cbee4873b32",
    "150b0ffa318c87b3",
    "175dbb364bfefc95",
    "193ffaa5272d5c42",
    "1b518cd2ea84a389",
    "1c8b905c9519061d",
    "1f6b7cead1534459",
    "2abc40c118bc7303",
    "2cfa61bef6542dd3",
    "3477024fd843e460",
    "351771edfc5db566",
)
TILES_PER_ROW = 3
SIDE = 2048
QUICK_IMAGES, QUICK_SIDE = 2, 512


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An annotated image as a network sees it.

    Attributes:
        key: name.
        image: (2, H, W) float32, normalised grey, the second channel empty.
        labels: (H, W) int32, numbered without gaps.
    """

    key: str
    image: NDArray[np.float32]
    labels: NDArray[np.int32]


def pairs(data: Path, keys: tuple[str, ...]) -> list[Pair]:
    """Files of images with their labels, in the order of the keys.

    Raises:
        Unavailable: the images are not there.
    """
    folder = data / "dsb2018"
    if not folder.is_dir():
        raise Unavailable(f"no images at {os.path.relpath(folder)} (give --data DIR or set CELLKIT_DATA)")
    found = {pair.key: pair for pair in find_pairs(str(folder)).pairs}
    return [found[key] for key in keys]


def small(data: Path, *, quick: bool) -> list[Sample]:
    """The ten images; two in a quick run."""
    return [_read(pair) for pair in pairs(data, SMALL[:QUICK_IMAGES] if quick else SMALL)]


def large(data: Path, *, quick: bool) -> list[Sample]:
    """One mosaic of 2048 x 2048; of 512 x 512 in a quick run."""
    side = QUICK_SIDE if quick else SIDE
    tiles = [_read(pair) for pair in pairs(data, TILES)]
    rows = [tiles[i : i + TILES_PER_ROW] for i in range(0, len(tiles), TILES_PER_ROW)]
    image = np.concatenate([np.concatenate([tile.image for tile in row], 2) for row in rows], 1)
    labels = np.concatenate([np.concatenate([_numbered(tile, tiles) for tile in row], 1) for row in rows])
    _, numbers = np.unique(labels[:side, :side], return_inverse=True)
    return [
        Sample(
            key=f"{side} x {side}",
            image=np.ascontiguousarray(image[:, :side, :side]),
            labels=numbers.reshape(side, side).astype(np.int32),
        )
    ]


def cases(data: Path, *, quick: bool) -> dict[str, list[Sample]]:
    """Both, by the name that the table gives them."""
    one, ten = large(data, quick=quick), small(data, quick=quick)
    return {f"{len(ten)} images": ten, one[0].key: one}


def _numbered(tile: Sample, tiles: list[Sample]) -> NDArray[np.int32]:
    """Labels of a tile, in numbers of their own; the tiles before may have up to 2000 each."""
    shift = 2000 * tiles.index(tile)
    return np.where(tile.labels, tile.labels + shift, 0).astype(np.int32)


def _read(pair: Pair) -> Sample:
    read = pair.read()
    shape = (int(read.pixels.shape[1]), int(read.pixels.shape[2]))
    grey = np.asarray(read.pixels[:, :, :]).mean(0, dtype=np.float32)[None]
    low, high = statistics(grey, Preprocessing(channels=1))
    image = np.zeros((2, *shape), np.float32)
    image[:1] = normalise(grey, low, high)
    _, numbers = np.unique(pair.labels.read(shape).labels, return_inverse=True)
    return Sample(key=pair.key, image=image, labels=numbers.reshape(shape).astype(np.int32))
