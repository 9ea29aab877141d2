"""Style vectors of pixels: the network's own, of images of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cellkit.config import NetworkSpec
from cellkit.engine import Device
from cellkit.errors import MemoryLimitError, ModelError
from cellkit.networks import build
from cellkit.stages import styles_vectors
from cellkit.stages.large_images import LargePixels
from cellkit.stages.styles_vectors import style_of, styled, unit

CPU = Device(torch.device("cpu"))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build(NetworkSpec(name="unet", channels=1, widths=(4, 8))).eval()


def noise(height, width):
    return np.random.default_rng(0).normal(size=(1, height, width)).astype(np.float32)


def whole_pass(network, pixels):
    with torch.inference_mode():
        return network(torch.from_numpy(pixels)[None]).style[0].numpy()


def test_the_style_is_that_of_a_whole_pass(network):
    pixels = noise(40, 56)
    found = style_of(network, pixels, CPU)
    assert (found.dtype, found.shape) == (np.float32, (8,))
    np.testing.assert_allclose(found, whole_pass(network, pixels), atol=1e-6)


@pytest.mark.parametrize("shape", [(37, 50), (3, 5), (1, 1)])
def test_beyond_the_lower_and_right_edge_an_image_is_mirrored(network, shape):
    height, width = (-(-length // 8) * 8 for length in shape)
    pixels = noise(*shape)
    mirrored = np.pad(pixels, ((0, 0), (0, height - shape[0]), (0, width - shape[1])), mode="reflect")
    np.testing.assert_allclose(style_of(network, pixels, CPU), whole_pass(network, mirrored), atol=1e-6)


def test_of_tiles_the_mean_is_taken(network, monkeypatch):
    monkeypatch.setattr(styles_vectors, "TILE", 32)
    pixels = noise(64, 32)
    mean = (whole_pass(network, pixels[:, :32]) + whole_pass(network, pixels[:, 32:])) / 2
    found = style_of(network, pixels, CPU)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)
    assert np.linalg.norm(found) == pytest.approx(1)


def test_a_large_image_is_read_by_windows_and_gives_the_same(network, monkeypatch):
    monkeypatch.setattr(styles_vectors, "TILE", 32)
    pixels = noise(70, 45)
    large = LargePixels(pixels=pixels, low=np.zeros(1), high=np.ones(1), shape=(70, 45), source="x")
    np.testing.assert_array_equal(style_of(network, large, CPU), style_of(network, pixels, CPU))


def test_a_tile_that_does_not_fit_into_memory_is_one_line(network, monkeypatch):
    def full(x):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")

    monkeypatch.setattr(network, "styles", full)
    with pytest.raises(MemoryLimitError, match=r"^cpu: a tile of 40 x 56 pixels does not fit into its memory \(free"):
        style_of(network, noise(40, 56), CPU)


def test_a_network_without_style_is_refused_by_the_name_of_its_model(network):
    assert styled(network, "x.ckpt") is network
    with pytest.raises(ModelError, match=r"^x\.ckpt: its network has no style vector \(choose a model whose network"):
        styled(nn.Conv2d(1, 1, 1), "x.ckpt")


def test_unit_vectors_and_those_without_direction():
    found = unit(np.array([[3.0, 4.0], [0.0, 0.0], [-1e-6, 0.0]]))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [-1, 0]])
