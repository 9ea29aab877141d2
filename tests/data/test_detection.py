import itertools
import json

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from pycocotools import mask as run_lengths

from cellkit.config import Preprocessing
from cellkit.data.detection import DetectionAugmentation, DetectionSet
from cellkit.data.detection_crops import cut, load_detection, shown
from cellkit.data.layouts import find_pairs
from cellkit.data.loading import Loading
from cellkit.data.warp import Affine
from cellkit.errors import InputError, NoInputError, UsageError

GREY = Preprocessing(channels=1)
PLAIN = DetectionAugmentation(crop=32, scale=(1, 1), flip=False, probability=0, least_shown=0)
SIDE = 40


def bar(y0, x0, y1, x1):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


CROSSING = [bar(18, 4, 22, 36), bar(4, 18, 36, 22), bar(0, 0, 6, 6)]


def segmentation(mask):
    encoded = run_lengths.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def coco(folder, objects, categories=("cell",), name="a", **changes):
    """A COCO folder of one image; objects are (mask or segmentation, category, crowd)."""
    folder.mkdir(exist_ok=True)
    iio.imwrite(folder / f"{name}.png", np.random.default_rng(0).integers(0, 200, (SIDE, SIDE)).astype(np.uint8))
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": category,
            "iscrowd": crowd,
            "segmentation": segmentation(shape) if isinstance(shape, np.ndarray) else shape,
        }
        for number, (shape, category, crowd) in enumerate(objects, 1)
    ]
    content = {
        "images": [{"id": 1, "file_name": f"{name}.png", "height": SIDE, "width": SIDE}],
        "annotations": annotations,
        "categories": [{"id": 10 * number, "name": category} for number, category in enumerate(categories, 1)],
    }
    (folder / f"{name}.json").write_text(json.dumps(content | changes))
    return find_pairs(str(folder)).pairs


@pytest.fixture
def worms(tmp_path):
    """Two crossing worms and a cell on the border, of two categories listed in the file."""
    kinds = (20, 10, 20)
    return coco(tmp_path / "worms", [(m, k, 0) for m, k in zip(CROSSING, kinds, strict=True)], ("egg", "worm"))


@pytest.fixture
def folder(tmp_path):
    """Four label images; image i has i cells."""
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for i in range(4):
        labels = np.zeros((50, 60), np.uint16)
        for k in range(i):
            labels[5 + 12 * k : 13 + 12 * k, 8 : 20 + 5 * i] = 3 * k + 1
        iio.imwrite(tmp_path / "images" / f"{i}.png", np.random.default_rng(i).integers(0, 99, (50, 60), np.uint8))
        iio.imwrite(tmp_path / "labels" / f"{i}.png", labels)
    return find_pairs(str(tmp_path)).pairs


def batches(data, start=0, count=3, **options):
    return list(itertools.islice(data.batches(start, **{"batch": 4, "seed": 7, **options}), count))


def flat(batch):
    return [batch.images, *(part for truth in batch.truth for part in truth), torch.tensor(batch.seeds)]


def equal(first, second):
    return all(
        torch.equal(a, b)
        for one, other in zip(first, second, strict=True)
        for a, b in zip(flat(one), flat(other), strict=True)
    )


def masks_of(truth):
    return [(truth.layers[layer] == value).numpy() for layer, value in truth.places.tolist()]


def check(truth, side):
    """Boxes are those of the masks, objects on a layer are apart, and the layers hold nothing else."""
    masks = masks_of(truth)
    for mask, box in zip(masks, truth.boxes.tolist(), strict=True):
        y, x = np.nonzero(mask)
        assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert sum(int(mask.sum()) for mask in masks) == int((truth.layers > 0).sum())
    assert truth.layers.shape[1:] == (side, side)
    kinds = [part.dtype for part in truth]
    assert kinds == [torch.float32, torch.int64, torch.int32, torch.int64]


def test_a_batch_has_the_documented_shapes(folder):
    data = DetectionSet(folder, GREY, DetectionAugmentation(crop=64))
    (batch,) = batches(data, count=1)
    assert batch.images.shape == (4, 1, 64, 64)
    assert len(batch.truth) == len(set(batch.seeds)) == 4
    assert data.categories == ("cell",)
    assert (len(data), data.steps_per_epoch(3)) == (4, 2)
    for truth in batch.truth:
        check(truth, 64)


