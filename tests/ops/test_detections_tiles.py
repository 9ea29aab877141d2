"""Which tile an object belongs to, and what becomes of its box and mask; whole images are in stages/test_detecting."""

from __future__ import annotations

import numpy as np
import pytest

from cellkit.ops.detections import Detections
from cellkit.ops.detections_tiles import Spans, concatenated, put_together, scaled, take
from cellkit.ops.detections_tiles import owned as owned_by
from cellkit.ops.labelling import resize_labels
from cellkit.ops.run_lengths import encode_runs, runs_of_labels

SPANS = Spans.of([0, 64, 128], 128, 250)  # tiles share 64 pixels; inner parts end at 96 and 160


def labelled():
    labels = np.zeros((20, 30), np.int32)
    labels[2:9, 3:11], labels[5:18, 14:17], labels[12:19, 20:29] = 1, 2, 3
    return labels


def objects(labels, scores):
    ids, runs = runs_of_labels(labels)
    places = [np.nonzero(labels == number) for number in ids]
    boxes = [(xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) for ys, xs in places]
    return Detections(
        shape=labels.shape,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        categories=np.arange(len(ids), dtype=np.int32),
        masks=runs,
    )


def interval(low, high):
    return np.array([low], float), np.array([high], float)


@pytest.mark.parametrize(
    ("low", "high", "tiles"),
    [
        (10, 20, [0]),
        (0, 50, [0]),  # the edge of the image cuts nothing
        (70, 82, [0]),
        (100, 126, [1]),
        (92, 101, [0, 1]),  # its centre is where two tiles may not agree
        (64, 128, [0, 1]),  # as long as what they share
        (50, 140, [0, 1]),  # too long for any: a piece of each, of which the larger is left afterwards
        (66, 140, [0, 1]),  # whole in tile 1, but so near to its edge that tile 0 cannot be sure
        (74, 150, [1]),
        (200, 250, [2]),
    ],
)
def test_an_object_belongs_to_the_tile_whose_inner_part_holds_its_centre(low, high, tiles):
    seen = []
    for tile, (start, stop) in enumerate(zip(SPANS.starts, SPANS.stops, strict=True)):
        if high > start and low < stop:
            seen += [tile] * bool(SPANS.owned(tile, *interval(max(low, start), min(high, stop)))[0])
    assert seen == tiles


def test_only_inner_edges_cut():
    assert not SPANS.cut(0, *interval(0, 20))[0]
    assert SPANS.cut(0, *interval(90, 128))[0]
    assert SPANS.cut(1, *interval(64, 90))[0]
    assert not SPANS.cut(2, *interval(230, 250))[0]


def test_chosen_objects_keep_their_masks():
    found = objects(labelled(), [0.9, 0.8, 0.7])
    chosen = take(found, np.array([2, 0]))
    assert chosen.scores.tolist() == pytest.approx([0.7, 0.9])
    all_masks = encode_runs(found.masks, 3, found.shape)
    assert encode_runs(chosen.masks, 2, found.shape) == [all_masks[2], all_masks[0]]
    both = concatenated([chosen, found])
    assert encode_runs(both.masks, 5, found.shape) == [all_masks[2], all_masks[0], *all_masks]


def test_one_tile_is_the_image_best_first():
    found = objects(labelled(), [0.7, 0.9, 0.8])
    rows, columns = Spans.of([0], 32, 20), Spans.of([0], 32, 30)
    piece = owned_by(found, rows, columns, (0, 0), (20, 30))
    whole = put_together([piece], rows, columns, 0.5)
    assert whole.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert whole.categories.tolist() == [1, 2, 0]


@pytest.mark.parametrize("size", [(20, 30), (40, 60), (10, 15), (27, 31)])
def test_boxes_and_masks_at_another_size(size):
    found = objects(labelled(), [0.9, 0.8, 0.7])
    result = scaled(found, size)
    expected = runs_of_labels(resize_labels(labelled(), size))[1]
    assert encode_runs(result.masks, 3, size) == encode_runs(expected, 3, size)
    x, y = size[1] / 30, size[0] / 20
    np.testing.assert_allclose(result.boxes[0], [3 * x, 2 * y, 11 * x, 9 * y], rtol=1e-6)
    assert result.shape == size
