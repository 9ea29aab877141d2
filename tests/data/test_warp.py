import math

import numpy as np
import pytest
import torch

from cellkit.data.warp import Affine, warp

VECTORS = ((0, 1),)


def ellipses():
    """Labels (80, 80): three separate ellipses of different direction."""
    y, x = np.mgrid[:80, :80].astype(float)
    labels = np.zeros((80, 80), np.int32)
    for label, (cy, cx, angle) in enumerate([(22, 24, 0.3), (52, 56, 1.2), (58, 20, 2.2)], 1):
        down = (y - cy) * math.cos(angle) + (x - cx) * math.sin(angle)
        right = (x - cx) * math.cos(angle) - (y - cy) * math.sin(angle)
        labels[(down / 14) ** 2 + (right / 8) ** 2 <= 1] = label
    return labels


def radial(labels):
    """Fields (3, H, W): unit vectors (y, x) from the centre of each cell outwards, and the mask."""
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]].astype(np.float32)
    fields = np.zeros((3, *labels.shape), np.float32)
    for label in np.unique(labels[labels > 0]):
        inside = labels == label
        down, right = y - y[inside].mean(), x - x[inside].mean()
        length = np.hypot(down, right) + 1e-9
        fields[0][inside], fields[1][inside] = (down / length)[inside], (right / length)[inside]
    fields[2] = labels > 0
    return fields


def affine(angle=0.0, zoom=1.0, mirror=1.0, centre=(39.5, 39.5), crop=80):
    c, s = math.cos(angle) / zoom, math.sin(angle) / zoom
    return Affine(matrix=(c, -s * mirror, s, c * mirror), centre=centre, crop=crop)


def cut(image, fields, where, vectors=VECTORS):
    return warp(torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(fields), vectors, where)


@pytest.fixture
def picture():
    return np.random.default_rng(0).random((2, 80, 80), dtype=np.float32)


def test_identity_copies(picture):
    fields = radial(ellipses())
    image, warped = cut(picture, fields, affine())
    np.testing.assert_allclose(image, picture, atol=1e-4)
    np.testing.assert_allclose(warped, fields, atol=1e-3)


def test_crop_copies_its_part(picture):
    image, warped = cut(picture, radial(ellipses()), affine(centre=(29.5, 34.5), crop=20))
    np.testing.assert_allclose(image, picture[:, 20:40, 25:45], atol=1e-4)
    np.testing.assert_array_equal(warped[2], (ellipses() > 0)[20:40, 25:45])


def test_flip_mirrors_image_and_vectors(picture):
    fields = radial(ellipses())
    image, warped = cut(picture, fields, affine(mirror=-1.0))
    np.testing.assert_allclose(image, picture[..., ::-1], atol=1e-4)
    expected = fields[..., ::-1] * np.float32([1, -1, 1])[:, None, None]
    np.testing.assert_allclose(warped, expected, atol=1e-3)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_exact(picture, quarters):
    labels = ellipses()
    image, warped = cut(picture, radial(labels), affine(angle=quarters * math.pi / 2))
    turned = next(k for k in (1, 2, 3) if np.allclose(image, np.rot90(picture, k, (1, 2)), atol=1e-4))
    assert turned in (quarters, 4 - quarters)
    np.testing.assert_allclose(warped, radial(np.rot90(labels, turned)), atol=2e-3)


@pytest.mark.parametrize("angle", [0.4, 2.5])
@pytest.mark.parametrize("mirror", [1.0, -1.0])
@pytest.mark.parametrize("zoom", [0.8, 1.0, 1.7])
def test_warped_targets_are_the_targets_of_the_warped_labels(angle, mirror, zoom):
    labels = np.pad(ellipses(), 60)  # so far from the border that no mirrored copy comes into sight
    where = affine(angle, zoom, mirror, centre=(99.5, 99.5), crop=150)
    blank = np.zeros((1, 200, 200), np.float32)
    warped_labels = cut(blank, labels[None].astype(np.float32), where, vectors=())[1][0].numpy().astype(np.int32)
    warped, expected = cut(blank, radial(labels), where)[1].numpy(), radial(warped_labels)
    np.testing.assert_array_equal(warped[2], expected[2])
    cosine = (warped[:2] * expected[:2]).sum(0)[warped_labels > 0]
    assert np.quantile(cosine, 0.02) > 0.97