def test_batch_number_s_does_not_depend_on_where_one_starts(folder):
    data = DetectionSet(folder, GREY, DetectionAugmentation(crop=32))
    assert equal(batches(data, count=5)[3:], batches(data, start=3, count=2))
    assert not equal(batches(data), batches(data, seed=8))


def test_processes_share_the_batches_of_one(folder):
    data = DetectionSet(folder, GREY, DetectionAugmentation(crop=32))
    shared = [batches(data, rank=rank, world_size=2, count=1)[0] for rank in (0, 1)]
    whole = batches(data, count=1)[0]
    assert torch.equal(torch.cat([part.images for part in shared]), whole.images)
    assert shared[0].seeds + shared[1].seeds == whole.seeds


def test_images_beyond_the_budget_are_read_again(folder):
    small = DetectionSet(folder, GREY, DetectionAugmentation(crop=32), Loading(memory_budget=0, workers=2))
    assert small.kept == [None] * 4
    assert equal(batches(small), batches(DetectionSet(folder, GREY, DetectionAugmentation(crop=32))))


def test_overlapping_objects_keep_masks_and_categories(worms):
    data = DetectionSet(worms, GREY, DetectionAugmentation(crop=64, scale=(1, 1), flip=False, probability=0))
    assert data.categories == ("egg", "worm")  # by their ids
    truth = batches(data, count=1, batch=1)[0].truth[0]
    check(truth, 64)
    assert truth.categories.tolist() == [1, 0, 1]
    for found, mask in zip(masks_of(truth), CROSSING, strict=True):
        y, x = (np.flatnonzero(found.any(axis)) for axis in (1, 0))
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        assert (y[-1] - y[0], x[-1] - x[0]) == (rows[-1] - rows[0], columns[-1] - columns[0])
        assert found.sum() == mask.sum()
    assert truth.layers.shape[0] == 2
    both = masks_of(truth)[0] & masks_of(truth)[1]
    assert both.sum() == 16


def test_one_category_takes_all(worms):
    data = DetectionSet(worms, GREY, PLAIN, categories=("cell",))
    assert not batches(data, count=1, batch=1)[0].truth[0].categories.any()


def test_a_category_without_a_place_is_an_error(worms):
    with pytest.raises(InputError) as caught:
        DetectionSet(worms, GREY, PLAIN, categories=("egg", "nucleus"))
    assert str(caught.value) == (
        f"{worms[0].labels.name}: an object is of the category 'worm', which is not among those that are learned "
        "(known are egg, nucleus; or make all one category)"
    )


def test_crowds_are_no_objects(tmp_path):
    pairs = coco(tmp_path / "c", [(CROSSING[0], 10, 0), (CROSSING[1], 10, 1)])
    truth = batches(DetectionSet(pairs, GREY, PLAIN), count=1, batch=1)[0].truth[0]
    assert len(truth.boxes) == 1


@pytest.mark.parametrize("nothing", [[], [[1, 1, 9, 9]], [[60, 60, 70, 60, 70, 70]]], ids=["empty", "two", "outside"])
def test_annotations_without_a_pixel_are_left_out(tmp_path, nothing, caplog):
    pairs = coco(tmp_path / "c", [(CROSSING[0], 10, 0), (nothing, 10, 0)])
    truth = batches(DetectionSet(pairs, GREY, PLAIN), count=1, batch=1)[0].truth[0]
    assert len(truth.boxes) == 1
    assert caplog.messages == [f"{pairs[0].labels.name}: 1 object without a pixel is left out, e.g. annotation 2"]


def test_a_polygon_across_the_border_ends_there(tmp_path):
    pairs = coco(tmp_path / "c", [([[30, 30, 60, 30, 60, 60, 30, 60]], 10, 0)])
    example = load_detection(pairs[0], GREY, ("cell",))
    assert example.areas.tolist() == [100]


def test_boxes_alone_cannot_be_learned(tmp_path):
    pairs = coco(tmp_path / "c", [], annotations=[{"id": 1, "image_id": 1, "category_id": 10, "bbox": [1, 1, 5, 5]}])
    with pytest.raises(InputError) as caught:
        DetectionSet(pairs, GREY, PLAIN)
    name = pairs[0].labels.name
    assert str(caught.value) == (f"{name}: the annotations are boxes without masks (boxes can be scored, not learned)")


