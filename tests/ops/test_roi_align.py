"""RoIAlign: the sums of loops over samples, exact gradients, and levels by the size of boxes."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest
import torch

from cellkit.ops import roi_align as room
from cellkit.ops import roi_align_windows
from cellkit.ops.roi_align import joined, levels_of, pool_levels, roi_align

SCALE = 0.25
BOXES = [  # in pixels of the image; the map of 9 x 11 pixels spans 36 x 44
    [4.0, 4.0, 20.0, 24.0],
    [1.3, 2.9, 3.1, 4.2],  # smaller than a pixel of the map
    [0.0, 0.0, 44.0, 36.0],  # all of it
    [-9.7, -6.1, 13.2, 8.8],  # partly outside
    [30.5, 20.1, 70.3, 61.0],
    [-80.0, -90.0, -40.0, -50.0],  # outside
    [60.0, 50.0, 99.0, 70.0],
    [-100.0, -80.0, 140.0, 120.0],  # far larger than the map
    [7.0, 7.0, 7.0, 7.0],  # empty
    [5.0, 8.0, 21.0, 8.0],
    [12.0, 3.0, 41.5, 5.5],  # wide
    [20.0, 1.0, 22.0, 35.0],  # tall
    [-4.0, -4.0, 0.0, 0.0],  # beside the corner
]


def sampled(image, y, x):
    """Bilinear value (C,) at a place where 0 is the centre of the first pixel."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(image))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    low, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, along = y - top, x - left
    upper = image[:, top, left] * (1 - along) + image[:, top, right] * along
    lower = image[:, low, left] * (1 - along) + image[:, low, right] * along
    return upper * (1 - down) + lower * down


def literal(features, boxes, images, size, scale, samples):
    """Box by box, bin by bin, sample by sample, in float64."""
    bins = np.zeros((len(boxes), features.shape[1], *size))
    for n, (x0, y0, x1, y1) in enumerate(np.asarray(boxes, float) * scale - 0.5):
        high, wide = (y1 - y0) / size[0], (x1 - x0) / size[1]
        rows, columns = samples or max(math.ceil(high), 0), samples or max(math.ceil(wide), 0)
        for i, k in np.ndindex(*size):
            for a, b in np.ndindex(rows, columns):
                y = y0 + (i + (a + 0.5) / rows) * high
                x = x0 + (k + (b + 0.5) / columns) * wide
                bins[n, :, i, k] += sampled(features[images[n]], y, x) / (rows * columns)
    return bins


def maps(batch=2, channels=3, height=9, width=11, seed=0):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed)).double()


def scene():
    boxes = torch.tensor(BOXES, dtype=torch.float64)
    return maps(), boxes, torch.arange(len(boxes)) % 2


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("samples", [0, 1, 2, 3])
def test_bins_are_those_of_loops(samples, size):
    features, boxes, images = scene()
    pooled = roi_align(features, boxes, images, size, scale=SCALE, samples=samples)
    expected = literal(features.numpy(), boxes, images, size, SCALE, samples)
    np.testing.assert_allclose(pooled.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(3, 4)])
@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (2, 2)])
def test_maps_of_few_pixels(shape, samples, size):
    features = maps(height=shape[0], width=shape[1])
    _, boxes, images = scene()
    pooled = roi_align(features, boxes, images, size, scale=0.0625, samples=samples)
    np.testing.assert_allclose(pooled, literal(features.numpy(), boxes, images, size, 0.0625, samples), atol=1e-12)


def test_pixel_centres_lie_at_halves():
    """A box on whole pixels with a sample in each of them has the values of the pixels."""
    features = maps(batch=1)
    pooled = roi_align(features, torch.tensor([[8.0, 4.0, 28.0, 16.0]]), torch.tensor([0]), (3, 5), scale=SCALE)
    torch.testing.assert_close(pooled, features[:, :, 1:4, 2:7])


def test_a_size_that_is_one_number_is_that_of_both_sides():
    features, boxes, images = scene()
    assert torch.equal(
        roi_align(features, boxes, images, 2, scale=SCALE), roi_align(features, boxes, images, (2, 2), scale=SCALE)
    )


