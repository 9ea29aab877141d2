import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as run_lengths

from cellkit.data.detection_layers import overlapping, pack_labels, pack_masks

SHAPE = (12, 16)


def masks_of(*boxes):
    """Filled boxes y0, x0, y1, x1 as (N, H, W) masks."""
    masks = np.zeros((len(boxes), *SHAPE), bool)
    for mask, (y0, x0, y1, x1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def packed(masks):
    return pack_masks([run_lengths.encode(np.asfortranarray(mask, np.uint8)) for mask in masks], SHAPE)


def check(masks, found):
    """Each object is found whole on its layer, with its box and area; the layers hold nothing else."""
    assert found.layers.shape[1:] == SHAPE
    for number, mask in enumerate(masks):
        np.testing.assert_array_equal(found.layers[found.layer[number]] == number + 1, mask)
        y, x = np.nonzero(mask)
        assert found.boxes[number].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert found.areas[number] == mask.sum()
    assert np.count_nonzero(found.layers) == masks.sum()


def test_apart_one_layer_is_enough():
    masks = masks_of((0, 0, 4, 4), (0, 4, 4, 8), (6, 2, 12, 9))
    found = packed(masks)
    check(masks, found)
    assert found.layers.shape[0] == 1
    assert found.layers.dtype == np.int16


def test_crossing_worms_lie_on_two_layers():
    masks = masks_of((5, 0, 7, 16), (0, 3, 12, 5), (0, 9, 12, 11))
    found = packed(masks)
    check(masks, found)
    assert found.layer[1] == found.layer[2] != found.layer[0]


def test_three_on_top_of_each_other():
    masks = masks_of((2, 2, 8, 8), (4, 4, 10, 10), (5, 5, 7, 7), (0, 12, 3, 15))
    found = packed(masks)
    check(masks, found)
    assert found.layers.shape[0] == 3
    assert (found.layer[0], found.layer[3]) == (0, 0)  # large ones choose first, free ones need not choose


def test_nothing_has_one_empty_layer():
    found = packed(masks_of())
    assert found.layers.shape == (1, *SHAPE)
    assert not found.layers.any()
    assert found.boxes.shape == (0, 4)


def test_a_label_image_with_gaps():
    labels = np.zeros(SHAPE, np.int32)
    labels[1:4, 2:7], labels[6:9, 0:3] = 70000, 9
    found = pack_labels(labels)
    check(np.stack([labels == 9, labels == 70000]), found)
    assert found.layer.tolist() == [0, 0]


def test_many_objects_need_32_bits():
    labels = np.arange(1, 40001, dtype=np.int32).reshape(200, 200)
    found = pack_labels(labels)
    assert found.layers.dtype == np.int32
    np.testing.assert_array_equal(found.layers[0], labels)


@given(st.lists(st.tuples(*[st.integers(0, 7)] * 2, *[st.integers(1, 8)] * 2), max_size=7))
def test_any_boxes(boxes):
    masks = masks_of(*((y, x, y + height, x + width) for y, x, height, width in boxes))
    found = packed(masks)
    check(masks, found)
    for one in range(len(masks)):
        for other in range(one):
            if (masks[one] & masks[other]).any():
                assert found.layer[one] != found.layer[other]


def test_pairs_that_share_a_pixel_are_named_once():
    masks = masks_of((0, 0, 4, 4), (2, 2, 6, 6), (3, 3, 8, 8), (8, 8, 9, 9))
    runs = [np.flatnonzero(mask.T.ravel()) for mask in masks]
    owners = np.repeat(np.arange(4), [run.size for run in runs])
    assert overlapping(np.concatenate(runs), owners).tolist() == [[0, 1], [0, 2], [1, 2]]


@pytest.mark.parametrize("count", [1, 200])
def test_layers_are_as_few_as_a_chain_needs(count):
    masks = np.zeros((count, 4, 4 * count + 4), bool)
    for number, mask in enumerate(masks):
        mask[:, 4 * number : 4 * number + 6] = True  # each overlaps the next
    encoded = [run_lengths.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    assert pack_masks(encoded, masks.shape[1:]).layers.shape[0] == min(count, 2)
