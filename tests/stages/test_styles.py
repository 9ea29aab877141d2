"""Styles of images in files: read, prepared and embedded in order."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from torch import nn

from cellkit.config import NetworkSpec, Preprocessing, RepresentationSpec
from cellkit.engine import Device
from cellkit.errors import InputError, ModelError, UsageError
from cellkit.io.checkpoints import Checkpoint
from cellkit.io.sources import find_sources
from cellkit.networks import build
from cellkit.stages import large_images
from cellkit.stages.model import Model
from cellkit.stages.outcomes import Failure
from cellkit.stages.styles import embed

SPEC = NetworkSpec(name="unet", channels=1, widths=(4, 8))


@pytest.fixture
def model():
    torch.manual_seed(0)
    checkpoint = Checkpoint(
        network=SPEC,
        representation=RepresentationSpec(),
        preprocessing=Preprocessing(channels=1, diameter=10.0, percentiles=(0.0, 100.0)),
        weights={},
    )
    network = build(SPEC).eval()
    return Model(name="tiny", digest="", checkpoint=checkpoint, network=network, device=Device(torch.device("cpu")))


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 48)).astype(np.uint8)
        pixels[0, :2] = 0, 255
        iio.imwrite(tmp_path / f"{i}.png", pixels)
    return tmp_path


def test_styles_come_in_the_order_of_the_images(model, folder):
    found = list(embed(find_sources([str(folder)]), model))
    assert [item.key for item in found] == ["0", "1", "2"]
    for item in found:
        pixels = torch.from_numpy(iio.imread(item.source).astype(np.float32) / 255)
        with torch.inference_mode():
            expected = model.network(pixels[None, None]).style[0].numpy()
        np.testing.assert_allclose(item.style, expected, atol=1e-5)


def test_the_diameter_scales_the_image(model, folder):
    sources = find_sources([str(folder)])[:1]
    (plain,), (same,), (half,) = (embed(sources, model, diameter=diameter) for diameter in (None, 10.0, 20.0))
    np.testing.assert_array_equal(plain.style, same.style)
    assert np.abs(plain.style - half.style).max() > 0.01


def test_an_image_that_cannot_be_read_costs_itself(model, folder):
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    found = list(embed(find_sources([str(folder)]), model))
    assert [isinstance(item, Failure) for item in found] == [False, True, False]
    assert found[1].key == "1"


def test_a_large_image_whose_end_cannot_be_read_costs_itself(model, folder, monkeypatch):
    def cut(self, outer):
        raise InputError(self.source, "is truncated", "copy it again")

    monkeypatch.setattr(large_images, "LARGE", 1)
    monkeypatch.setattr(large_images.LargePixels, "window", cut)
    found = list(embed(find_sources([str(folder)]), model))
    assert [str(item.error) for item in found] == [
        f"{folder / f'{i}.png'}: is truncated (copy it again)" for i in range(3)
    ]


def test_what_no_image_can_be_measured_with_stops_the_run(model, folder):
    sources = find_sources([str(folder)])
    with pytest.raises(UsageError, match=r"^--diameter: 1000 px is beyond"):
        list(embed(sources, model, diameter=1000.0))
    blind = Model(
        name="x.ckpt", digest="", checkpoint=model.checkpoint, network=nn.Conv2d(1, 1, 1), device=model.device
    )
    with pytest.raises(ModelError, match=r"^x\.ckpt: its network has no style vector"):
        list(embed(sources, blind))
