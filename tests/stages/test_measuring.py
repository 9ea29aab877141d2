"""measure as a generator: columns, names of channels, tables of several images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from cellkit.data.annotations import Annotations
from cellkit.data.truth import Truth
from cellkit.errors import InputError
from cellkit.io.images import Image
from cellkit.stages.measuring import Pair, measure, table_of
from cellkit.stages.outcomes import Failure

SHAPES = [
    "area", "centroid_y", "centroid_x", "box_y0", "box_x0", "box_y1", "box_x1", "perimeter", "equivalent_diameter",
    "eccentricity", "solidity", "touches_border",
]  # fmt: skip
LENGTHS = SHAPES[1:9]


@dataclass
class Held:
    """Labels in memory."""

    truth: Truth
    name: str = "labels.tif"

    def read(self, shape=None):
        return self.truth


def pair(labels, key="a", image=None, channels=None, **more):
    return Pair(key=key, labels=Held(Truth(labels=labels, **more)), image=image, channels=channels)


def image_of(pixels, **more):
    return Image(key="a", pixels=pixels, source="a.tif", axes="CYX", **more)


def measured(*pairs, **more):
    return list(measure(pairs, **more))


def test_labels_alone_give_shapes_in_pixels(crowded_field):
    (found,) = measured(pair(crowded_field))
    assert list(found.columns) == ["label", *SHAPES]
    assert found.columns["label"].tolist() == [3 * i + 1 for i in range(36)]
    assert found.count == 36


def test_micrometres_are_pixels_times_their_size(crowded_field):
    (found,) = measured(pair(crowded_field, pixel_size=0.25))
    assert (found.columns["pixel_size_um"] == 0.25).all()
    np.testing.assert_allclose(found.columns["area_um2"], found.columns["area"] / 16)
    for name in LENGTHS:
        np.testing.assert_allclose(found.columns[f"{name}_um"], found.columns[name] / 4)


def test_the_pixel_size_given_comes_before_that_of_the_image_and_that_of_the_labels(cell_on_border):
    image = image_of(np.ones((1, *cell_on_border.shape)), pixel_size=2.0)
    pairs = [pair(cell_on_border, "a", image, pixel_size=3.0), pair(cell_on_border, "b", pixel_size=3.0)]
    assert [one.pixel_size for one in measured(*pairs)] == [2.0, 3.0]
    assert [one.pixel_size for one in measured(*pairs, pixel_size=1.0)] == [1.0, 1.0]


def test_scores_belong_to_labels_and_may_be_too_few():
    labels = np.array([[2, 0, 5, 0, 9]], np.int32)
    (found,) = measured(pair(labels, scores=np.array([0.1, 0.2, 0.3, 0.4, 0.9], np.float32)))
    assert found.columns["score"][:2].tolist() == [0.2, 0.9]  # not 0.8999999761581421
    assert np.isnan(found.columns["score"][2])


@pytest.mark.parametrize(
    ("more", "channels", "names"),
    [
        ({}, None, ["0", "1", "2"]),
        ({}, (4, 0, 2), ["4", "0", "2"]),
        ({"rgb": True}, None, ["red", "green", "blue"]),
        ({"channel_names": ("DAPI", "GFP", "Cy5")}, None, ["DAPI", "GFP", "Cy5"]),
        ({"channel_names": ("DAPI", "GFP", "DAPI")}, None, ["DAPI_0", "GFP", "DAPI_2"]),
        ({"channel_names": ("DAPI",)}, None, ["0", "1", "2"]),
    ],
)
def test_intensities_are_called_by_their_channels(cell_on_border, more, channels, names):
    pixels = np.stack([np.full(cell_on_border.shape, value) for value in (10, 20, 30)])
    (found,) = measured(pair(cell_on_border, image=image_of(pixels, **more), channels=channels))
    assert [name for name in found.columns if name.startswith("intensity_mean")] == [
        f"intensity_mean_{n}" for n in names
    ]
    for name, value in zip(names, (10, 20, 30), strict=True):
        values = [found.columns[f"intensity_{kind}_{name}"].tolist() for kind in ("mean", "min", "max", "std")]
        assert values == [[value] * 2, [value] * 2, [value] * 2, [0.0, 0.0]]


def test_ids_of_annotations_are_kept(two_touching_cells):
    notes = Annotations(
        ids=np.array([901, 17]), areas=np.ones(2), boxes=np.ones((2, 4)), scores=np.ones(2), categories=np.ones(2, int),
        crowd=np.zeros(2, bool),
    )  # fmt: skip
    (found,) = measured(pair(two_touching_cells, annotations=notes))
    assert found.columns["label"].tolist() == [901, 17]


def test_boxes_without_masks_cannot_be_measured(empty_field):
    nothing = np.zeros(0)
    notes = Annotations(
        ids=nothing, areas=nothing, boxes=np.ones((0, 4)), scores=nothing, categories=nothing, crowd=nothing,
        has_masks=False,
    )  # fmt: skip
    (found,) = measured(pair(empty_field, annotations=notes))
    assert isinstance(found, Failure)
    assert str(found.error).startswith("labels.tif: the annotations are boxes without masks")


def test_failures_pass_in_their_place(cell_on_border):
    failure = Failure(key="x", source="x.tif", error=InputError("x.tif", "is empty"))
    for workers in (0, 2):
        found = measured(pair(cell_on_border, "a"), failure, pair(cell_on_border, "b"), workers=workers)
        assert [one.key for one in found] == ["a", "x", "b"]


def test_one_table_of_images_with_other_columns(cell_on_border, empty_field):
    pixels = np.ones((1, *cell_on_border.shape), np.uint8)
    pairs = [
        pair(cell_on_border, "a", image_of(pixels, channel_names=("DAPI",))),
        pair(empty_field, "none"),
        pair(cell_on_border, "b", pixel_size=0.5),
    ]
    table = table_of(measured(*pairs))
    micrometres = ["pixel_size_um", "area_um2", *(f"{name}_um" for name in LENGTHS)]
    bright = [f"intensity_{kind}_DAPI" for kind in ("mean", "min", "max", "std")]
    assert list(table) == ["image", "label", *SHAPES, *micrometres, *bright]
    assert table["image"].tolist() == ["a", "a", "b", "b"]
    assert table["label"].tolist() == [1, 2, 1, 2]
    assert np.isnan(table["area_um2"]).tolist() == [True, True, False, False]
    assert np.isnan(table["intensity_mean_DAPI"]).tolist() == [False, False, True, True]
    assert table["area"].dtype == np.int64
    assert table["touches_border"].dtype == bool


def test_columns_stay_when_pixels_are_let_go(cell_on_border):
    (found,) = measured(pair(cell_on_border, image=image_of(np.ones((1, *cell_on_border.shape)))))
    light = found.without_pixels()
    assert (light.count, light.cells, light.labels, light.image) == (2, None, None, None)
