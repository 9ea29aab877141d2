"""The map of images as SVG and PNG."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image, ImageColor

from cellkit.reports import scatter
from cellkit.reports.scatter import PALETTE, Scatter, png, svg

SVG = "{http://www.w3.org/2000/svg}"


def example(groups=("a", "b", "a"), **options):
    places = np.random.default_rng(0).normal(size=(len(groups), 2))
    names = tuple(f"image{i}" for i in range(len(groups)))
    return Scatter(**{"title": "Styles", "places": places, "names": names, "groups": tuple(groups), **options})


def signs(picture):
    return ET.fromstring(svg(picture)).findall(f"{SVG}path")


def corners(sign):
    return np.array([point.split() for point in sign.get("d").strip("Mz").split("L")], float)


def test_each_image_has_a_sign_that_tells_its_name():
    found = signs(example())
    assert [sign.find(f"{SVG}title").text for sign in found] == ["a: image0", "b: image1", "a: image2", "a", "b"]


def test_a_dataset_has_one_sign_and_no_other_has_the_same():
    groups = [f"set{i}" for i in range(36)]
    found = signs(example(groups * 2))
    offsets = [corners(sign) - corners(sign).mean(0) for sign in found]
    shapes = [(sign.get("fill"), len(o), *(o[0] / 3).round() + 0.0) for sign, o in zip(found, offsets, strict=True)]
    assert shapes[:36] == shapes[36:72] == shapes[72:]
    assert len(set(shapes)) == 36


def test_places_keep_their_proportions_and_up_is_up():
    places = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 1.0]])
    origin, right, up = (corners(sign).mean(0) for sign in signs(example(("a", "a", "a"), places=places))[:3])
    assert right[0] - origin[0] == pytest.approx(4 * (origin[1] - up[1]), abs=0.1)
    assert right[0] > origin[0]
    assert up[1] < origin[1]
    for place in (origin, right, up):
        assert (place >= (scatter.EDGE, scatter.HEAD)).all()
        assert (place <= (scatter.EDGE + scatter.SIDE, scatter.HEAD + scatter.SIDE)).all()


def test_images_at_one_place_are_drawn():
    found = signs(example(("a", "a"), places=np.ones((2, 2))))
    np.testing.assert_array_equal(corners(found[0]), corners(found[1]))


def test_the_legend_counts_and_shortens():
    long = "x" * 40 + "end"
    texts = [text.text for text in ET.fromstring(svg(example((long, "b", "b")))).iter(f"{SVG}text")]
    assert texts == ["Styles", "xxxxxxxxxxxxx...xxxxxxxxxxend (1)", "b (2)"]


def test_names_cannot_become_markup():
    text = svg(example(("<b>", "b", "b"), title='"&"', note="<x>")).decode()
    root = ET.fromstring(text)
    assert root.find(f"{SVG}title").text == '"&"'
    assert root.find(f"{SVG}metadata").text == "<x>"
    assert "<b>" not in text


def test_many_datasets_have_columns_of_their_own():
    few, many = (ET.fromstring(svg(example([f"set{i}" for i in range(n)]))) for n in (25, 26))
    assert int(many.get("width")) - int(few.get("width")) == scatter.COLUMN
    places = {(text.get("x"), text.get("y")) for text in many.iter(f"{SVG}text")}
    assert len(places) == 27
    assert max(float(y) for _, y in places) < float(many.get("height"))


def test_a_png_shows_the_same():
    picture = example(("a", "b", "a"), note="made by")
    with Image.open(io.BytesIO(png(picture))) as image:
        assert image.text == {scatter.NOTE: "made by"}
        pixels = np.array(image)
    root = ET.fromstring(svg(picture))
    assert pixels.shape == (2 * int(root.get("height")), 2 * int(root.get("width")), 3)
    for sign in signs(picture):
        x, y = (2 * corners(sign).mean(0)).round().astype(int)
        assert tuple(pixels[y, x]) == ImageColor.getrgb(sign.get("fill"))
    title = pixels[: 2 * scatter.HEAD - 8]
    assert (title < 100).any()
    assert png(picture) == png(picture)


def test_a_picture_without_a_note_has_none():
    assert ET.fromstring(svg(example())).find(f"{SVG}metadata") is None
    with Image.open(io.BytesIO(png(example()))) as image:
        assert image.text == {}


def test_colours_are_those_of_the_reports():
    css = (scatter.__file__.rsplit("/", 1)[0]) + "/page.css"
    with open(css) as stream:
        text = stream.read()
    for number, colour in enumerate(PALETTE, 1):
        assert f"--series-{number}: {colour};" in text
