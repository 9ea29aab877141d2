"""Random crops for training: one affine warp for image and targets together, then changes of intensity.

Everything that is random is drawn first, as plain numbers from a CPU generator, into a :class:`Draw`; what follows is
deterministic and runs where the tensors are. Positions are (y, x) in pixels, pixel centres at whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellkit.config import Spec
from cellkit.data.warp import Affine
from cellkit.errors import UsageError

ZOOM_LIMITS = (1 / 8, 8.0)  # further away nothing can be seen, closer nothing but interpolation
GREY_LEVEL = 0.5  # contrast changes turn around the middle between the percentiles
MAX_BLUR = 1.0  # pixels; what two passes of a three-tap kernel can reach without a dip in its middle
NUMBERS_AT_ONCE = 64  # one call of the generator serves a whole draw


@dataclass(frozen=True, kw_only=True)
class Augmentation(Spec):
    """What may happen to a training crop; strengths are for images whose percentiles are 0 and 1.

    Attributes:
        crop: height and width of the crops in pixels.
        scale: range of the magnification, log-uniform, relative to the working diameter (or to the image as it is).
        diameters: range of the diameter in pixels to which the image's median cell is brought, log-uniform; takes
            the place of ``scale``. For models that work on any size.
        rotate: any angle.
        flip: mirrored half of the time.
        flip_rows: turned upside down half of the time, also where crops are not rotated.
        foreground: how often a crop without any cell is drawn again.
        probability: of each of the changes from ``brightness`` to ``blur``.
        brightness: largest shift.
        contrast: largest logarithm of the factor around 0.5.
        gamma: largest logarithm of the exponent.
        gain: largest logarithm of a factor per channel.
        noise: largest standard deviation of Gaussian noise.
        blur: largest sigma of a Gaussian blur in pixels, up to 1.
        invert: probability that bright on dark becomes dark on bright.
        shuffle: probability that the channels change places.
        grey: probability that all channels become their mean.
    """

    younger = MappingProxyType({"flip_rows": False})

    crop: int = 224
    scale: tuple[float, float] = (0.75, 1.25)
    diameters: tuple[float, float] | None = None
    rotate: bool = True
    flip: bool = True
    flip_rows: bool = False
    foreground: int = 3
    probability: float = 0.5
    brightness: float = 0.1
    contrast: float = 0.3
    gamma: float = 0.3
    gain: float = 0.1
    noise: float = 0.05
    blur: float = 0.5
    invert: float = 0.0
    shuffle: float = 0.0
    grey: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            UsageError: a range is empty or not positive, a probability is not in [0, 1], a strength is negative.
        """
        if self.crop < 1:
            raise UsageError("crop", f"{self.crop} is no size", "give pixels, e.g. 224")
        for name, limits in (("scale", self.scale), ("diameters", self.diameters)):
            if limits is not None and not (len(limits) == 2 and 0 < limits[0] <= limits[1]):
                raise UsageError(name, f"{limits} is no range", "give low and high, both above 0")
        for name in ("probability", "invert", "shuffle", "grey", "blur"):
            if not 0 <= getattr(self, name) <= MAX_BLUR:
                raise UsageError(name, f"{getattr(self, name):g} is out of range", "give a number from 0 to 1")
        for name in ("brightness", "contrast", "gamma", "gain", "noise", "foreground"):
            if getattr(self, name) < 0:
                raise UsageError(name, f"{getattr(self, name):g} is negative", "give 0 or more")


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """What a draw has to know of an image.

    Attributes:
        shape: height and width in pixels.
        diameter: of its cells in pixels, median or estimated, or None without cells.
        working: diameter to which the model rescales, or None.
        centres: (N, 2) centres of its cells.
        active: per channel, whether it holds anything; empty channels stay empty.
    """

    shape: tuple[int, int]
    diameter: float | None = None
    working: float | None = None
    centres: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    active: tuple[bool, ...] = (True,)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Everything random about one crop.

    Attributes:
        affine: where its pixels lie in the image.
        gamma: exponent, 1 for none.
        mixing: (C, C + 1): new channels from old ones, and an offset; from shuffle, grey, gain, contrast, inversion.
        blur: sigma in pixels.
        noise: standard deviation.
        noise_seed: of the noise, which is drawn on the device.
    """

    affine: Affine
    gamma: float
    mixing: tuple[tuple[float, ...], ...]
    blur: float
    noise: float
    noise_seed: int


def draw(generator: torch.Generator, augmentation: Augmentation, scene: Scene) -> Draw:
    """Draw one crop of an image; equal states of the generator give equal draws."""
    numbers = _numbers(generator)
    affine = _draw_affine(numbers, augmentation, scene)
    some = augmentation.probability
    return Draw(
        affine=affine,
        gamma=math.exp(_symmetric(numbers, some, augmentation.gamma)),
        mixing=_draw_mixing(numbers, augmentation, scene.active),
        blur=abs(_symmetric(numbers, some, augmentation.blur)),
        noise=abs(_symmetric(numbers, some, augmentation.noise)),
        noise_seed=int(next(numbers) * (1 << 31)),
    )


def _numbers(generator: torch.Generator) -> Iterator[float]:
    """Uniform numbers in [0, 1)."""
    while True:
        yield from torch.rand(NUMBERS_AT_ONCE, generator=generator, dtype=torch.float64).tolist()


def _symmetric(numbers: Iterator[float], probability: float, strength: float) -> float:
    """0, or with some probability uniform in +-strength; takes two numbers in any case."""
    happens, value = next(numbers) < probability, 2 * next(numbers) - 1
    return strength * value if happens else 0.0


def _draw_affine(numbers: Iterator[float], augmentation: Augmentation, scene: Scene) -> Affine:
    zoom = _draw_zoom(next(numbers), augmentation, scene)
    turn, mirrored = next(numbers), next(numbers) < 0.5
    angle = 2 * math.pi * turn if augmentation.rotate else 0.0
    mirror = -1.0 if augmentation.flip and mirrored else 1.0
    cosine, sine = math.cos(angle) / zoom, math.sin(angle) / zoom
    upside = -1.0 if augmentation.flip_rows and not augmentation.rotate and turn < 0.5 else 1.0
    matrix = (cosine * upside, -sine * mirror, sine, cosine * mirror)
    affine = Affine(matrix=matrix, centre=(0.0, 0.0), crop=augmentation.crop)
    for _ in range(augmentation.foreground + 1):
        affine = affine.moved(_draw_centre(next(numbers), next(numbers), affine, scene.shape))
        if not len(scene.centres) or affine.shows(scene.centres):
            break
    return affine


def _draw_zoom(number: float, augmentation: Augmentation, scene: Scene) -> float:
    """Pixels of the crop per pixel of the image."""
    if augmentation.diameters is not None and scene.diameter is not None:
        zoom = _log_uniform(number, augmentation.diameters) / scene.diameter
    else:
        zoom = _log_uniform(number, augmentation.scale)
        if scene.working is not None and scene.diameter is not None:
            zoom *= scene.working / scene.diameter
    return min(max(zoom, ZOOM_LIMITS[0]), ZOOM_LIMITS[1])


def _log_uniform(number: float, limits: tuple[float, float]) -> float:
    return limits[0] * math.exp(number * math.log(limits[1] / limits[0]))


def _draw_centre(first: float, second: float, affine: Affine, shape: tuple[int, int]) -> tuple[float, float]:
    """Where the crop stays inside the image; or, when it is larger, where the image stays inside the crop."""
    centre = []
    for number, reach, size in zip((first, second), affine.reach, shape, strict=True):
        low, high = sorted((reach, size - 1 - reach))
        # on the raster, so that a crop without rotation and scale copies pixels
        start = round(low + number * (high - low) - (affine.crop - 1) / 2)
        centre.append(start + (affine.crop - 1) / 2)
    return centre[0], centre[1]


def _draw_mixing(
    numbers: Iterator[float], augmentation: Augmentation, active: tuple[bool, ...]
) -> tuple[tuple[float, ...], ...]:
    some, count = augmentation.probability, len(active)
    lit = [channel for channel in range(count) if active[channel]]
    shuffled, greyed, inverted = (
        next(numbers) < chance for chance in (augmentation.shuffle, augmentation.grey, augmentation.invert)
    )
    places = [next(numbers) for _ in range(count)]
    gained = next(numbers) < some
    gains = [math.exp((2 * next(numbers) - 1) * augmentation.gain) if gained else 1.0 for _ in range(count)]
    contrast = math.exp(_symmetric(numbers, some, augmentation.contrast))
    offset = GREY_LEVEL * (1 - contrast) + _symmetric(numbers, some, augmentation.brightness)
    if inverted:
        contrast, offset = -contrast, 1 - offset
    order = dict(zip(lit, sorted(lit, key=places.__getitem__) if shuffled else lit, strict=True))
    rows = np.zeros((count, count + 1))
    for channel in lit:
        sources = lit if greyed else [order[channel]]
        rows[channel, sources] = contrast * gains[channel] / len(sources)
        rows[channel, count] = offset
    return tuple(tuple(row) for row in rows.tolist())


def recolour(images: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Apply gamma, mixing of channels, blur and noise.

    Args:
        images: (B, C, h, w) float32, changed in place.
        draws: B draws.

    Returns:
        the same tensor; equal draws give equal noise on equal devices.
    """
    for image, drawn in zip(images, draws, strict=True):
        if drawn.gamma != 1.0:
            image.copy_(image.clamp(min=0).pow_(drawn.gamma) + image.clamp(max=0))
    _mix(images, draws)
    noise = torch.Generator(images.device)
    for image, drawn in zip(images, draws, strict=True):
        if drawn.blur > 0:
            image.copy_(_blur(image, drawn.blur))
        if drawn.noise > 0:
            noise.manual_seed(drawn.noise_seed)
            for channel, row in zip(image, drawn.mixing, strict=True):
                if any(row):  # empty channels stay empty
                    grain = torch.randn(channel.shape, generator=noise, device=images.device)
                    channel.add_(grain, alpha=drawn.noise)
    return images


