"""How far the images of collections are from each other (CUPre, Figure 1), by the texture of grey levels.

    python recipes/cupre_divergence.py OUT [NAME=]FOLDER [NAME=]FOLDER... [-- images=200 seed=0]

Of each collection 200 images are drawn; labels are not read. Of each image the grey-level co-occurrence matrix is
computed at distance 1 in four directions, symmetric and normalised, and of it contrast, homogeneity, energy and
correlation (Haralick et al. 1973; scikit-image's graycoprops), means over directions. Left open by the paper: grey
values; here those between the percentiles 0.1 and 99.9 of the image, as 64 levels, so that 8 and 16 bits are alike.
Writes OUT/divergence.csv, a row per image, and OUT/divergence.svg: two panels, a dot per image.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from cupre_figure import OWN_STYLE
from numpy.typing import NDArray
from scellseg_figure import LEGEND, MARGIN, STYLE
from skimage.feature import graycomatrix, graycoprops

from cellkit.errors import CellkitError, NoInputError, UsageError
from cellkit.io.atomic import written_whole
from cellkit.io.sources import find_sources
from cellkit.reports import plotting as p
from cellkit.reports.markup import Html, join, number, tag

IMAGES = 200
LEVELS = 64
PERCENTILES = (0.1, 99.9)
ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
PANELS = (("contrast", "homogeneity"), ("energy", "correlation"))
ROOM = 1.06  # of an axis, above the largest value
STEPS = 4  # of an axis


@dataclass(frozen=True, kw_only=True)
class Texture:
    """The texture of one image.

    Attributes:
        collection: it is of.
        image: its key.
        contrast: mean squared difference of the levels of neighbours.
        homogeneity: mean of 1 / (1 + squared difference).
        energy: root of the sum of the squares of the matrix; 1 where all is one level.
        correlation: of the levels of neighbours, -1 to 1; 1 where all is one level.
    """

    collection: str
    image: str
    contrast: float
    homogeneity: float
    energy: float
    correlation: float


def levels_of(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey values (H, W), or of (C, H, W) the first channel or the luminance of three, as 64 levels."""
    values = np.asarray(pixels, np.float64)
    if values.ndim == 3:
        values = np.tensordot(LUMA, values, 1) if len(values) == len(LUMA) else values[0]
    low, high = np.percentile(values, PERCENTILES)
    shares = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return (shares.clip(0, 1) * (LEVELS - 1)).round().astype(np.uint8)


def texture_of(pixels: NDArray[np.generic]) -> dict[str, float]:
    """Contrast, homogeneity, energy and correlation of an image, see :func:`levels_of`."""
    matrix = graycomatrix(levels_of(pixels), [1], ANGLES, levels=LEVELS, symmetric=True, normed=True)
    return {name: float(graycoprops(matrix, name).mean()) for pair in PANELS for name in pair}


def textures(collection: str, folder: str, count: int, seed: int) -> list[Texture]:
    """Of so many images of a folder, drawn by the seed.

    Raises:
        NoInputError: there is none.
        InputError: an image cannot be read.
    """
    sources = find_sources([folder], recursive=True)
    chosen = np.random.default_rng(seed).permutation(len(sources))[:count]
    # of a time series one frame: the others are nearly the same
    found = (image for index in sorted(chosen) for image in islice(sources[index].images(), 1))
    return [Texture(collection=collection, image=image.key, **texture_of(image.pixels[...])) for image in found]


def figure(found: Sequence[Texture]) -> str:
    """An SVG document: homogeneity against contrast, and correlation against energy.

    Args:
        found: at least one.
    """
    names = list(dict.fromkeys(texture.collection for texture in found))
    width = len(PANELS) * p.WIDTH
    legend = []
    for index, name in enumerate(names):
        x, y = MARGIN + index % 4 * width / 4, MARGIN + LEGEND * (index // 4) + LEGEND / 2
        legend += [p.marker(x + 9, y, index), tag("text", name, x=x + 23, y=y + 4, class_="key")]
    top = MARGIN + LEGEND * (1 + (len(names) - 1) // 4)
    panels = [
        tag("svg", _panel(found, names, pair), x=place * p.WIDTH, y=top, width=p.WIDTH, height=p.HEIGHT)
        for place, pair in enumerate(PANELS)
    ]
    return tag(
        "svg",
        tag("style", Html(STYLE + OWN_STYLE)),
        tag("rect", width="100%", height="100%", fill="#fff"),
        *legend,
        *panels,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {top + p.HEIGHT + MARGIN}",
        width=width,
        height=top + p.HEIGHT + MARGIN,
    )


def _panel(found: Sequence[Texture], names: Sequence[str], pair: tuple[str, str]) -> Html:
    values = {name: np.array([getattr(texture, name) for texture in found]) for name in pair}
    frame = p.Frame(*(_axis(name, values[name]) for name in pair))
    across, down = frame.across(values[pair[0]]).tolist(), frame.down(values[pair[1]]).tolist()
    marks = [
        p.marker(x, y, names.index(texture.collection), f"{texture.collection} {texture.image}")
        for texture, x, y in zip(found, across, down, strict=True)
    ]
    return p.chart(f"{pair[1]} against {pair[0]}", frame, [join(marks)])


def _axis(name: str, values: NDArray[np.float64]) -> p.Axis:
    low, high = min(0.0, float(values.min())), max(float(values.max()) * ROOM, 1e-6)
    ticks = np.linspace(low, high, STEPS + 1).tolist()
    return p.Axis(name, low, high, tuple((tick, number(round(tick, 2))) for tick in ticks))


def write(folder: Path, places: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Write both files; returns a line per collection: means of the four.

    Raises:
        UsageError: a number is none, or two collections have one name.
        NoInputError: a folder has no image.
    """
    count, seed = (_number(name, values.get(name) or default) for name, default in (("images", IMAGES), ("seed", 0)))
    named = [(Path(place).name, place) if "=" not in place else tuple(place.split("=", 1)) for place in places]
    if not named:
        raise NoInputError("FOLDER", "no collection is named", "give [NAME=]FOLDER, two or more")
    if len({name for name, _ in named}) < len(named):
        raise UsageError("FOLDER", "two collections have one name", "give each a NAME=")
    found = [texture for name, place in named for texture in textures(name, place, count, seed)]
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / "divergence.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(found[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(texture) for texture in found)
    with written_whole(folder / "divergence.svg") as part:
        part.write_text(figure(found), encoding="utf-8")
    lines = []
    for name, _ in named:
        own = [texture for texture in found if texture.collection == name]
        means = (f"{key} {np.mean([getattr(each, key) for each in own]):.3f}" for pair in PANELS for key in pair)
        lines.append(f"{name}: {len(own)} images, {', '.join(means)}")
    return lines


def _number(name: str, text: object) -> int:
    least = 0 if name == "seed" else 1
    if not str(text).isdecimal() or int(str(text)) < least:
        raise UsageError(name, f"'{text}' is no number", f"give a whole number from {least}")
    return int(str(text))


if __name__ == "__main__":
    try:
        words = sys.argv[2:]
        ends = words.index("--") if "--" in words else len(words)
        chosen = dict(word.split("=", 1) for word in words[ends + 1 :])
        for told in write(Path(sys.argv[1]), words[:ends], chosen):
            sys.stdout.write(told + "\n")
    except CellkitError as error:
        sys.exit(f"cupre_divergence: error: {error}")
