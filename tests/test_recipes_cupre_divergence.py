"""How far collections are from each other: textures against a literal computation, files, refusals."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile

from cellkit.errors import NoInputError, UsageError

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


@pytest.fixture
def divergence(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    return importlib.import_module("cupre_divergence")


def literal(levels):
    """Pair by pair: contrast, homogeneity, energy, correlation, means over four directions of both senses each."""
    height, width = levels.shape
    found = []
    for down, right in ((0, 1), (-1, 1), (-1, 0), (-1, -1)):
        pairs = []
        for y in range(height):
            for x in range(width):
                v, u = y + down, x + right
                if 0 <= v < height and 0 <= u < width:
                    a, b = int(levels[y, x]), int(levels[v, u])
                    pairs += [(a, b), (b, a)]
        first, second = np.array(pairs, float).T
        counts = {pair: pairs.count(pair) / len(pairs) for pair in set(pairs)}
        square = (first - second) ** 2
        correlation = np.corrcoef(first, second)[0, 1]
        energy = np.sqrt(sum(share**2 for share in counts.values()))
        found.append((square.mean(), (1 / (1 + square)).mean(), energy, correlation))
    return dict(zip(("contrast", "homogeneity", "energy", "correlation"), np.mean(found, 0), strict=True))


def test_textures_equal_a_literal_computation(divergence):
    pixels = np.random.default_rng(0).integers(0, 5, (9, 8)).cumsum(1)
    found = divergence.texture_of(pixels.astype(np.uint16))
    assert found == pytest.approx(literal(divergence.levels_of(pixels)), rel=1e-6)


def test_levels_do_not_depend_on_bits_offset_or_outliers_and_colours_have_their_luminance(divergence):
    pixels = np.random.default_rng(0).integers(0, 200, (60, 60))
    eight, sixteen = (divergence.levels_of(each) for each in (pixels.astype(np.uint8), (pixels * 257 + 31)))
    assert np.array_equal(eight, sixteen)
    assert (eight.min(), eight.max()) == (0, 63)
    grey = np.stack([pixels] * 3)
    assert np.array_equal(divergence.levels_of(grey), eight)
    assert not divergence.levels_of(np.full((5, 5), 7)).any()


def test_collections_are_written_and_drawn(divergence, tmp_path):
    random = np.random.default_rng(0)
    for name, count in (("smooth", 3), ("rough", 5)):
        (tmp_path / name).mkdir()
        for number in range(count):
            noise = random.integers(0, 255, (40, 40))
            pixels = noise if name == "rough" else np.add.outer(np.arange(40), np.arange(40) * (number + 1))
            tifffile.imwrite(tmp_path / name / f"{number}.tif", pixels.astype(np.uint8))
    places = [f"even={tmp_path / 'smooth'}", str(tmp_path / "rough")]
    told = divergence.write(tmp_path / "out", places, {"images": "4"})
    assert [line.split(",")[0] for line in told] == ["even: 3 images", "rough: 4 images"]
    with (tmp_path / "out/divergence.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    contrast = {
        name: np.mean([float(row["contrast"]) for row in rows if row["collection"] == name])
        for name in ("even", "rough")
    }
    assert contrast["rough"] > 10 * contrast["even"]
    root = ElementTree.parse(tmp_path / "out/divergence.svg").getroot()
    titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert sum((title or "").startswith("rough ") for title in titles) == 2 * 4  # a dot in each panel


def test_what_cannot_be_meant_is_refused(divergence, tmp_path):
    with pytest.raises(NoInputError, match=r"FOLDER: no collection is named \(give \[NAME=\]FOLDER, two or more\)"):
        divergence.write(tmp_path, [], {})
    with pytest.raises(UsageError, match=r"FOLDER: two collections have one name \(give each a NAME=\)"):
        divergence.write(tmp_path, ["a/x", "b/x"], {})
    with pytest.raises(UsageError, match=r"images: '0' is no number \(give a whole number from 1\)"):
        divergence.write(tmp_path, ["a"], {"images": "0"})
