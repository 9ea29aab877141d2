"""Following: as plain Euler steps, whatever is left out."""

from __future__ import annotations

import numpy as np
import pytest

from cellkit.ops.diffusion import flows_from_labels
from cellkit.ops.following import follow


def literal_follow(flow: np.ndarray, pixels: np.ndarray, steps: int) -> np.ndarray:
    """Every particle for itself, in float64."""
    height, width = flow.shape[1:]
    y, x = (part.astype(float) for part in np.divmod(pixels, width))
    for _ in range(steps):
        top, left = y.astype(int), x.astype(int)
        below, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
        down, over = y - top, x - left
        upper = flow[:, top, left] * (1 - over) + flow[:, top, right] * over
        lower = flow[:, below, left] * (1 - over) + flow[:, below, right] * over
        step = upper * (1 - down) + lower * down
        y, x = np.clip(y + step[0], 0, height - 1), np.clip(x + step[1], 0, width - 1)
    return np.stack([y, x])


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 30, 31, 200])
def test_ends_are_those_of_plain_following(steps, crowded_field):
    flow, pixels = flows_from_labels(crowded_field), np.flatnonzero(crowded_field)
    distance = np.abs(follow(flow, pixels, steps) - literal_follow(flow, pixels, steps)).max(0)
    assert (distance > 0.5).mean() < 0.001
    if steps <= 3:  # nobody has met yet
        assert distance.max() < 1e-3


def test_noisy_flow_ends_as_plain_following(crowded_field):
    noise = np.random.default_rng(0).normal(0, 0.4, (2, 128, 128)).astype(np.float32)
    flow, pixels = (flows_from_labels(crowded_field) + noise) * (crowded_field > 0), np.flatnonzero(crowded_field)
    distance = np.abs(follow(flow, pixels, 200) - literal_follow(flow, pixels, 200)).max(0)
    assert (distance > 1).mean() < 0.01


def test_many_particles_go_in_herds_as_one():
    y, x = np.mgrid[:300, :200].astype(np.float32)
    flow = 0.1 * np.stack([150 - y, 100 - x])
    flow /= np.maximum(np.hypot(*flow), 1)
    ends = follow(flow, np.arange(60000), 400)
    assert np.abs(ends - np.array([[150], [100]])).max() < 0.5


def test_swinging_particles_end_where_an_even_number_of_steps_leads():
    flow = np.zeros((2, 3, 8), np.float32)
    flow[1, :, :4], flow[1, :, 4:] = 1, -1
    for steps in (100, 101):
        assert np.allclose(follow(flow, np.array([8]), steps), literal_follow(flow, np.array([8]), steps))


def test_no_particles():
    assert follow(np.zeros((2, 4, 4), np.float32), np.zeros(0, np.int64), 10).shape == (2, 0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1)])
def test_particles_stay_in_tiny_images(shape):
    flow = np.full((2, *shape), 0.7, np.float32)
    ends = follow(flow, np.arange(shape[0] * shape[1]), 20)
    assert np.array_equal(ends, np.repeat([[shape[0] - 1], [shape[1] - 1]], ends.shape[1], axis=1))