def test_a_set_without_any_object(tmp_path):
    pairs = coco(tmp_path / "c", [])
    with pytest.raises(NoInputError) as caught:
        DetectionSet(pairs, GREY, PLAIN)
    expected = "training: none of 1 annotated images shows an object (outline some objects first)"
    assert str(caught.value) == expected
    with pytest.raises(NoInputError, match="there is no annotated image"):
        DetectionSet([], GREY, PLAIN)


def straight(centre, crop=32, zoom=1.0):
    return Affine(matrix=(1 / zoom, 0.0, 0.0, 1 / zoom), centre=centre, crop=crop)


def test_boxes_end_where_the_crop_ends(worms):
    example = load_detection(worms[0], GREY, ("cell",))
    crop = cut(example, straight((15.5, 15.5)), 0.0, torch.device("cpu"))  # rows and columns 0 to 31
    assert crop.truth.boxes.tolist() == [[4, 18, 32, 22], [18, 4, 22, 32], [0, 0, 6, 6]]


def test_what_is_almost_gone_is_left_out(worms):
    example = load_detection(worms[0], GREY, ("cell",))
    crop = cut(example, straight((20.5, 18.5)), 0.1, torch.device("cpu"))  # rows 5 to 36, columns 3 to 34
    assert crop.truth.boxes.tolist() == [[1, 13, 32, 17], [15, 0, 19, 31]]  # of the cell, 3 of 36 pixels are left
    assert crop.truth.places[:, 1].tolist() == [1, 2]
    assert set(crop.truth.layers.unique().tolist()) == {0, 1, 2}
    assert len(cut(example, straight((20.5, 18.5)), 0.05, torch.device("cpu")).truth.boxes) == 3


def test_a_small_part_of_a_large_object_stays(tmp_path):
    pairs = coco(tmp_path / "c", [(bar(0, 0, SIDE, SIDE), 10, 0)])
    example = load_detection(pairs[0], GREY, ("cell",))
    crop = cut(example, straight((19.5, 19.5), zoom=8), 0.9, torch.device("cpu"))
    assert crop.truth.boxes.tolist() == [[0, 0, 32, 32]]


def test_beyond_the_border_there_is_nothing(worms):
    example = load_detection(worms[0], GREY, ("cell",))
    affine = straight((5.5, 5.5))  # rows -10 to 21
    crop = cut(example, affine, 0.0, torch.device("cpu"))
    assert crop.truth.boxes[2].tolist() == [10, 10, 16, 16]  # the cell on the border is whole, and there once
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[10:, 10:] = True
    assert torch.equal(shown(affine, (SIDE, SIDE), torch.device("cpu")), inside)
    assert torch.equal(crop.inside, inside)


def test_beyond_the_border_no_change_of_brightness_shows(folder):
    bright = DetectionAugmentation(crop=128, probability=1.0, brightness=5.0, noise=1.0, invert=1.0)
    for ground, value in (((), 0.0), ((0.375,), 0.375)):
        (batch,) = batches(DetectionSet(folder, GREY, bright, ground=ground), count=1, batch=1)
        assert 0.7 < float((batch.images == value).float().mean()) < 0.9


def test_objects_turn_with_the_image(worms):
    example = load_detection(worms[0], GREY, ("cell",))
    quarter = Affine(matrix=(0.0, -1.0, 1.0, 0.0), centre=(19.5, 19.5), crop=40)
    crop = cut(example, quarter, 0.0, torch.device("cpu"))
    for found, mask in zip(masks_of(crop.truth), CROSSING, strict=True):
        np.testing.assert_array_equal(found, np.rot90(mask, -1) > 0)
    check(crop.truth, 40)


def test_working_diameter_sets_the_scale(folder):
    sized = Preprocessing(channels=1, diameter=30.0)
    data = DetectionSet(folder[3:], sized, DetectionAugmentation(crop=160, scale=(1, 1), flip=False))
    truth = batches(data, count=1, batch=1)[0].truth[0]
    mean = float(torch.stack([(truth.layers == value).sum() for value in (1, 2, 3)]).float().mean())
    assert mean == pytest.approx(np.pi * 15**2, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"crop": 100}, "crop: 100 is no multiple of 32 (e.g. 96)"),
        ({"least_shown": 1.5}, "least_shown: 1.5 is out of range (give a number from 0 to 1)"),
    ],
)
def test_crops_that_cannot_be_drawn(changes, text):
    with pytest.raises(UsageError) as caught:
        DetectionAugmentation(**changes)
    assert str(caught.value) == text
