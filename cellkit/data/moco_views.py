"""Two views of each of many crops of images without labels, for contrastive learning (MoCo, CUPre eq. 3).

Of each image a square region, whose place is drawn, is looked at twice: as two random parts of it, each brought to one
size, mirrored, lighter or darker, flatter or steeper, blurred. Batch number s depends on the seed and on s alone.

As in MoCo v2: parts of 0.2 to 1 of the area, changes of brightness, contrast, saturation and hue with probability 0.8,
grey with 0.2, blur with 0.5. MoCo v1 (:data:`V1`) always changes colours, hue by up to 0.4, and never blurs. Left open
by CUPre for cells: magnification. In ImageNet one object fills an image; in a micrograph of 2048 pixels a whole image
brought to 224 shows no cell any more, so that parts are taken of a region (``view_region=none`` is the whole image).

What differs, for grey images of 8 and 16 bits alike: percentiles of an image are 0 and 1 and nothing is clipped, so
that changes are linear, in one order, and hue turns in the plane of YIQ, which needs no clipping, instead of HSV.
Saturation, hue and grey change nothing in an image whose channels are equal, and are left out for channels that are no
colours. Cells have no above and below: they are mirrored in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cellkit.config import Settings, Spec
from cellkit.data.loading import ImageOrder, Share
from cellkit.data.unlabelled import FLAT, REDRAWS, UnlabelledSet
from cellkit.errors import UsageError
from cellkit.overlap import ordered_map

TRIES = 10  # of a part that lies inside its region; then it is the region
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
CHROMA = ((0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))  # I and Q of YIQ
TAILS = 3  # standard deviations of a blur that its kernel reaches
ORDER, PERMUTATION = 0, 1  # of what is drawn for a batch: its crops, and how its keys are shuffled
V1: Settings = {"view_jitter": 1.0, "view_hue": 0.4, "view_blur": 0.0}


class ViewBatch(NamedTuple):
    """Two views of each crop.

    Attributes:
        queries: (B, C, h, w) float32.
        keys: (B, C, h, w) float32, of the same crops in the same order.
        seed: for what a method draws on the batch; another in each process.
    """

    queries: Tensor
    keys: Tensor
    seed: int


@dataclass(frozen=True, kw_only=True)
class ViewSettings(Spec):
    """What two views of a crop may differ in; the default is that of MoCo v2.

    Attributes:
        view_size: height and width of the views in pixels.
        view_region: side in working pixels of the region of an image of which both views are parts, or none: the whole
            image.
        view_area: least and largest part of the area of the region that a view shows.
        view_aspect: least and largest width / height of that part.
        view_flip: mirrored half of the time, in both directions.
        view_jitter: probability of other brightness, contrast, saturation and hue.
        view_brightness: largest change of the factor of all values.
        view_contrast: largest change of the factor around the mean.
        view_saturation: largest change of the factor around grey, of colour images.
        view_hue: largest part of a full turn, of colour images.
        view_grey: probability that a colour image becomes grey.
        view_blur: probability of a blur.
        view_sigma: least and largest standard deviation of the blur, in pixels of the view.
    """

    view_size: int = 224
    view_region: int | None = 512
    view_area: tuple[float, float] = (0.2, 1.0)
    view_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    view_flip: bool = True
    view_jitter: float = 0.8
    view_brightness: float = 0.4
    view_contrast: float = 0.4
    view_saturation: float = 0.4
    view_hue: float = 0.1
    view_grey: float = 0.2
    view_blur: float = 0.5
    view_sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            UsageError: a size is not positive, a range is empty, a probability or a strength is not in [0, 1].
        """
        for name, size in (("view_size", self.view_size), ("view_region", self.view_region)):
            if size is not None and size < 1:
                raise UsageError(name, f"{size} is no size", "give pixels, e.g. 224")
        for name in ("view_area", "view_aspect", "view_sigma"):
            limits = getattr(self, name)
            if not (len(limits) == 2 and 0 < limits[0] <= limits[1]):
                raise UsageError(name, f"{limits} is no range", "give low and high, both above 0")
        if self.view_area[1] > 1:
            raise UsageError("view_area", f"{self.view_area[1]:g} is more than all", "give parts up to 1")
        for name in ("jitter", "brightness", "contrast", "saturation", "hue", "grey", "blur"):
            value = getattr(self, f"view_{name}")
            if not 0 <= value <= 1:
                raise UsageError(f"view_{name}", f"{value:g} is out of range", "give a number from 0 to 1")


class Look(NamedTuple):
    """Everything random about one view.

    Attributes:
        box: top, left, height and width in pixels of the region.
        flips: up to down, left to right.
        brightness: factor.
        contrast: factor around the mean.
        saturation: factor around grey.
        hue: turn in radians.
        grey: whether nothing of the colours is left.
        sigma: of the blur in pixels; 0: none.
    """

    box: tuple[int, int, int, int]
    flips: tuple[bool, bool] = (False, False)
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    grey: bool = False
    sigma: float = 0.0