@pytest.mark.parametrize("taps", [1, 500, 4000])
def test_memory_is_bounded_and_parts_change_nothing(monkeypatch, taps):
    features, boxes, images = scene()
    features.requires_grad_()
    whole = roi_align(features, boxes, images, 3, scale=SCALE)
    (gradient,) = torch.autograd.grad(whole.square().sum(), features)
    monkeypatch.setattr(roi_align_windows, "TAPS", taps)
    parts = roi_align(features, boxes, images, 3, scale=SCALE)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(parts.square().sum(), features)[0], gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("samples", [0, 2])
def test_the_gradient_is_exact(samples):
    _, boxes, images = scene()
    features = maps(channels=1, height=5, width=6).requires_grad_()
    keep = [0, 1, 3, 5, 8, 10]
    assert torch.autograd.gradcheck(
        lambda x: roi_align(x, boxes[keep] * 0.5, images[keep], 2, scale=SCALE, samples=samples), [features]
    )


def test_the_gradient_is_the_transpose_of_the_literal_sums():
    """Of what is linear in the features: a loss that weighs the bins pulls at a pixel as that pixel adds to it."""
    _, boxes, images = scene()
    features = maps(channels=1, height=4, width=5).requires_grad_()
    weights = torch.randn(len(boxes), 1, 2, 2, generator=torch.Generator().manual_seed(2)).double()
    (roi_align(features, boxes, images, 2, scale=0.125) * weights).sum().backward()
    expected = np.zeros(features.shape)
    for place in np.ndindex(*features.shape):
        single = np.zeros(features.shape)
        single[place] = 1
        expected[place] = (literal(single, boxes, images, (2, 2), 0.125, 0) * weights.numpy()).sum()
    np.testing.assert_allclose(features.grad, expected, atol=1e-12)


def test_a_slice_of_a_gradient_and_any_layout_are_as_good():
    features, boxes, images = scene()
    packed = features.contiguous(memory_format=torch.channels_last).requires_grad_()
    plain = features.clone().requires_grad_()
    for some in (packed, plain):
        roi_align(some, boxes, images, 3, scale=SCALE)[::2, 1:, 1].sum().backward()
    assert torch.equal(packed.grad, plain.grad)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(half):
    features, boxes, images = scene()
    small = features.to(half).requires_grad_()
    pooled = roi_align(small, boxes.float(), images, 3, scale=SCALE)
    exact = small.detach().float().requires_grad_()
    expected = roi_align(exact, boxes.float(), images, 3, scale=SCALE)
    assert pooled.dtype == half
    assert torch.equal(pooled, expected.to(half))  # rounded once
    weights = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(4)).to(half)
    pooled.backward(weights)
    expected.backward(weights.float())
    assert small.grad.dtype == half
    assert torch.equal(small.grad, exact.grad.to(half))


def test_single_precision_is_near_the_loops():
    features, boxes, images = scene()
    pooled = roi_align(features.float(), boxes.float(), images, 3, scale=SCALE)
    assert pooled.dtype == torch.float32
    np.testing.assert_allclose(pooled, literal(features.numpy(), boxes, images, (3, 3), SCALE, 0), atol=1e-4)


def test_many_boxes_of_all_sizes():
    random = np.random.default_rng(8)
    start = random.uniform(-10, 60, (150, 2))
    boxes = torch.tensor(np.concatenate([start, start + np.exp(random.uniform(0, 4, (150, 2)))], 1))
    features, images = maps(batch=3, channels=2, height=12, width=14), torch.tensor(random.integers(0, 3, 150))
    pooled = roi_align(features, boxes, images, 2, scale=SCALE)
    np.testing.assert_allclose(pooled, literal(features.numpy(), boxes, images, (2, 2), SCALE, 0), atol=1e-12)


def test_no_boxes():
    features = maps().requires_grad_()
    pooled = roi_align(features, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 7, scale=SCALE)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert not features.grad.any()


def test_what_is_no_box_is_refused():
    with pytest.raises(ValueError, match="boxes must be finite"):
        roi_align(maps(), torch.full((1, 4), math.inf), torch.zeros(1, dtype=torch.int64), 2, scale=1.0)
    with pytest.raises(ValueError, match=r"boxes must be \(N, 4\)"):
        pool_levels([maps()], [torch.zeros(1, 5)], 2)


