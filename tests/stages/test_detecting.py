"""Tiled is whole: a stand-in that finds the discs it is shown, cut ones too, takes the place of the detector."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch
from scipy import ndimage

from cellkit.config import DetectSettings
from cellkit.engine.device import Device
from cellkit.engine.inference import Tiling
from cellkit.engine.memory import MemoryLadder
from cellkit.errors import MemoryLimitError, UsageError
from cellkit.networks.detector import Detector
from cellkit.networks.detector_spec import TINY_CASCADE
from cellkit.ops.detections import Detections
from cellkit.ops.run_lengths import encode_runs, runs_of_labels
from cellkit.stages.detecting import Finder, tile_overlap
from cellkit.stages.large_images import LargePixels

CPU = Device(torch.device("cpu"))
TILE, OVERLAP = 128, 64


def scene(shape, discs):
    """(1, H, W): disc i, of centre y, x and diameter, has the value i + 1; the later one is on top."""
    reach = max((diameter for _, _, diameter in discs), default=0)
    padded = np.zeros((shape[0] + 2 * reach, shape[1] + 2 * reach), np.float32)
    rows, columns = np.indices((2 * reach + 1, 2 * reach + 1)) - reach
    for number, (y, x, diameter) in enumerate(discs, 1):
        place = padded[y : y + 2 * reach + 1, x : x + 2 * reach + 1]
        inside = (rows**2 + columns**2 <= (diameter / 2) ** 2)[: place.shape[0], : place.shape[1]]
        place[inside] = number
    return np.ascontiguousarray(padded[reach : reach + shape[0], reach : reach + shape[1]])[None]


def everywhere(shape, diameter, seed=0):
    """Discs close to each other all over an image, and some at its edges."""
    rng = np.random.default_rng(seed)
    ys, xs = np.meshgrid(np.arange(0, shape[0] + 1, diameter), np.arange(0, shape[1] + 1, diameter), indexing="ij")
    centres = np.stack([ys.ravel(), xs.ravel()], 1) + rng.integers(-2, 3, (ys.size, 2))
    return [(y, x, diameter - 3) for y, x in centres.tolist()]


def objects_of(image, shape):
    """What is seen of each disc on (h, w) of an image: tight box, its mask; the score falls with its number."""
    labels = image[0, : shape[0], : shape[1]].round().astype(np.int32)
    ids, runs = runs_of_labels(labels)
    found = ndimage.find_objects(labels)
    boxes = [(xs.start, ys.start, xs.stop, ys.stop) for ys, xs in (found[number - 1] for number in ids)]
    return Detections(
        shape=shape,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=(1 - ids / 10000).astype(np.float32),
        categories=(ids % 2).astype(np.int32),
        masks=runs,
    )


class Eye:
    """Finds discs, and notes what it was shown."""

    def __init__(self, fits=10**9):
        self.batches, self.fits = [], fits

    def __call__(self, detector, images, settings, shapes):
        self.batches.append((tuple(images.shape), list(shapes)))
        if images.shape[0] * images.shape[2] * images.shape[3] > self.fits:
            raise MemoryError
        return [objects_of(image, shape) for image, shape in zip(images.numpy(), shapes, strict=True)]


def finder(eye, **tiling):
    detector = Detector(dataclasses.replace(TINY_CASCADE, channels=1))
    tiles = Tiling(**{"tile": TILE, "overlap": OVERLAP} | tiling)
    return Finder(
        detector=detector, settings=DetectSettings(), device=CPU, tiling=tiles, ladder=MemoryLadder(), find=eye
    )


def found(image, **tiling):
    ((tag, result),) = finder(Eye(), **tiling).objects([("image", image)])
    assert tag == "image"
    return result


def assert_same(one, other):
    np.testing.assert_array_equal(one.boxes, other.boxes)
    np.testing.assert_array_equal(one.scores, other.scores)
    np.testing.assert_array_equal(one.categories, other.categories)
    assert one.shape == other.shape
    assert encode_runs(one.masks, len(one), one.shape) == encode_runs(other.masks, len(other), other.shape)


@pytest.mark.parametrize("shape", [(300, 290), (128, 500), (97, 131), (520, 411)])
@pytest.mark.parametrize("diameter", [11, 20, 45, OVERLAP])
def test_tiled_is_whole(shape, diameter):
    image = scene(shape, everywhere(shape, diameter))
    assert_same(found(image), objects_of(image, shape))


@pytest.mark.parametrize("place", range(60, 130, 3))
def test_an_object_as_long_as_the_overlap_is_whole_wherever_it_lies(place):
    image = scene((200, 200), [(place, 190 - place, OVERLAP - 1)])
    assert_same(found(image), objects_of(image, (200, 200)))


def test_an_object_longer_than_the_overlap_is_whole_where_one_tile_shows_all_of_it():
    image = scene((192, 320), [(60, 120, 90), (130, 255, 100)])  # tiles begin at 0, 64, 128, 192 and are 128 wide
    result = found(image)
    assert_same(result, objects_of(image, image.shape[1:]))


def test_an_object_that_no_tile_shows_whole_is_found_once():
    image = scene((128, 320), [(64, 160, 30)])
    image[0, 50:70, 20:300] = 9
    result = found(image)
    assert sorted(np.unique(result.scores).tolist()) == pytest.approx([1 - 9 / 10000, 1 - 1 / 10000])
    longest = (result.boxes[:, 2] - result.boxes[:, 0]).max()
    assert longest == TILE


def test_thousands_of_cells():
    shape = (500, 500)
    image = scene(shape, everywhere(shape, 9))
    expected = objects_of(image, shape)
    assert len(expected) > 3000
    assert_same(found(image, tile=256), expected)


def test_a_small_image_is_seen_whole_and_filled_up_to_the_stride():
    eye = Eye()
    image = scene((50, 70), [(20, 30, 12), (45, 66, 14)])
    ((_, result),) = finder(eye, tile=None).objects([(0, image)])
    assert_same(result, objects_of(image, (50, 70)))
    assert eye.batches == [((1, 1, 64, 96), [(50, 70)])]


def test_what_lies_over_the_image_is_the_mean():
    seen = []

    def look(detector, images, settings, shapes):
        seen.append(images.clone())
        return [objects_of(images[0].numpy() * 0, shapes[0])]

    one = finder(look, tile=None)
    spec = dataclasses.replace(one.detector.spec, mean=(0.5,), std=(2.0,))
    dataclasses.replace(one, detector=Detector(spec)).objects([])
    list(dataclasses.replace(one, detector=Detector(spec)).objects([(0, np.zeros((1, 33, 32), np.float32))]))
    assert seen[0].shape == (1, 1, 64, 32)
    assert seen[0][0, 0, :33].unique().tolist() == [0.0]
    assert seen[0][0, 0, 33:].unique().tolist() == [0.5]


def test_images_of_several_sizes_keep_their_order_and_no_image_is_too_empty():
    images = [scene((40, 40), [(20, 20, 10)] * count) for count in (1, 0, 3)]
    results = list(finder(Eye()).objects(enumerate(images)))
    assert [tag for tag, _ in results] == [0, 1, 2]
    assert [len(result) for _, result in results] == [1, 0, 1]


def test_large_images_are_read_tile_by_tile():
    shape = (300, 290)
    image = scene(shape, everywhere(shape, 20))
    reads = []

    class Watched:
        shape, dtype = image.shape, image.dtype

        def __getitem__(self, window):
            reads.append(image[window].shape)
            return image[window]

    large = LargePixels(pixels=Watched(), low=np.zeros(1), high=np.ones(1), shape=shape, source="large")
    ((_, result),) = finder(Eye()).objects([(0, large)])
    assert_same(result, objects_of(image, shape))
    assert max(h * w for _, h, w in reads) <= TILE**2


def test_when_memory_runs_out_tiles_become_smaller(caplog):
    image = scene((300, 290), everywhere((300, 290), 20))
    eye = Eye(fits=200 * 200)
    with caplog.at_level(logging.WARNING):
        ((_, result),) = finder(eye, tile=None, overlap=32).objects([(0, image)])
    assert_same(result, objects_of(image, (300, 290)))
    assert "out of memory with a tile of 320 pixels, trying 160" in caplog.text


def test_memory_that_holds_no_tile_ends_in_one_line():
    with pytest.raises(MemoryLimitError, match="not even one tile of"):
        list(finder(Eye(fits=1), tile=None, overlap=32).objects([(0, scene((100, 100), []))]))


def test_other_errors_are_no_lack_of_memory():
    def broken(*_):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(finder(broken).objects([(0, scene((64, 64), []))]))


def test_a_tile_that_leaves_no_room_is_refused():
    with pytest.raises(UsageError) as error:
        list(finder(Eye(), tile=90).objects([(0, scene((300, 300), []))]))
    text = "tile: 90 pixels leave no room beside an overlap of 64 (use a tile of 96 or more, or a smaller overlap)"
    assert str(error.value) == text


@pytest.mark.parametrize(("sizes", "overlap"), [((4, 9, 17, 31, 64), 64), ((32, 64, 128, 256, 512), 256)])
def test_tiles_share_as_much_as_the_largest_anchor(sizes, overlap):
    assert tile_overlap(Detector(dataclasses.replace(TINY_CASCADE, anchor_sizes=sizes))) == overlap
