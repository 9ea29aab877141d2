"""Following flows: every cell pixel walks along the flow until it comes to rest near the centre of its cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cellkit.ops.runs import Indices

Floats = NDArray[np.float32]
Places = NDArray[np.complex64]  # real part x, imaginary part y: one number to move, select and copy

BLOCK = 4  # steps between two looks for particles that have met or come to rest
BINS = 4  # particles in the same 1/4 x 1/4 pixel have met: they go on as one
REST = 1 / 256  # pixels per two steps; slower ones move less than half a pixel in the steps that are left
HERD = 1 << 14  # particles that start together: what is computed of them stays in the cache
EARLY = 24  # steps that a herd goes alone; by then few are left of it, and the herds are joined
BILINEAR = (0, 1, True)  # between pixels, the edge beyond the image, -1 and 1 are centres of pixels
CHUNK = 1 << 13  # places interpolated at once: few enough that torch starts no threads, which cost more than they give


def follow(flow: Floats, pixels: NDArray[np.integer[Any]], steps: int) -> Floats:
    """Where pixels come to by Euler steps along a flow, interpolated bilinearly and clamped to the image.

    Particles that have met are followed once, and those that rest, or swing between two places, no more: after as many
    steps as a cell's radius few are left. The ends are those of plain following up to a fraction of a pixel.

    Args:
        flow: (2, H, W) step in pixels, 0 = y, 1 = x; finite, zero outside the cells.
        pixels: (N,) flat indices of the pixels that start.
        steps: number of steps.

    Returns:
        (2, N) float32 final positions, 0 = y, 1 = x.
    """
    walk = _Walk(flow, pixels, steps)
    everyone = np.arange(len(pixels))
    herds = [walk.go(everyone[begin : begin + HERD], 0, min(EARLY, steps)) for begin in range(0, len(pixels), HERD)]
    walk.go(np.concatenate([everyone[:0], *herds]), min(EARLY, steps), steps)
    return walk.ends()


class _Walk:
    """Particles on their way along a flow (2, H, W)."""

    def __init__(self, flow: Floats, pixels: NDArray[np.integer[Any]], steps: int) -> None:
        height, width = flow.shape[1:]
        self.image = torch.from_numpy(flow)[None]
        self.steps = steps
        self.row = BINS * width
        last = np.array([width - 1, height - 1], np.float32)
        # both for a whole chunk of places, flat: NumPy is several times slower on an inner axis of two
        self.last = np.tile(last, CHUNK)
        self.scale = np.tile(2 / np.maximum(last, 1), CHUNK)
        self.places = np.empty(len(pixels), np.complex64)
        self.places.imag, self.places.real = np.divmod(pixels.astype(np.int32), np.int32(width))  # fewer bytes, faster
        self.met: list[tuple[Indices, Indices]] = []

    def ends(self) -> Floats:
        """(2, N) final positions, 0 = y, 1 = x: those of particles that were met are those of who met them."""
        for gone, goes_on in reversed(self.met):
            self.places[gone] = self.places[goes_on]
        return np.stack([self.places.imag, self.places.real])

    def go(self, numbers: Indices, done: int, until: int) -> Indices:
        """Let particles (n,) go on from step ``done``; those that still move at step ``until``."""
        places = self.places[numbers]
        while done < until and len(places):
            block = min(BLOCK, until - done)
            before, last, places = self.walked(places, block)
            done += block
            if done == self.steps:
                break
            rests = _rests(before, places)
            # what swings between two places is in the other one after an odd number of steps
            self.places[numbers[rests]] = (last if (self.steps - done) % 2 else places)[rests]
            alone, gone, goes_on = self.meetings(places)
            self.met.append((numbers[gone], numbers[goes_on]))
            moving = np.flatnonzero(alone & ~rests)
            places, numbers = places[moving], numbers[moving]
        self.places[numbers] = places
        return numbers

    def walked(self, places: Places, steps: int) -> tuple[Places, Places, Places]:
        """Places (n,) two steps before the end, one before, and at the end of so many steps."""
        trail = np.empty((3, len(places)), np.complex64)
        trail[:] = places
        for begin in range(0, len(places), CHUNK):
            part = trail[:, begin : begin + CHUNK]
            self.walk(part, steps)
        return trail[0], trail[1], trail[2]

    def walk(self, trail: NDArray[np.complex64], steps: int) -> None:
        """So many steps of up to :data:`CHUNK` places in ``trail[2]``; the two before go to ``trail[0]`` and ``[1]``.

        Args:
            trail: (3, n), all three the same at first.
            steps: of Euler.
        """
        places = trail[2]
        flat = places.view(np.float32)
        scale, last = self.scale[: flat.size], self.last[: flat.size]
        grid = np.empty_like(flat)
        points = torch.from_numpy(grid).view(1, 1, -1, 2)
        for step in range(steps):
            if step >= steps - 2:
                trail[step - steps + 2] = places
            np.multiply(flat, scale, out=grid)  # grid_sample counts from -1 to 1
            np.subtract(grid, 1, out=grid)
            flow = torch.grid_sampler(self.image, points, *BILINEAR).numpy()
            places.imag += flow[0, 0, 0]
            places.real += flow[0, 1, 0]
            np.maximum(flat, 0, out=flat)
            np.minimum(flat, last, out=flat)

    def meetings(self, places: Places) -> tuple[NDArray[np.bool_], Indices, Indices]:
        """Who is alone or first in a bin (n,), and who has met (m,) whom (m,).

        A table with more slots than particles holds one particle per slot: cheaper than sorting, and where two bins
        share a slot a meeting is merely seen a block later.
        """
        bins = (places.view(np.float32) * np.float32(BINS)).astype(np.int32).view(np.int64)  # two in one number
        slots = 2 << len(bins).bit_length()
        slot = (bins + (bins >> 32) * self.row) & (slots - 1)
        own = np.arange(len(bins))
        table = np.empty(slots, np.int64)
        table[slot] = own
        holder = table[slot]
        alone = (holder == own) | (bins[holder] != bins)
        gone = np.flatnonzero(~alone)
        return alone, gone, holder[gone]


def _rests(before: Places, after: Places) -> NDArray[np.bool_]:
    """Whether particles (n,) are where they were two steps before."""
    still = np.abs((after - before).view(np.float32)) <= REST
    both: NDArray[np.bool_] = still.view(np.uint16) == np.array([True, True]).view(np.uint16)
    return both
