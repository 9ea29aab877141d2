"""Dense maps as pictures: vectors as hue and brightness, probabilities as a ramp, embeddings as three colours.

Which channels of a representation mean what is told by :data:`MAPS`; how each kind of map is painted by
:data:`PAINTERS`. A new representation is one line in the first table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from cellkit.ops.drawing import shade
from cellkit.ops.polygons import RAYS

Maps = NDArray[np.float32]
Picture = NDArray[np.uint8]

LONG = 99.0  # percentile of the length of vectors that is shown at full brightness
CONTRAST = (1.0, 99.0)  # percentiles of a component or channel that become black and full
SURE = 0.1  # of the range of a spread: pixels below it are objects; Otsu's threshold would take in some background
COMPONENTS = 3
MOST_SAMPLES = 1 << 16  # pixels that principal components are computed from
# dark blue, blue, green, yellow in steps of nearly equal lightness (L* 8, 28, 47, 67, 92): it reads as grey, too
RAMP = np.array([(16, 12, 58), (44, 60, 130), (22, 121, 131), (84, 180, 84), (250, 235, 60)], np.float32)
SECTORS = 6  # of the colour circle: red, yellow, green, cyan, blue, magenta


@dataclass(frozen=True)
class MapView:
    """What some channels of a prediction mean.

    Attributes:
        name: for people.
        kind: a key of :data:`PAINTERS`.
        channels: their numbers.
        optional: a prediction may be without them.
    """

    name: str
    kind: str
    channels: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """A painted map.

    Attributes:
        name: of the map, and which values the colours stand for where that is not plain.
        picture: (h, w, 3).
        legend: what the colours mean, (g, g', 3), for text of a size in pixels.
    """

    name: str
    picture: Picture
    legend: Callable[[int], Picture]


@dataclass(frozen=True)
class Painter:
    """How a kind of map is shown.

    Attributes:
        paint: (C, h, w) -> (h, w, 3).
        legend: as of :class:`Panel`.
        extent: (C, h, w) -> which values the legend ends at, in words.
    """

    paint: Callable[[Maps], Picture]
    legend: Callable[[int], Picture]
    extent: Callable[[Maps], str] | None = None


def vectors(maps: Maps) -> Picture:
    """Vectors (2, h, w) of y and x: the hue is the direction, red to the right, the brightness the length.

    Lengths from the 99th percentile on are fully bright.
    """
    return _arrows(maps, longest(maps))


def longest(maps: Maps) -> float:
    """Length from which on vectors (2, ...) are fully bright."""
    return float(np.percentile(np.hypot(*maps), LONG))


def offsets(maps: Maps) -> Picture:
    """Offsets y and x of objects with their spread (3, h, w), as vectors from what most of them have in common.

    Without labels only differences are learnt: what all have in common says nothing.
    """
    return _arrows(*_relative(maps))


def _relative(maps: Maps) -> tuple[Maps, float]:
    """Offsets less their median in objects, where the spread is small, and the length that is fully bright there."""
    low, high = _span(maps[2])
    inside = maps[:2, maps[2] <= low + SURE * (high - low)]
    middle = np.median(inside, axis=1)[:, None]
    return maps[:2] - middle[..., None], longest(inside - middle)


def _arrows(maps: Maps, full: float) -> Picture:
    y, x = maps
    bright = np.clip(np.hypot(y, x) / max(full, 1e-12), 0, 1)
    return _hues(np.arctan2(-y, x), bright)  # anticlockwise, as angles are drawn


def logits(maps: Maps) -> Picture:
    """Probabilities from logits (1, h, w): from dark blue for 0 to yellow for 1."""
    return ramp(expit(maps[0]))


def probabilities(maps: Maps) -> Picture:
    """Probabilities (1, h, w): from dark blue for 0 to yellow for 1."""
    return ramp(maps[0])


def classes(maps: Maps) -> Picture:
    """Probability of the last of several classes from their logits (C, h, w): dark blue for 0 to yellow for 1."""
    return ramp(softmax(maps, axis=0)[-1])


def embeddings(maps: Maps) -> Picture:
    """Embeddings (C, h, w) as red, green and blue of their first three principal components.

    The sign of each component is such that its largest loading is positive: the same maps have the same colours. One
    channel alone is grey.
    """
    pixels = maps.reshape(len(maps), -1)
    samples = pixels[:, :: max(1, pixels.shape[1] // MOST_SAMPLES)].astype(np.float64)
    _, axes = np.linalg.eigh(np.atleast_2d(np.cov(samples)) if samples.shape[1] > 1 else np.eye(len(maps)))
    axes = axes[:, ::-1][:, :COMPONENTS]
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0))
    components = (axes.T.astype(np.float32) @ pixels).reshape(-1, *maps.shape[1:])
    return shade(np.stack([_stretched(component) for component in components]))


def means(maps: Maps) -> Picture:
    """Mean of channels (C, h, w): from dark blue for its 1st percentile to yellow for its 99th."""
    return ramp(_stretched(maps.mean(0)))


def grey(maps: Maps) -> Picture:
    """One channel (1, h, w) from black to white."""
    return shade(_stretched(maps[0])[None])


def ramp(values: Maps) -> Picture:
    """Values (h, w) from 0 to 1 in colours of rising lightness; what lies outside is clipped."""
    place = np.clip(values, 0, 1) * (len(RAMP) - 1)
    steps = np.arange(len(RAMP))
    return np.stack([np.interp(place, steps, RAMP[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)


def wheel(size: int) -> Picture:
    """What the hues of vectors mean: a disc of directions on white, (size, size, 3)."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    length = np.hypot(y, x)
    disc = _hues(np.arctan2(-y, x).astype(np.float32), np.minimum(length, 1).astype(np.float32))
    disc[length > 1] = 255
    return disc


def scale(size: int) -> Picture:
    """What the colours of probabilities mean, 0 on the left, 1 on the right: (size / 2, 3 size, 3)."""
    return ramp(np.broadcast_to(np.linspace(0, 1, 3 * size, dtype=np.float32), (max(1, size // 2), 3 * size)))


def greys(size: int) -> Picture:
    """What grey means, dark on the left: (size / 2, 3 size, 3)."""
    return shade(np.broadcast_to(np.linspace(0, 1, 3 * size, dtype=np.float32), (1, max(1, size // 2), 3 * size)))


def components(size: int) -> Picture:
    """Red, green and blue squares: the first, second and third component."""
    squares = np.zeros((max(1, size // 2), 3 * max(1, size // 2), 3), np.uint8)
    for channel, part in enumerate(np.split(squares, 3, axis=1)):
        part[..., channel] = 255
    return squares


def _hues(angle: Maps, bright: Maps) -> Picture:
    """Fully saturated colours (h, w, 3) of angles in radians, 0 is red, with a brightness in [0, 1]."""
    turn = (angle / (2 * np.pi) % 1) * SECTORS
    ramps = [np.clip(np.abs((turn + shift) % SECTORS - SECTORS / 2) - 1, 0, 1) for shift in (0, 4, 2)]
    return (np.stack(ramps, axis=-1) * bright[..., None] * 255).round().astype(np.uint8)


def _stretched(values: Maps) -> Maps:
    low, high = _span(values)
    stretched: Maps = ((values - low) / max(high - low, 1e-12)).astype(np.float32)
    return stretched


def _span(values: Maps) -> tuple[float, float]:
    low, high = np.percentile(values, CONTRAST)
    return float(low), float(high)


def _up_to(maps: Maps) -> str:
    return f"up to {_short(_relative(maps)[1])} px"


def _from_to(maps: Maps) -> str:
    low, high = map(_short, _span(maps.mean(0)))
    return f"{low} to {high}"


def _short(value: float) -> str:
    """With two digits that count: 0.095, 8.6, 120."""
    return f"{float(f'{value:.2g}'):g}"


PAINTERS: dict[str, Painter] = {
    "vectors": Painter(vectors, wheel),
    "logits": Painter(logits, scale),
    "probabilities": Painter(probabilities, scale),
    "classes": Painter(classes, scale),
    "embeddings": Painter(embeddings, components),
    "offsets": Painter(offsets, wheel, _up_to),
    "means": Painter(means, scale, _from_to),
    "grey": Painter(grey, greys, _from_to),
}
MAPS: dict[str, tuple[MapView, ...]] = {  # by name of the representation
    "flow": (MapView("flow", "vectors", (0, 1)), MapView("cell probability", "logits", (2,))),
    "mask": (MapView("cell probability", "classes", (0, 1)),),
    "border": (MapView("inner probability", "classes", (0, 2, 1)), MapView("border probability", "classes", (0, 1, 2))),
    "star": (
        MapView("mean distance to the outline in px", "means", tuple(range(RAYS))),
        MapView("cell probability", "logits", (RAYS,)),
    ),
    "embedding": (
        MapView("offset within objects", "offsets", (0, 1, 2)),
        MapView("spread", "means", (2,)),
        MapView("brightness", "grey", (3,), optional=True),
    ),
    "hover": (MapView("distance from the centre", "vectors", (0, 1)), MapView("cell probability", "logits", (2,))),
}


def views_of(representation: str, channels: int) -> tuple[MapView, ...]:
    """What is shown of a prediction; of one that is not in the table, all channels together as an embedding.

    Args:
        representation: its name.
        channels: how many there are.
    """
    there = tuple(view for view in MAPS.get(representation, ()) if max(view.channels) < channels or not view.optional)
    if there and all(max(view.channels) < channels for view in there):
        return there
    return (MapView(representation, "embeddings", tuple(range(channels))),)


def paint_maps(maps: Maps, representation: str) -> tuple[Panel, ...]:
    """All maps of a prediction as pictures.

    Args:
        maps: (C, h, w), what the network put out; what is not finite counts as 0.
        representation: its name.
    """
    finite = np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)
    return tuple(_panel(view, finite[list(view.channels)]) for view in views_of(representation, len(maps)))


def _panel(view: MapView, maps: Maps) -> Panel:
    painter = PAINTERS[view.kind]
    name = f"{view.name}, {painter.extent(maps)}" if painter.extent else view.name
    return Panel(name=name, picture=painter.paint(maps), legend=painter.legend)
