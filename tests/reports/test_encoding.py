"""Pictures in data: addresses."""

from __future__ import annotations

import base64
import io

import imageio.v3 as imageio
import numpy as np
import pytest

from cellkit.reports.encoding import MOST_PNG_BYTES, data_url


def decoded(url: str) -> np.ndarray:
    return imageio.imread(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_small_pictures_are_exact():
    picture = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    url = data_url(picture)
    assert url.startswith("data:image/png;base64,")
    assert np.array_equal(decoded(url), picture)


@pytest.mark.parametrize("lined", [True, False])
def test_noise_is_made_smaller(lined):
    picture = np.random.default_rng(0).integers(100, 160, (700, 700, 3), np.uint8)
    url = data_url(picture, lined=lined)
    assert url.startswith("data:image/jpeg;base64,")
    assert len(url) < MOST_PNG_BYTES
    assert decoded(url).shape == picture.shape
    assert abs(decoded(url).mean() - picture.mean()) < 2
