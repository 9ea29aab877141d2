"""A few crops of each kind of training image, which travel in the checkpoint for contrastive fine-tuning.

Kinds are found by clustering styles, whatever folders the images come from: folders tell how files were collected, and
one folder such as that of the Data Science Bowl holds many kinds. Whoever has kinds in folders gives them when tuning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellkit.data.augment import ZOOM_LIMITS, Scene
from cellkit.data.examples import load_pair
from cellkit.data.style_crops import pack
from cellkit.data.training import TrainingSet
from cellkit.data.unlabelled import UnlabelledSet
from cellkit.engine.device import Device
from cellkit.networks import Styled
from cellkit.stages.prediction import resize, scaled_shape
from cellkit.stages.styles_clusters import cluster_styles, nearest
from cellkit.stages.styles_vectors import style_of, styled

SIDE = 290  # px, the largest crop that contrastive fine-tuning cuts (Scellseg)
MOST_IMAGES = 400  # that are looked at: some 70 s of one processor at full width
MOST_BYTES = 4_000_000  # of all crops together
FEWEST_CROPS = 3  # of a style, before crops become smaller
CANDIDATES = 64  # places of a crop in an image that are compared


def contrast_crops(
    network: nn.Module,
    data: TrainingSet,
    device: Device,
    *,
    styles: int = 7,
    per_style: int = 5,
    side: int = SIDE,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Crops that stand for the kinds of images that a network has learned from.

    Of at most 400 images, drawn by the seed, the part with the most cells is cut at the working scale; k-means finds
    groups of similar styles, and of each group the crops nearest to its centre are taken. Where they would take more
    than 4 MB there are fewer of a style, at least three, and then smaller ones.

    Args:
        network: on the device. It is left in the mode in which it is; of one without style there are no crops.
        data: images to learn from.
        device: where the network is.
        styles: how many kinds; 0: no crops at all.
        per_style: crops of a kind, each of another image.
        side: longest side of a crop in pixels at the working scale.
        seed: of the sample and of the groups.

    Returns:
        ``style1``, ``style2``, ... by falling number of images -> (n, C, h, w) uint8. All crops of a style have one
        size: those of small images are mirrored at their edges.
    """

    def cut(index: int, side: int) -> NDArray[np.float32]:
        return _Cutter(data, index, side).crop()

    album = _Album(count=len(data), channels=data.preprocessing.channels, cut=cut)
    return _by_style(network, album, device, styles=styles, per_style=per_style, side=side, seed=seed)


def unlabelled_crops(
    network: nn.Module,
    data: UnlabelledSet,
    device: Device,
    *,
    styles: int = 7,
    per_style: int = 5,
    side: int = SIDE,
    seed: int = 0,
) -> dict[str, Tensor]:
    """As :func:`contrast_crops`, of images without labels: the part with the most contrast is cut."""

    def cut(index: int, side: int) -> NDArray[np.float32]:
        pixels = data.image(index)
        shape = pixels.shape[1], pixels.shape[2]
        top, left = liveliest(pixels, (min(side, shape[0]), min(side, shape[1])))
        return pixels[:, top : top + side, left : left + side].float().cpu().numpy()

    album = _Album(count=len(data), channels=data.preprocessing.channels, cut=cut)
    return _by_style(network, album, device, styles=styles, per_style=per_style, side=side, seed=seed)


@dataclass(frozen=True, kw_only=True)
class _Album:
    """Images of which crops are cut.

    Attributes:
        count: of images.
        channels: of a crop.
        cut: number of an image, longest side in pixels -> crop (channels, h, w).
    """

    count: int
    channels: int
    cut: Callable[[int, int], NDArray[np.float32]]


def _by_style(
    network: nn.Module, album: _Album, device: Device, *, styles: int, per_style: int, side: int, seed: int
) -> dict[str, Tensor]:
    if styles == 0 or not isinstance(network, Styled):
        return {}
    sample = np.sort(np.random.default_rng(seed).permutation(album.count)[:MOST_IMAGES])
    embeddings = _embedded(network, (album.cut(int(index), side) for index in sample), device)
    labels = cluster_styles(embeddings, styles, seed)
    groups = [sample[nearest(embeddings, labels, label)] for label in range(int(labels.max()) + 1)]
    most, side = fitted([len(group) for group in groups], album.channels, per_style, side)
    return {
        f"style{number}": _packed([album.cut(int(index), side) for index in group[:most]])
        for number, group in enumerate(groups, 1)
    }


