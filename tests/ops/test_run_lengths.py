import numpy as np
import pytest
from pycocotools import mask as coco_masks

from cellkit.ops.run_lengths import counts_of, decode


@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (200, 300)])
def test_decoding_is_the_inverse_of_pycocotools(density, shape):
    mask = np.random.default_rng(int(100 * density)).random(shape) < density
    encoded = coco_masks.encode(np.asfortranarray(mask, np.uint8))
    np.testing.assert_array_equal(decode(encoded), mask)
    assert counts_of(encoded).sum() == mask.size


def test_long_runs_far_apart():
    mask = np.zeros((3000, 2000), bool)
    mask[:, 700:1500] = True
    mask[5, 3] = mask[2999, 1999] = True
    np.testing.assert_array_equal(decode(coco_masks.encode(np.asfortranarray(mask, np.uint8))), mask)
