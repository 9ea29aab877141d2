"""Tiled inference: any size, tiled = whole, in order, within memory."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cellkit.engine import Device, MemoryLadder, Tiling, infer, inference, memory, open_device
from cellkit.errors import MemoryLimitError, UsageError

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


class Output(NamedTuple):
    maps: Tensor
    style: Tensor


class LocalNetwork(nn.Module):
    """Sees 12 pixels around each one, on a grid of stride 4; remembers the shapes it was given."""

    def __init__(self, capacity: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fine = nn.Conv2d(2, 3, 5, padding=2)
        self.coarse = nn.Conv2d(2, 3, 3, padding=1)
        self.capacity = capacity  # pixels that fit into memory at once
        self.shapes: list[tuple[int, int, int]] = []

    def forward(self, x):
        batch, _, height, width = x.shape
        if self.capacity is not None and batch * height * width > self.capacity:
            raise torch.OutOfMemoryError(f"CUDA out of memory with {tuple(x.shape)}")
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.shapes.append((batch, height, width))
        coarse = self.coarse(nn.functional.avg_pool2d(x, 4))
        return Output(self.fine(x) + nn.functional.interpolate(coarse, scale_factor=4), x.mean((2, 3)))


class Accelerator(Device):
    """The CPU that behaves as a GPU does: batches across images."""

    @property
    def is_cpu(self):
        return False


@pytest.fixture
def accelerator():
    return Accelerator(torch.device("cpu"), "fp32")


def image(height, width, seed=0):
    return np.random.default_rng(seed).random((2, height, width), dtype=np.float32)


def maps_of(network, pixels, device, tiling, **options):
    ((tag, maps),) = infer(network, [("a", pixels)], device, tiling, **options)
    assert tag == "a"
    return maps


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (8, 8), (33, 70), (200, 48)])
def test_any_size_comes_back_in_its_size(cpu, shape):
    maps = maps_of(LocalNetwork(), image(*shape), cpu, Tiling())
    assert maps.shape == (3, *shape)
    assert maps.dtype == np.float16
    assert np.isfinite(maps).all()


@pytest.mark.parametrize("shape", [(200, 264), (203, 90), (64, 333)])
@pytest.mark.parametrize("tile", [80, 120, 150])
def test_tiled_is_whole(cpu, shape, tile):
    pixels = image(*shape)
    whole = maps_of(LocalNetwork(), pixels, cpu, Tiling(overlap=56))
    network = LocalNetwork()
    tiled = maps_of(network, pixels, cpu, Tiling(tile=tile, overlap=56))
    assert len(network.shapes) > 1
    assert len(set(network.shapes)) == 1  # tiles of one size
    np.testing.assert_allclose(tiled.astype(float), whole, atol=1e-3)


def test_a_single_pass_is_the_network_itself(cpu):
    pixels, network = image(64, 80), LocalNetwork().eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels)[None]).maps[0].numpy()
    np.testing.assert_allclose(maps_of(network, pixels, cpu, Tiling()), expected, atol=1e-3)


def test_blending_is_smooth_where_tiles_disagree(cpu):
    class Brightness(nn.Module):
        """Every tile gets its own constant."""

        def forward(self, x):
            return x[:, :1] * 0 + x.mean((1, 2, 3), keepdim=True)

    ramp = np.tile(np.linspace(0, 10, 256, dtype=np.float32), (1, 64, 1))
    maps = maps_of(Brightness(), ramp, cpu, Tiling(tile=96, overlap=64)).astype(float)
    assert np.ptp(maps) > 4
    assert np.abs(np.diff(maps, axis=2)).max() < 0.1


def test_images_may_come_as_functions_and_networks_give_plain_tensors(cpu):
    asked = []

    def pixels():
        asked.append(True)
        return image(16, 16)

    results = infer(nn.Conv2d(2, 1, 1), [("a", pixels)], cpu, Tiling())
    assert not asked
    assert next(results)[1].shape == (1, 16, 16)


def test_a_cpu_gives_each_image_before_it_takes_the_next(cpu):
    taken = []

    def images():
        for i in range(3):
            taken.append(i)
            yield i, image(16, 16)

    results = infer(LocalNetwork(), images(), cpu, Tiling())
    assert next(results)[0] == 0
    assert taken == [0]


def test_batches_mix_images_and_results_keep_their_order(accelerator, cpu):
    shapes = [(64, 64), (200, 64), (64, 64), (40, 72), (64, 64), (200, 64)]
    images = [(i, image(*shape, seed=i)) for i, shape in enumerate(shapes)]
    tiling = Tiling(tile=72, overlap=40, batch=3)
    network = LocalNetwork()
    results = list(infer(network, images, accelerator, tiling))
    assert [tag for tag, _ in results] == list(range(6))
    assert (3, 64, 64) in network.shapes
    for (_, maps), (_, pixels) in zip(results, images, strict=True):
        np.testing.assert_allclose(maps, maps_of(LocalNetwork(), pixels, cpu, tiling), atol=1e-3)


def test_images_in_flight_are_bounded(accelerator, monkeypatch):
    monkeypatch.setattr(inference, "BATCHES_IN_FLIGHT", 2)
    taken = []

    def images():
        for i in range(20):
            taken.append(i)
            yield i, image(64, 64)

    next(infer(LocalNetwork(), images(), accelerator, Tiling(tile=64, batch=2, overlap=8)))
    assert len(taken) == 5  # four fit, the fifth makes the first go


def test_a_long_image_is_cut_on_a_cpu(cpu, monkeypatch):
    monkeypatch.setattr(inference, "WHOLE_PIXELS", 64 * 64)
    monkeypatch.setattr(inference, "CPU_TILE", 64)
    network = LocalNetwork()
    maps_of(network, image(64, 64), cpu, Tiling(overlap=16))
    maps_of(network, image(64, 128), cpu, Tiling(overlap=16))
    assert network.shapes[0] == (1, 64, 64)
    assert network.shapes[1:] == [(1, 64, 56)] * 3


def test_an_automatic_tile_leaves_room_for_a_large_overlap(cpu, monkeypatch):
    monkeypatch.setattr(inference, "WHOLE_PIXELS", 0)
    monkeypatch.setattr(inference, "CPU_TILE", 64)
    network = LocalNetwork()
    maps_of(network, image(64, 400), cpu, Tiling(overlap=96))
    assert max(width for _, _, width in network.shapes) <= 192


def test_a_tile_within_its_overlap_is_refused(cpu):
    with pytest.raises(UsageError) as caught:
        next(infer(LocalNetwork(), [("a", image(16, 16))], cpu, Tiling(tile=64, overlap=60)))
    assert str(caught.value) == (
        "tile: 64 pixels leave no room beside an overlap of 64 (use a tile of 72 or more, or a smaller overlap)"
    )


def test_out_of_memory_halves_batches_then_tiles_and_remembers(accelerator, cpu, caplog):
    images = [(i, image(200, 200, seed=i)) for i in range(2)]
    network, ladder = LocalNetwork(capacity=100 * 100), MemoryLadder()
    tiling = Tiling(overlap=56, batch=2)
    with caplog.at_level(logging.WARNING):
        results = list(infer(network, images, accelerator, tiling, ladder=ladder))
    assert caplog.messages == [
        "cpu: out of memory with 2 tiles at once, trying 1",
        "cpu: out of memory with a tile of 200 pixels, trying 100",
        "cpu: out of memory with 2 tiles at once, trying 1",
    ]
    for (_, maps), (_, pixels) in zip(results, images, strict=True):
        whole = maps_of(LocalNetwork(), pixels, cpu, Tiling(overlap=56))
        np.testing.assert_allclose(maps.astype(float), whole, atol=1e-3)
    caplog.clear()
    list(infer(network, images, accelerator, tiling, ladder=ladder))
    assert caplog.messages == []


def test_a_failed_allocation_of_the_cpu_counts_too(cpu):
    class Big(LocalNetwork):
        def forward(self, x):
            if x.shape[2] * x.shape[3] > 100 * 100:
                torch.empty(2**50)
            return super().forward(x)

    network = Big()
    pixels = image(128, 160)
    maps = maps_of(network, pixels, cpu, Tiling(overlap=16))
    assert {shape[1:] for shape in network.shapes} == {(72, 64)}
    assert maps.shape == (3, 128, 160)


def test_the_cpu_takes_over_on_request_and_stays(accelerator, cpu, monkeypatch, caplog):
    network, opened = LocalNetwork(capacity=0), []

    def open_cpu(name, precision, threads):
        opened.append(name)
        network.capacity = None
        return cpu

    monkeypatch.setattr(memory, "open_device", open_cpu)
    images = [(i, image(64, 64, seed=i)) for i in range(3)]
    ladder, tiling = MemoryLadder(), Tiling(overlap=16, oom_fallback="cpu")
    with caplog.at_level(logging.WARNING):
        results = list(infer(network, images, accelerator, tiling, ladder=ladder))
    assert [tag for tag, _ in results] == [0, 1, 2]
    assert ladder.device is cpu
    assert caplog.messages[-1] == "cpu: out of memory with a tile of 64 pixels, going on with the CPU"
    list(infer(network, images, accelerator, tiling, ladder=ladder))
    assert opened == ["cpu"]


def test_after_every_rung_the_error_says_so(accelerator):
    with pytest.raises(MemoryLimitError) as caught:
        maps_of(LocalNetwork(capacity=0), image(128, 128), accelerator, Tiling(overlap=16))
    assert str(caught.value).startswith("cpu: not even one tile of 56 pixels fits into its memory")


def test_other_errors_pass(cpu):
    with pytest.raises(RuntimeError, match="expected input"):
        maps_of(LocalNetwork(), image(16, 16)[:1], cpu, Tiling())


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_gpu_agrees_with_the_cpu(cpu, precision):
    images = [(i, image(96 + 8 * (i % 3), 300, seed=i)) for i in range(12)]
    tiling = Tiling(tile=128, overlap=56)
    ours = list(infer(LocalNetwork(), images, open_device("cuda", precision), tiling))
    for (tag, maps), (expected_tag, expected) in zip(ours, infer(LocalNetwork(), images, cpu, tiling), strict=True):
        assert tag == expected_tag
        np.testing.assert_allclose(maps.astype(float), expected, atol=0.03)