def fitted(sizes: Sequence[int], channels: int, per_style: int, side: int) -> tuple[int, int]:
    """Crops of a style and their side, so that all together take at most 4 MB.

    Args:
        sizes: images of each style.
        channels: of a crop.
        per_style: crops of a style that are wanted.
        side: that is wanted, in pixels.
    """

    def count(most: int) -> int:
        return sum(min(size, most) for size in sizes)

    while per_style > FEWEST_CROPS and count(per_style) * channels * side**2 > MOST_BYTES:
        per_style -= 1
    return per_style, min(side, math.isqrt(MOST_BYTES // (count(per_style) * channels)))


class _Cutter:
    """Cuts the part with the most cells out of an image of a training set, at the working scale."""

    def __init__(self, data: TrainingSet, index: int, side: int) -> None:
        self.data, self.index, self.side = data, index, side
        scene = data.scenes[index]
        known = scene.working is not None and scene.diameter is not None
        wanted = scene.working / scene.diameter if known else 1.0  # type: ignore[operator]
        self.scale = min(max(wanted, ZOOM_LIMITS[0]), ZOOM_LIMITS[1])
        extent = max(1, round(side / self.scale))
        self.size = min(extent, scene.shape[0]), min(extent, scene.shape[1])
        self.corner = richest(scene, self.size)

    def crop(self) -> NDArray[np.float32]:
        """(C, h, w) normalised; h and w are the side, or less where the image is smaller."""
        (top, left), (height, width) = self.corner, self.size
        part = self._image()[:, top : top + height, left : left + width]
        pixels = np.repeat(part, self.data.preprocessing.channels // len(part), axis=0)
        height, width = scaled_shape(self.size, self.scale)
        return resize(pixels, (min(height, self.side), min(width, self.side)))

    def _image(self) -> NDArray[np.float32]:
        kept = self.data.kept[self.index]
        if kept is not None:
            return kept.image.float().cpu().numpy()
        return load_pair(self.data.pairs[self.index], self.data.preprocessing, self.data.loading.options)[0]


def richest(scene: Scene, size: tuple[int, int]) -> tuple[int, int]:
    """Upper left corner (y, x) of the window with the most cells, of several the one nearest to the middle.

    Args:
        scene: shape of the image and centres of its cells.
        size: (h, w) of the window in pixels, not larger than the image.
    """
    room = np.subtract(scene.shape, size)
    every = max(1, math.ceil(len(scene.centres) / CANDIDATES))
    around = np.rint(scene.centres[::every] - np.divide(size, 2)).astype(np.int64).reshape(-1, 2)
    corners = np.concatenate([room[None] // 2, np.clip(around, 0, room)])
    offsets = scene.centres[None] - corners[:, None]
    counts = ((offsets >= 0) & (offsets < np.asarray(size))).all(2).sum(1)
    distances = ((corners - room / 2) ** 2).sum(1)
    top, left = corners[np.lexsort((distances, -counts))[0]]
    return int(top), int(left)


def liveliest(pixels: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """Upper left corner (y, x) of the window with the largest variance, of windows that overlap by half.

    Args:
        pixels: (C, H, W).
        size: (h, w) of the window in pixels, not larger than the image.
    """
    starts = [
        np.unique(np.linspace(0, whole - part, 2 * math.ceil(whole / part) - 1).round().astype(int)).tolist()
        for whole, part in zip(pixels.shape[1:], size, strict=True)
    ]
    corners = [(int(top), int(left)) for top in starts[0] for left in starts[1]]
    return max(corners, key=lambda at: float(_window(pixels, at, size).float().var()))


def _window(pixels: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> Tensor:
    return pixels[:, corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]


def _embedded(network: nn.Module, crops: Iterable[NDArray[np.float32]], device: Device) -> NDArray[np.float32]:
    """Styles (N, S) of crops."""
    was_training = network.training
    network.eval()
    try:
        return np.stack([style_of(styled(network, "network"), crop, device) for crop in crops])
    finally:
        network.train(was_training)


def _packed(crops: Sequence[NDArray[np.float32]]) -> Tensor:
    """Crops (C, h, w) of several sizes as (n, C, H, W) uint8, of the largest height and width."""
    height, width = (max(crop.shape[axis] for crop in crops) for axis in (1, 2))
    mirrored = [
        np.pad(crop, ((0, 0), (0, height - crop.shape[1]), (0, width - crop.shape[2])), mode="reflect")
        for crop in crops
    ]
    return pack(torch.from_numpy(np.stack(mirrored)))
