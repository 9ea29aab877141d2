"""What the files of other tools say of the cells beside their outlines."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cellkit.cli.showing import SAMPLES
from cellkit.data.truth import encode, paint
from cellkit.io.export_coco import encode_coco
from cellkit.provenance import Record
from cellkit.stages.converting import Cells, coco_image, find_cells, masks_of, parts_of, polygons_of, read_cells
from cellkit.stages.outcomes import Failure


@pytest.fixture
def cells():
    """Labels 1 and 3, with scores of 1 to 3."""
    labels = np.zeros((6, 7), np.int32)
    labels[1:3, 1:4] = 1
    labels[4, 4:] = 3
    scores = np.array([0.25, 0.5, 0.1], np.float32)
    history = (Record(verb="segment"),)
    return Cells(key="a", labels=labels, scores=scores, image="a.tif", history=history)


def features(cells):
    ((name, data),) = parts_of(cells, "geojson")
    assert name == f"{cells.key}.geojson"
    return json.loads(data)["features"]


def test_scores_belong_to_their_labels(cells):
    content = json.loads(encode_coco([coco_image(cells)]))
    assert [entry["score"] for entry in content["annotations"]] == [0.25, 0.1]
    assert content["images"][0]["cellkit"][0]["verb"] == "segment"
    assert [feature["properties"]["measurements"] for feature in features(cells)] == [
        {"Area px^2": 6, "Score": 0.25},
        {"Area px^2": 3, "Score": 0.1},
    ]


def test_labels_without_a_score_have_one(cells):
    fewer = Cells(key="a", labels=cells.labels, scores=cells.scores[:2], image="a.tif")
    assert coco_image(fewer).scores.tolist() == [0.25, 1.0]
    assert "Score" not in features(fewer)[1]["properties"]["measurements"]


def test_ids_depend_on_image_and_label_alone(cells):
    moved = Cells(key="a", labels=np.roll(cells.labels, 1), image="b.tif")
    other = Cells(key="b", labels=cells.labels, image="a.tif")
    ids = [[feature["id"] for feature in features(one)] for one in (cells, moved, other)]
    assert ids[0] == ids[1]
    assert len({*ids[0], *ids[2]}) == 4


def test_outlines_of_overlapping_objects_are_those_of_the_whole():
    masks = np.zeros((3, 9, 9), bool)
    masks[0, :6, :6] = masks[1, 3:8, 3:8] = masks[2, 5:, 5:] = True
    truth = paint(encode(masks), (9, 9))
    cells = Cells(key="a", labels=truth.labels, image="a.png", masks=truth.masks, overlapping=truth.overlapping)
    objects, areas = polygons_of(cells)
    assert areas == {label: mask.sum() for label, mask in enumerate(masks, 1)}
    assert [len(polygons[0][0]) for polygons in objects.values()] == [4, 4, 4]
    assert masks_of(cells)[0] == [1, 2, 3]


def test_samples_are_read_with_the_names_of_their_images():
    found = find_cells(str(SAMPLES))
    read = list(read_cells(found, "coco"))
    assert not any(isinstance(one, Failure) for one in read)
    assert [one.image for one in read] == [f"{one.key}.png" for one in read]
    assert {one.key for one in read} == {path.stem for path in (SAMPLES / "labels").iterdir()}