@pytest.mark.parametrize(
    ("side", "level"), [(0, 2), (3, 2), (111.9, 2), (112, 3), (223.9, 3), (224, 4), (447.9, 4), (448, 5), (3000, 5)]
)
def test_level_of_a_box(side, level):
    assert levels_of(torch.tensor([[10.0, 20.0, 10 + side, 20 + side]]), 2, 5).tolist() == [level]


def test_the_level_goes_by_the_area():
    assert levels_of(torch.tensor([[0.0, 0.0, 448.0, 112.0], [0.0, 0.0, 56.0, 895.0]]), 2, 5).tolist() == [4, 3]


def pyramid(images=2):
    return [maps(batch=images, channels=2, height=64 >> i, width=96 >> i, seed=i) for i in range(4)]


def image_boxes():
    first = torch.tensor([[3.0, 5.0, 30.0, 44.0], [0.0, 0.0, 300.0, 250.0], [9.0, 9.0, 150.0, 160.0]])
    return [first.double(), torch.tensor([[0.0, 0.0, 384.0, 900.0], [11.0, 2.0, 13.0, 50.0]]).double()]


@pytest.mark.parametrize("samples", [0, 2])
def test_each_box_is_pooled_from_its_level_and_image(samples):
    features, boxes = pyramid(), image_boxes()
    pooled = pool_levels(features, boxes, 3, samples=samples)
    levels = [[2, 4, 3], [5, 2]]
    expected = [
        literal(features[level - 2].numpy(), box[None], [image], (3, 3), 0.5**level, samples)[0]
        for image in range(2)
        for box, level in zip(boxes[image].numpy(), levels[image], strict=True)
    ]
    np.testing.assert_allclose(pooled, np.array(expected), atol=1e-12)


def test_another_finest_level_and_a_pyramid_of_one():
    features, boxes = pyramid()[1:2], image_boxes()
    together, images = joined(boxes)
    assert torch.equal(
        pool_levels(features, boxes, 3, finest=3), roi_align(features[0], together, images, 3, scale=0.125)
    )


def test_every_level_takes_part_in_the_gradient():
    features = [level.requires_grad_() for level in pyramid()]
    pool_levels(
        features, [torch.tensor([[0.0, 0.0, 20.0, 20.0]]).double(), torch.zeros(0, 4).double()], 3
    ).sum().backward()
    assert [bool(level.grad.any()) for level in features] == [True, False, False, False]


def test_images_without_boxes():
    pooled = pool_levels(pyramid(), [torch.zeros(0, 4), torch.zeros(0, 4)], 3)
    assert pooled.shape == (0, 2, 3, 3)
    together, images = joined([torch.zeros(2, 4), torch.zeros(0, 4), torch.ones(1, 4)])
    assert (together.shape, images.tolist()) == ((3, 4), [0, 0, 2])


def test_the_kernel_of_torchvision_is_used(monkeypatch):
    calls = []

    def kernel(features, rois, size, *, spatial_scale, sampling_ratio, aligned):
        calls.append((features.dtype, rois.dtype, rois.shape[1], aligned))
        images = rois[:, 0].long()
        bins = literal(features.numpy(), rois[:, 1:], images, size, spatial_scale, sampling_ratio)
        return torch.tensor(bins, dtype=features.dtype)

    features, boxes, images = scene()
    ours = roi_align(features, boxes, images, (2, 3), scale=SCALE)
    levels = pool_levels(pyramid(), image_boxes(), 2)
    monkeypatch.setattr(room, "kernels", lambda: types.SimpleNamespace(roi_align=kernel))
    torch.testing.assert_close(roi_align(features, boxes, images, (2, 3), scale=SCALE), ours)
    torch.testing.assert_close(pool_levels(pyramid(), image_boxes(), 2), levels)
    half = roi_align(features.bfloat16(), boxes.float(), images, 2, scale=SCALE)
    assert half.dtype == torch.bfloat16
    assert calls[0] == (torch.float64, torch.float64, 5, True)
    assert calls[-1] == (torch.float32, torch.float32, 5, True)