def _mix(images: Tensor, draws: Sequence[Draw]) -> None:
    """Apply the mixing of each draw in place; not by matrix products, which may use reduced precision."""
    factors, offsets = [], []
    for image, drawn in zip(images, draws, strict=True):
        diagonal = [row[channel] for channel, row in enumerate(drawn.mixing)]
        if any(row[i] for channel, row in enumerate(drawn.mixing) for i in range(len(image)) if i != channel):
            image.copy_(torch.stack([_weighted(image, row) for row in drawn.mixing]))
            diagonal = [1.0] * len(image)
        factors.append(diagonal)
        offsets.append([row[-1] for row in drawn.mixing])
    linear = torch.tensor([factors, offsets], dtype=torch.float32, device=images.device)[..., None, None]
    images.mul_(linear[0]).add_(linear[1])


def _weighted(image: Tensor, weights: Sequence[float]) -> Tensor:
    """Weighted sum of the channels of an image (C, h, w) -> (h, w)."""
    result = image[0] * weights[0]
    for channel, weight in zip(image[1:], weights[1:], strict=False):  # the last weight is the offset
        result.add_(channel, alpha=weight)
    return result


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Two passes of (w, 1 - 2w, w) in both directions have variance 4w; image (C, h, w), borders repeated."""
    weight = sigma**2 / 4
    for dimension in (-1, -2, -1, -2):
        size = image.shape[dimension]
        before = torch.cat([image.narrow(dimension, 0, 1), image.narrow(dimension, 0, size - 1)], dimension)
        after = torch.cat([image.narrow(dimension, 1, size - 1), image.narrow(dimension, size - 1, 1)], dimension)
        image = torch.lerp(image, (before + after) * 0.5, 2 * weight)
    return image