class ViewSet:
    """Images without labels, of which batches of pairs of views are drawn for ever, on the device of the images.

    Args:
        images: already read; ``loading`` there says where batches are wanted. Its deformation has no meaning here.
        settings: of the views.
    """

    def __init__(self, images: UnlabelledSet, settings: ViewSettings) -> None:
        self.images = images
        self.settings = settings
        preprocessing = images.preprocessing
        self.coloured = preprocessing.colour == "rgb" and preprocessing.channels == len(LUMA)

    def __len__(self) -> int:
        """Images that show something."""
        return len(self.images)

    def batches(
        self, start: int = 0, *, batch: int = 8, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[ViewBatch]:
        """Batches number ``start``, ``start + 1``, ... without end.

        Args:
            start: number of the first batch.
            batch: crops in a batch, over all processes.
            seed: equal seeds give equal batches.
            rank: number of this process; it gets its share of each batch.
            world_size: number of processes; the views of all together do not depend on it.

        Raises:
            UsageError: the processes cannot share a batch equally.
        """
        own = Share(batch, rank, world_size)
        order = ImageOrder(len(self), seed)
        loading = self.images.loading
        wanted = ((order.at(step * batch + i), (seed, step, i)) for step, i in own.places(start))
        # threads where they would otherwise wait: for files, or for a GPU
        busy = loading.device.type == "cpu" and all(kept.pixels is not None for kept in self.images.kept)
        crops = ordered_map(self._crop, wanted, 0 if busy else loading.workers, 2 * own.crops)
        step = start
        while True:
            regions, firsts, seconds = zip(*islice(crops, own.crops), strict=True)
            moved = [region.to(loading.device, non_blocking=True) for region in regions]
            drawn = int(np.random.SeedSequence((seed, step, rank, PERMUTATION)).generate_state(1)[0])
            yield ViewBatch(self._views(moved, firsts), self._views(moved, seconds), drawn)
            step += 1

    def _crop(self, item: tuple[int, tuple[int, int, int]]) -> tuple[Tensor, Look, Look]:
        index, place = item
        generator = np.random.default_rng((*place, ORDER))
        region = draw_region(generator, self.images.image(index), self.settings.view_region)
        shape = (region.shape[1], region.shape[2])
        return region, draw_look(generator, self.settings, shape), draw_look(generator, self.settings, shape)

    def _views(self, regions: Sequence[Tensor], looks: Sequence[Look]) -> Tensor:
        return views(regions, looks, self.settings.view_size, coloured=self.coloured)


def draw_region(generator: np.random.Generator, image: Tensor, side: int | None) -> Tensor:
    """A square of an image (C, H, W), or as much of it as there is; one that shows nothing is drawn again.

    Args:
        generator: of the place.
        image: of any type.
        side: in pixels, or None: the image.

    Returns:
        (C, h, w), a view of the image.
    """
    height, width = image.shape[1:]
    rows, columns = (size if side is None else min(side, size) for size in (height, width))
    for _ in range(REDRAWS):
        top, left = int(generator.integers(height - rows + 1)), int(generator.integers(width - columns + 1))
        region = image[:, top : top + rows, left : left + columns]
        flat = region.flatten(1).float()
        if bool((flat.amax(1) - flat.amin(1) >= FLAT).any()):
            break
    return region


def draw_look(generator: np.random.Generator, settings: ViewSettings, shape: tuple[int, int]) -> Look:
    """Draw a view of a region of (H, W) pixels; equal states of the generator give equal views."""
    box = _draw_box(generator, settings, shape)
    flips = generator.random(2) < 0.5
    happens, greyed, blurred = generator.random(3) < (settings.view_jitter, settings.view_grey, settings.view_blur)
    brightness, contrast, saturation, hue = generator.uniform(-1, 1, 4).tolist()
    sigma = generator.uniform(*settings.view_sigma)
    strength = 1.0 if happens else 0.0
    return Look(
        box=box,
        flips=(settings.view_flip and bool(flips[0]), settings.view_flip and bool(flips[1])),
        brightness=1 + strength * settings.view_brightness * brightness,
        contrast=1 + strength * settings.view_contrast * contrast,
        saturation=1 + strength * settings.view_saturation * saturation,
        hue=strength * settings.view_hue * hue * 2 * math.pi,
        grey=bool(greyed),
        sigma=float(sigma) if blurred else 0.0,
    )


def _draw_box(
    generator: np.random.Generator, settings: ViewSettings, shape: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Area uniform, aspect log-uniform, place uniform; all numbers are drawn in any case."""
    areas = generator.uniform(*settings.view_area, TRIES) * shape[0] * shape[1]
    low, high = (math.log(aspect) for aspect in settings.view_aspect)
    aspects = np.exp(generator.uniform(low, high, TRIES))
    down, right = generator.random(2).tolist()
    heights, widths = np.rint(np.sqrt(areas / aspects)), np.rint(np.sqrt(areas * aspects))
    fitting = np.flatnonzero((heights >= 1) & (heights <= shape[0]) & (widths >= 1) & (widths <= shape[1]))
    height, width = shape if not len(fitting) else (int(heights[fitting[0]]), int(widths[fitting[0]]))
    return int(down * (shape[0] - height + 1)), int(right * (shape[1] - width + 1)), height, width


def views(regions: Sequence[Tensor], looks: Sequence[Look], size: int, *, coloured: bool) -> Tensor:
    """What is looked at, on the device of the regions.

    Args:
        regions: (C, H, W) each, of any float type and size.
        looks: one per region.
        size: height and width of the views.
        coloured: channels are red, green and blue.

    Returns:
        (B, C, size, size) float32.
    """
    parts = []
    for region, look in zip(regions, looks, strict=True):
        top, left, height, width = look.box
        part = region[:, top : top + height, left : left + width].float()[None]
        part = F.interpolate(part, size=(size, size), mode="bilinear", align_corners=False, antialias=True)[0]
        axes = [axis for axis, mirrored in zip((1, 2), look.flips, strict=True) if mirrored]
        parts.append(part.flip(axes) if axes else part)
    return blurred_by(recoloured(torch.stack(parts), looks, coloured=coloured), [look.sigma for look in looks])


def recoloured(images: Tensor, looks: Sequence[Look], *, coloured: bool) -> Tensor:
    """With other brightness, contrast around the mean, and where channels are colours saturation, hue or none of them.

    Args:
        images: (B, C, h, w) float32. What is 0 everywhere stays so.
        looks: B.
        coloured: channels are red, green and blue.

    Returns:
        (B, C, h, w).
    """
    light, steep = (_column([getattr(look, name) for look in looks], images) for name in ("brightness", "contrast"))
    if not coloured:
        return images * (light * steep) + (1 - steep) * light * images.mean((2, 3), keepdim=True)
    mixing = _column(np.stack([_mixing(look) for look in looks]), images)  # (B, 3, 3, 1, 1)
    luma = (images * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    # no matrix product, which may use reduced precision
    mixed = sum((mixing[:, :, c] * images[:, c : c + 1] for c in range(len(LUMA))), torch.zeros_like(images))
    return mixed * (light * steep) + (1 - steep) * light * luma


def _mixing(look: Look) -> NDArray[np.float64]:
    """(3, 3): new red, green and blue from the old ones; what is grey stays as it is."""
    if look.saturation == 1 and look.hue == 0 and not look.grey:
        return np.eye(3)
    to_yiq = np.array([LUMA, *CHROMA])
    to_yiq[1:] -= to_yiq[1:].mean(1, keepdims=True)  # the published digits do not sum to zero
    cosine, sine = math.cos(look.hue), math.sin(look.hue)
    factor = 0.0 if look.grey else look.saturation
    turned = np.array([[1, 0, 0], [0, factor * cosine, -factor * sine], [0, factor * sine, factor * cosine]])
    mixing: NDArray[np.float64] = np.linalg.inv(to_yiq) @ turned @ to_yiq
    return mixing


def _column(numbers: Sequence[float] | NDArray[np.float64], images: Tensor) -> Tensor:
    """Numbers of each image, (B, ...), over its pixels: (B, 1, 1, 1) or (B, 3, 3, 1, 1)."""
    column = torch.tensor(np.asarray(numbers), dtype=torch.float32).to(images.device)
    return column[..., None, None] if column.ndim > 1 else column[:, None, None, None]


def blurred_by(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Gaussian blurs of the standard deviations (0: none) in pixels; borders are repeated.

    Each kernel ends at its own tails, so that a view does not depend on what else is in the batch.

    Args:
        images: (B, C, h, w) float32.
        sigmas: B.

    Returns:
        (B, C, h, w).
    """
    chosen = [index for index, sigma in enumerate(sigmas) if sigma > 0]
    if not chosen:
        return images
    picked = torch.tensor(chosen, device=images.device)
    reach = math.ceil(TAILS * max(sigmas))
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    widths = torch.tensor([sigmas[index] for index in chosen], dtype=torch.float64)
    weights = torch.exp(-0.5 * (steps / widths[:, None]).square()) * (steps.abs() <= (TAILS * widths).ceil()[:, None])
    weights = (weights / weights.sum(1, keepdim=True)).float().to(images.device)  # (N, 2 reach + 1)
    some = images.index_select(0, picked)
    count, channels, height, width = some.shape
    kernel = weights.repeat_interleave(channels, 0)[:, None]  # (N C, 1, k)
    flat = some.reshape(1, count * channels, height, width)
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="replicate"), kernel[..., None], groups=count * channels)
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="replicate"), kernel[:, :, None], groups=count * channels)
    return images.index_copy(0, picked, flat.view(some.shape))