def test_vectors_have_unit_length_in_cells_and_none_outside():
    warped = cut(np.zeros((1, 80, 80), np.float32), radial(ellipses()), affine(0.7, 1.3))[1].numpy()
    length = np.hypot(warped[0], warped[1])
    centres = length == 0  # of the cells: there the source has no direction either
    assert np.count_nonzero(centres & (warped[2] > 0)) < 10
    np.testing.assert_allclose(length[(warped[2] > 0) & ~centres], 1, atol=1e-3)
    assert not length[warped[2] == 0].any()


def test_eight_bit_fields_give_nearly_the_same():
    fields = radial(ellipses())
    blank = np.zeros((1, 80, 80), np.float32)
    compact = np.rint(fields * np.float32([127, 127, 1])[:, None, None]).astype(np.int8)
    np.testing.assert_allclose(cut(blank, compact, affine(0.5))[1], cut(blank, fields, affine(0.5))[1], atol=0.03)


def test_a_crop_larger_than_the_image_is_mirrored():
    rows = np.arange(6, dtype=np.float32)
    image = np.broadcast_to(rows[:, None], (1, 6, 9))
    fields = np.stack([np.ones((6, 9)), np.zeros((6, 9)), np.ones((6, 9))]).astype(np.float32)
    warped, turned = cut(image, fields, affine(centre=(2.5, 4.0), crop=22))
    expected = np.pad(rows, 8, mode="reflect")
    np.testing.assert_allclose(warped[0, :, 3], expected, atol=1e-4)
    # downwards vectors point upwards where the image is mirrored
    direction = np.sign(np.diff(np.pad(np.arange(6), 9, mode="reflect")))
    direction = np.where(np.isin(np.arange(22), range(8, 14)), 1, direction[1:])
    inner = [i for i in range(22) if expected[i] not in (0, 5)]  # on the mirror itself either is right
    np.testing.assert_allclose(turned[0, inner, 3].numpy(), direction[inner], atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (1, 30)])
def test_tiny_images(shape):
    image = np.full((1, *shape), 3, np.float32)
    warped, fields = cut(image, np.ones((3, *shape), np.float32), affine(0.3, 0.5, centre=(0.0, 0.0), crop=16))
    np.testing.assert_allclose(warped, 3)
    np.testing.assert_array_equal(fields[2], 1)


def test_shrinking_averages_instead_of_skipping():
    checks = np.indices((120, 120)).sum(0) % 2 * np.ones((1, 1, 1), np.float32)
    warped = cut(checks, np.zeros((0, 120, 120), np.float32), affine(0.2, 0.5, centre=(59.5, 59.5), crop=24), ())[0]
    np.testing.assert_allclose(warped, 0.5, atol=1e-4)


def test_shrinking_keeps_places():
    y = np.broadcast_to(np.arange(101, dtype=np.float32)[:, None], (1, 101, 101))
    warped = cut(y, np.zeros((0, 101, 101), np.float32), affine(0, 1 / 3, centre=(50.0, 50.0), crop=11), ())[0]
    np.testing.assert_allclose(warped[0, :, 5], 50 + 3 * (np.arange(11) - 5), atol=1e-3)


def test_only_the_window_is_read(picture):
    image = np.full((1, 80, 80), np.nan, np.float32)
    image[:, 28:52, 28:52] = 1
    warped = cut(image, np.zeros((0, 80, 80), np.float32), affine(0.0, crop=20), ())[0]
    np.testing.assert_allclose(warped, 1, atol=1e-5)


def test_affine_knows_what_it_shows():
    where = affine(math.pi / 4, 1.0, centre=(40.0, 40.0), crop=21)
    assert where.shows(np.float32([[40, 53]]))  # a corner points to the right
    assert not where.shows(np.float32([[50, 50]]))
    assert where.reach == pytest.approx((10 * math.sqrt(2),) * 2)
    assert affine(1.0, 0.25).shrinkage == pytest.approx(4)
