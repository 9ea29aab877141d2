"""COCO: every number is that of pycocotools, to the last digit."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json

import imageio.v3 as imageio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cellkit.errors import InputError
from cellkit.metrics.coco import AREAS, CocoSettings, accumulate, coco_image, curves
from cellkit.metrics.coco_settings import area_ranges
from cellkit.metrics.instances import instances_of_labels, instances_of_run_lengths
from cellkit.ops.run_lengths import decode

KINDS = ("segm", "bbox")


def encoded(mask):
    return coco_masks.encode(np.asfortranarray(mask, np.uint8))


def annotation(mask, **values):
    """One object as a COCO file has it, measured by pycocotools."""
    code = encoded(mask)
    measured = {"area": float(coco_masks.area(code)), "bbox": coco_masks.toBbox(code).tolist()}
    return {"category_id": 1, "iscrowd": 0, "score": 1.0, "segmentation": code, **measured, **values}


def instances(annotations, shape, *, masks=True):
    """The same objects as our container has them."""
    columns = {"scores": "score", "categories": "category_id", "crowd": "iscrowd", "areas": "area", "boxes": "bbox"}
    return instances_of_run_lengths(
        [one["segmentation"] for one in annotations] if masks else [],
        shape,
        ids=[one["id"] for one in annotations] if "id" in next(iter(annotations), {}) else None,
        **{name: [one[key] for one in annotations] for name, key in columns.items()},
    )


def collection(sides, shape, *, start=1):
    """pycocotools' container of a list of annotations per image."""
    coco = COCO()
    numbers = itertools.count(start)
    categories = {one["category_id"] for side in sides for one in side}
    coco.dataset = {
        "images": [{"id": i, "height": shape[0], "width": shape[1]} for i in range(len(sides))],
        "categories": [{"id": category} for category in sorted(categories)],
        "annotations": [
            {**copy.deepcopy(one), "id": next(numbers), "image_id": i} for i, side in enumerate(sides) for one in side
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def evaluated(truth, predicted, chosen, kind):
    """COCOeval after evaluate and accumulate."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, predicted, kind)
        evaluation.params.catIds = sorted({*truth.getCatIds(), *predicted.getCatIds()})
        evaluation.params.areaRng = [[area.lowest, area.highest] for area in chosen.areas]
        evaluation.params.areaRngLbl = [area.name for area in chosen.areas]
        evaluation.params.maxDets = list(chosen.max_dets or [max(1, len(predicted.getAnnIds()))])
        evaluation.params.useCats = int(chosen.categories)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def mean(table):
    """As summarize has it, but None for -1."""
    defined = table[table > -1]
    return np.mean(defined) if defined.size else None


def expected(evaluation, kind):
    """The values by name, read from eval, since stats[0] counts 100 detections whatever maxDets says."""
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    values = {}
    for name, table in (("AP", precision[..., -1]), ("AR", recall[..., -1])):
        values[name] = mean(table[..., 0])
        values[name + "50"], values[name + "75"] = mean(table[[0], ..., 0]), mean(table[[5], ..., 0])
        values |= {name + suffix: mean(table[..., area]) for area, suffix in ((1, "s"), (2, "m"), (3, "l"))}
    most = sorted(evaluation.params.maxDets)
    values |= {f"AR@{number}": mean(recall[..., 0, i]) for i, number in enumerate(most[:-1])}
    return {f"coco/{kind}/{name}": value for name, value in values.items()}


def scored(truths, predictions, chosen, kind):
    pairs = zip(truths, predictions, strict=True)
    images = [coco_image(truth, predicted, chosen, kind) for truth, predicted in pairs]
    values = accumulate(images, chosen, kind)
    return images, {name: None if np.isnan(value) else value for name, value in values.items()}


def assert_equal(truths, predictions, shape, chosen, kind):
    """Every value and every point of the curves."""
    evaluation = evaluated(collection(truths, shape), collection(predictions, shape), chosen, kind)
    sides = ([instances(side, shape) for side in sides] for sides in (truths, predictions))
    images, values = scored(*sides, chosen, kind)
    assert values == expected(evaluation, kind)
    assert list(values) == list(expected(evaluation, kind))
    curve = curves(images, chosen, kind).precision
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    known = (precision > -1).all(axis=(0, 1))
    literal = precision[:, :, known].mean(axis=2) if known.any() else np.full(curve.shape, np.nan)
    np.testing.assert_allclose(curve, literal, rtol=1e-15, atol=0)


SHAPE = (7, 8)
AREA_BORDERS = area_ranges(6.0, 12.0)


@st.composite
def objects(draw):
    """A rectangle with or without a missing corner; areas on the borders of the ranges."""
    top, left = draw(st.integers(0, 5)), draw(st.integers(0, 6))
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    mask = np.zeros(SHAPE, bool)
    mask[top : top + height, left : left + width] = True
    mask[top, left] = draw(st.booleans())
    values = {"score": draw(st.sampled_from([0.25, 0.5, 0.75])), "category_id": draw(st.sampled_from([3, 1]))}
    if draw(st.booleans()):
        values["area"] = draw(st.sampled_from([6.0, np.nextafter(6.0, 7), 12.0, np.nextafter(12.0, 13), 2e10]))
    if draw(st.booleans()):
        values["bbox"] = [left + 0.25, top - 0.1, draw(st.sampled_from([0.0, width / 3, width + 0.7])), height + 0.3]
    return annotation(mask, **values)


@st.composite
def images(draw):
    """Truth with crowds, and predictions, some of them the truth again."""
    truth = draw(st.lists(objects(), max_size=5))
    for one in truth:
        one["iscrowd"] = int(draw(st.integers(0, 4)) == 4)
    again = draw(st.lists(st.sampled_from(truth), max_size=4)) if truth else []
    copies = [{**one, "iscrowd": 0, "score": draw(st.sampled_from([0.25, 0.5, 0.75]))} for one in again]
    return truth, draw(st.permutations(copies + draw(st.lists(objects(), max_size=4))))


@settings(max_examples=150)
@given(
    st.lists(images(), min_size=1, max_size=3),
    st.sampled_from([None, (1,), (3, 1), (2, 4, 100)]),
    st.booleans(),
    st.sampled_from(KINDS),
)
def test_any_scene_has_the_numbers_of_pycocotools(scene, max_dets, categories, kind):
    chosen = CocoSettings(areas=AREA_BORDERS, max_dets=max_dets, categories=categories)
    assert_equal([truth for truth, _ in scene], [predicted for _, predicted in scene], SHAPE, chosen, kind)


def squares(*corners, side=3, **values):
    found = []
    for top, left in corners:
        mask = np.zeros((30, 40), bool)
        mask[top : top + side, left : left + side] = True
        found.append(annotation(mask, **values))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("truth", "predicted"),
    {
        "both_empty": ([], []),
        "empty_truth": ([], squares((1, 1), (9, 9))),
        "empty_prediction": (squares((1, 1), (9, 9)), []),
        "perfect": (squares((1, 1), (9, 9)), squares((1, 1), (9, 9))),
        "one_object": (squares((1, 1)), squares((1, 1))),
        "nothing_meets": (squares((1, 1)), squares((20, 20))),
        "empty_masks": (squares((1, 1), (50, 50)), squares((50, 50), (1, 1))),
        "crowd_alone": (squares((1, 1), side=20, iscrowd=1), squares((2, 2), (9, 9), (25, 25))),
        "crowd_and_object": (
            squares((1, 1), side=20, iscrowd=1) + squares((2, 2)),
            squares((2, 2), (2, 2), (9, 9), (25, 25), score=0.5),
        ),
        "object_larger_than_all_ranges": (squares((1, 1), area=1e11), squares((1, 1), area=1e11)),
        "scores_at_the_limits": (
            squares((1, 1), (9, 9)),
            squares((1, 1), score=-np.inf) + squares((9, 9), score=0.0) + squares((9, 9), score=-0.0),
        ),
        "wrong_category": (squares((1, 1), category_id=2), squares((1, 1), category_id=7)),
    }.values(),
)
def test_named_situations(truth, predicted, kind):
    for categories in (True, False):
        assert_equal([truth, []], [predicted, []], (30, 40), CocoSettings(categories=categories), kind)


def test_values_of_the_empty_cases():
    cell, nothing = instances(squares((1, 1)), (30, 40)), instances([], (30, 40))
    chosen = CocoSettings()
    for truth, predicted, value in ((nothing, nothing, None), (nothing, cell, None), (cell, nothing, 0.0)):
        values = scored([truth], [predicted], chosen, "segm")[1]
        assert values["coco/segm/AP"] == values["coco/segm/AR"] == values["coco/segm/APs"] == value
        assert values["coco/segm/APl"] is None
    assert np.isnan(list(accumulate([], chosen).values())).all()
    assert np.isnan(curves([], chosen).precision).all()


@pytest.mark.parametrize("kind", KINDS)
def test_1681_perfect_objects_in_one_image(kind):
    labels = np.kron(np.arange(1, 1682).reshape(41, 41), np.pad(np.ones((2, 2), int), (0, 1)))
    cells = instances_of_labels(labels)
    assert len(cells) == 1681
    values = scored([cells], [cells], CocoSettings(), kind)[1]
    assert values[f"coco/{kind}/AP"] == values[f"coco/{kind}/AR"] == values[f"coco/{kind}/APs"] == 1.0
    few = scored([cells], [cells], CocoSettings(max_dets=(100,)), kind)[1]
    assert few[f"coco/{kind}/AP"] == pytest.approx(0.0594, abs=1e-4)  # what pycocotools' 100 detections make of it
    assert few[f"coco/{kind}/AR"] == pytest.approx(100 / 1681, rel=1e-15)


def test_an_iou_on_a_threshold_matches():
    """IoU 3/5 of whole numbers against the sixth decimal threshold, as pycocotools computes it."""
    truth, predicted = np.zeros((2, 4, 4), bool)
    truth[0], predicted[0, :3], predicted[1, 0] = True, True, True
    assert_equal([[annotation(truth)]], [[annotation(predicted)]], (4, 4), CocoSettings(), "segm")
    images, _ = scored(
        *([instances([annotation(mask)], (4, 4))] for mask in (truth, predicted)), CocoSettings(), "segm"
    )
    reached = images[0].outcomes[0, :, 0]
    assert reached.tolist() == [float(3 / 5 >= t) for t in CocoSettings().thresholds]


@pytest.mark.parametrize("numbers", [(1, 3), (3, 1)])
@pytest.mark.parametrize("categories", [True, False])
def test_of_objects_equally_near_the_last_category_is_taken(numbers, categories):
    """The first detection has IoU 4/5 with both; the second meets the left one alone."""
    left, right, both, half = np.zeros((4, 2, 5), bool)
    left[:, :4], right[:, 1:], both[:], half[:, :2] = True, True, True, True
    truth = [annotation(mask, category_id=number) for mask, number in zip((left, right), numbers, strict=True)]
    predicted = [annotation(both, score=0.9, category_id=3), annotation(half, score=0.8, category_id=1)]
    assert_equal([truth], [predicted], (2, 5), CocoSettings(categories=categories), "segm")


def test_the_order_of_images_breaks_ties_between_them():
    scene = squares((1, 1), score=0.5), squares((20, 20), (1, 1), score=0.5)
    for order in (scene, scene[::-1]):
        truths = [squares((1, 1))] * 2
        assert_equal(truths, order, (30, 40), CocoSettings(), "segm")


def test_a_score_that_is_no_number():
    truth = instances(squares((1, 1)), (30, 40))
    predicted = instances_of_run_lengths([encoded(np.eye(30, 40))] * 2, (30, 40), ids=[7, 8], scores=[0.5, np.nan])
    with pytest.raises(InputError) as caught:
        coco_image(truth, predicted, CocoSettings(), key="field.png")
    assert str(caught.value) == (
        "field.png: the score of object 8 is not a number (give every detection a score, or none a score)"
    )


def test_boxes_alone_have_no_masks_to_score():
    boxes = instances(squares((1, 1)), (30, 40), masks=False)
    with pytest.raises(InputError, match=r"field: the truth has boxes but no masks"):
        coco_image(boxes, boxes, CocoSettings(), "segm", key="field")
    assert scored([boxes], [boxes], CocoSettings(), "bbox")[1]["coco/bbox/AR"] == 1.0


# real annotations, against pycocotools' own reading of them


def perturbed(annotations, shape, rng):
    """Objects moved, lost, doubled and taken for another category; two digits of score make ties."""
    found = []
    categories = [one["category_id"] for one in annotations]
    for one in annotations:
        mask = decode(one["segmentation"])
        for _ in range(rng.choice(3, p=[0.1, 0.7, 0.2])):
            moved = encoded(np.roll(mask, rng.integers(-3, 4, 2), (0, 1)))
            category = rng.choice(categories) if rng.random() < 0.1 else one["category_id"]
            found.append({"category_id": int(category), "segmentation": moved, "score": round(float(rng.random()), 2)})
    return found


def read(path, limit):
    """Annotations by image, masks as run lengths, and the shapes; the images that hold fewest objects."""
    content = json.loads(path.read_text())
    shapes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    sides = {number: [] for number in sorted(shapes)}
    for one in content["annotations"]:
        code = one["segmentation"]
        if isinstance(code, list):
            code = coco_masks.merge(coco_masks.frPyObjects(code, *shapes[one["image_id"]]))
        elif isinstance(code["counts"], str):
            code = {"size": code["size"], "counts": code["counts"].encode()}
        else:
            code = coco_masks.frPyObjects(code, *code["size"])
        sides[one["image_id"]].append({**one, "segmentation": code, "score": 1.0})
    kept = sorted(sorted(sides, key=lambda number: len(sides[number]))[:limit])
    return content["categories"], {number: sides[number] for number in kept}, shapes


def assert_equal_to_load_res(categories, sides, shapes, chosen, kind):
    """As users run pycocotools: a truth file, and a list of results through loadRes."""
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "height": shapes[i][0], "width": shapes[i][1]} for i in sides],
        "categories": categories,
        "annotations": [copy.deepcopy(one) for side in sides.values() for one in side],
    }
    rng = np.random.default_rng(0)
    predictions = {number: perturbed(side, shapes[number], rng) for number, side in sides.items()}
    for found in predictions.values():
        for one in found:
            one["bbox"], one["iscrowd"] = coco_masks.toBbox(one["segmentation"]).tolist(), 0
            one["area"] = (
                float(coco_masks.area(one["segmentation"])) if kind == "segm" else one["bbox"][2] * one["bbox"][3]
            )
    results = [
        {"image_id": number, "category_id": one["category_id"], "score": one["score"]}
        | ({"segmentation": one["segmentation"]} if kind == "segm" else {"bbox": one["bbox"]})
        for number, found in predictions.items()
        for one in found
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        predicted = truth.loadRes(copy.deepcopy(results))
    evaluation = evaluated(truth, predicted, chosen, kind)
    ours = [[instances(side[i], shapes[i], masks=kind == "segm") for i in sides] for side in (sides, predictions)]
    values = scored(*ours, chosen, kind)[1]
    assert values == expected(evaluation, kind)
    assert 0.05 < values[f"coco/{kind}/AP"] < 0.95
    return values


@pytest.mark.parametrize("kind", KINDS)
def test_livecell_with_its_own_settings(data, kind):
    categories, sides, shapes = read(data / "livecell" / "annotations.json", 6)
    chosen = CocoSettings(areas=AREAS["livecell"], max_dets=(50, 100, 2000), categories=False)
    values = assert_equal_to_load_res(categories, sides, shapes, chosen, kind)
    assert values[f"coco/{kind}/AR@50"] < values[f"coco/{kind}/AR"]


@pytest.mark.parametrize("max_dets", [None, (1, 10, 100)])
@pytest.mark.parametrize("kind", KINDS)
def test_coco_with_categories_and_crowds(data, kind, max_dets):
    categories, sides, shapes = read(data / "coco" / "instances.json", 100)
    assert any(one["iscrowd"] for side in sides.values() for one in side)
    assert_equal_to_load_res(categories, sides, shapes, CocoSettings(max_dets=max_dets), kind)


def test_worms_that_cross(data):
    sides = {}
    for path in sorted((data / "bbbc010" / "worms").iterdir()):
        mask = imageio.imread(path) > 0
        side = sides.setdefault(path.stem.split("_")[0], [])
        side.append(annotation(mask, id=len(side) + 1))
    kept = list(sides.values())[:8]
    shape = tuple(kept[0][0]["segmentation"]["size"])
    rng = np.random.default_rng(0)
    predictions = [
        [annotation(decode(one.pop("segmentation")), **one) for one in perturbed(side, shape, rng)] for side in kept
    ]
    for kind in KINDS:
        assert_equal(kept, predictions, shape, CocoSettings(), kind)
