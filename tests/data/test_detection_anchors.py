import json

import imageio.v3 as iio
import numpy as np
import pytest

from cellkit.config import Preprocessing
from cellkit.data.detection_anchors import anchors_for, object_sides
from cellkit.data.layouts import find_pairs
from cellkit.errors import InputError, NoInputError
from cellkit.ops.anchors import COCO, LIVECELL

NOTHING = np.zeros((0, 2))


def squares(*sides):
    return np.repeat(np.array(sides, float), 2).reshape(-1, 2)


def test_published_anchors():
    assert anchors_for("coco", NOTHING) is COCO
    assert anchors_for("livecell", NOTHING) is LIVECELL
    assert LIVECELL.sizes == ((4,), (9,), (17,), (31,), (64,), (127,))
    assert LIVECELL.levels == (2, 2, 3, 4, 5, 6)


def test_cells_of_one_size():
    found = anchors_for("data", squares(*[12] * 50))
    assert found.sizes == ((12.0,), (24.0,), (48.0,), (96.0,), (192.0,))
    assert found.levels == (2, 3, 4, 5, 6)
    assert found.ratios == (0.5, 1.0, 2.0)


def test_objects_of_all_sizes_are_reached():
    found = anchors_for("data", squares(*np.geomspace(5, 700, 101)))
    first, *_, last = (size for (size,) in found.sizes)
    assert first == pytest.approx(5 * 140**0.05, rel=0.02)
    assert last == pytest.approx(5 * 140**0.95, rel=0.02)


@pytest.mark.parametrize(("side", "first"), [(1.5, 4.0), (300.0, 32.0)])
def test_sizes_stay_where_a_map_can_tell_them(side, first):
    assert anchors_for("data", squares(*[side] * 9)).sizes[0] == (first,)


def test_slender_objects_ask_for_slender_anchors():
    worms = np.concatenate([squares(*[20] * 90), np.tile([[10.0, 60.0]], (10, 1))])
    assert anchors_for("data", worms).ratios == (0.25, 0.5, 1.0, 2.0, 4.0)
    assert anchors_for("data", worms[:92]).ratios == (0.5, 1.0, 2.0)


def test_nothing_tells_nothing():
    with pytest.raises(NoInputError) as caught:
        anchors_for("data", NOTHING)
    expected = "anchors: there is no object whose size could tell them (outline some first)"
    assert str(caught.value) == expected


@pytest.fixture
def pairs(tmp_path):
    """One image with boxes of 10 x 20 and 8 x 8, the other empty."""
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    labels = np.zeros((40, 40), np.uint8)
    labels[2:12, 2:22], labels[20:28, 4:12] = 1, 5
    for name, picture in (("a", labels), ("b", 0 * labels)):
        iio.imwrite(tmp_path / "images" / f"{name}.png", np.full((40, 40), 9, np.uint8))
        iio.imwrite(tmp_path / "labels" / f"{name}.png", picture)
    return find_pairs(str(tmp_path)).pairs


def test_sides_at_the_scale_of_the_network(pairs):
    assert object_sides(pairs, Preprocessing(channels=1)).tolist() == [[10, 20], [8, 8]]
    diameter = np.median(2 * np.sqrt(np.array([200, 64]) / np.pi))
    scaled = object_sides(pairs, Preprocessing(channels=1, diameter=30.0))
    np.testing.assert_allclose(scaled, np.array([[10, 20], [8, 8]]) * 30 / diameter)
    typical = object_sides(pairs, Preprocessing(channels=1, diameter=30.0, typical=15.0))
    np.testing.assert_allclose(typical, [[20, 40], [16, 16]])


def test_what_is_left_out_is_not_said_twice(tmp_path, caplog):
    iio.imwrite(tmp_path / "a.png", np.full((40, 40), 9, np.uint8))
    square = [[2, 2, 12, 2, 12, 22, 2, 22]]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 40}],
        "annotations": [
            {"id": number, "image_id": 1, "segmentation": shape, "iscrowd": crowd}
            for number, (shape, crowd) in enumerate([(square, 0), ([[1, 1, 5, 5]], 0), (square, 1)], 1)
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    pairs = find_pairs(str(tmp_path)).pairs
    assert object_sides(pairs, Preprocessing(channels=1)).tolist() == [[20, 10]]
    assert caplog.messages == []
    boxes = {**content, "annotations": [{"id": 1, "image_id": 1, "bbox": [1, 1, 5, 5]}]}
    (tmp_path / "a.json").write_text(json.dumps(boxes))
    with pytest.raises(InputError, match="the annotations are boxes without masks"):
        object_sides(find_pairs(str(tmp_path)).pairs, Preprocessing(channels=1))
