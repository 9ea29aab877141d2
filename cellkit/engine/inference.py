"""Tiled inference: images of any size in, maps of the same size out, in order."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cellkit.engine.device import Device, prepare
from cellkit.engine.memory import Fallback, MemoryLadder, is_out_of_memory
from cellkit.engine.tiles import Axis, divide, rounded_up
from cellkit.errors import UsageError

Tag = TypeVar("Tag")
Pixels: TypeAlias = npt.NDArray[np.float32]
Maps: TypeAlias = npt.NDArray[np.float16]

WHOLE_PIXELS = 1024 * 1024  # up to here one pass over the whole image is fastest on a CPU, in 1.5 to 3 GB
CPU_TILE = 768  # beyond, tiles that need 1 to 2 GB of activations at 32 channels
GPU_TILE = 1024  # few tiles, little overlap
GPU_BATCH_PIXELS = 4 * 1024 * 1024  # of one batch: about 3 GB of activations at 32 channels in bf16
BATCHES_IN_FLIGHT = 4  # so that images of several sizes still fill their batches
RESIDENT_BYTES = 128 * 2**20  # images whose pixels take more stay in main memory, and so do their maps


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How images are cut.

    Attributes:
        tile: longest side of a tile in pixels, or None: what the device does fastest.
        overlap: pixels that neighbouring tiles share; at least two diameters of a cell.
        batch: tiles at once, or None: what the device does fastest.
        oom_fallback: where to go on when not even the smallest tile fits, or None: nowhere.
    """

    tile: int | None = None
    overlap: int = 64
    batch: int | None = None
    oom_fallback: Fallback | None = None


def infer(
    network: nn.Module,
    images: Iterable[tuple[Tag, Pixels | Callable[[], Pixels]]],
    device: Device,
    tiling: Tiling,
    *,
    stride: int = 8,
    ladder: MemoryLadder | None = None,
) -> Iterator[tuple[Tag, Maps]]:
    """Run a network over images, tile by tile; tiles of several images share batches on a GPU.

    Args:
        network: (B, C, H, W) to (B, outputs, H, W), or to a tuple with a field ``maps`` of that shape. It is moved
            to the device and put into evaluation mode.
        images: tag and (C, H, W) float32, normalised; or a function that gives it when its turn comes.
        device: where.
        tiling: how.
        stride: H and W must be multiples of it; images are padded by reflection.
        ladder: what was found to fit; give the same one to every call of a run.

    Yields:
        Tag and maps (outputs, H, W) float16, in the order of the images.

    Raises:
        UsageError: the tile leaves no room beside the overlap.
        MemoryLimitError: the smallest tile does not fit into memory.
    """
    runner: _Runner[Tag] = _Runner(network, device, tiling, stride, ladder or MemoryLadder())
    for tag, image in images:
        runner.add(_Job(tag, image() if callable(image) else image, stride))
        while runner.is_full():
            yield runner.finish_first()
    while runner.jobs:
        yield runner.finish_first()


class _Job(Generic[Tag]):
    """One image on its way."""

    def __init__(self, tag: Tag, image: Pixels, stride: int) -> None:
        self.tag = tag
        _, self.height, self.width = image.shape
        bottom, right = rounded_up(self.height, stride) - self.height, rounded_up(self.width, stride) - self.width
        padded = np.pad(image, ((0, 0), (0, bottom), (0, right)), mode="reflect") if bottom or right else image
        self.pixels = torch.from_numpy(np.ascontiguousarray(padded, np.float32))  # (C, h, w)

    @property
    def size(self) -> int:
        """Pixels after padding."""
        return self.pixels.shape[1] * self.pixels.shape[2]

    def begin(self, rows: Axis, columns: Axis, device: Device) -> None:
        """Forget what was done, and take a division into tiles."""
        is_resident = 4 * self.pixels.numel() <= RESIDENT_BYTES
        self.home = device.torch_device if is_resident else torch.device("cpu")
        self.pixels = _moved(self.pixels, self.home)
        self.rows, self.columns = rows, columns
        self.row_weights = [torch.from_numpy(w).to(self.home)[:, None] for w in rows.weights]
        self.column_weights = [torch.from_numpy(w).to(self.home) for w in columns.weights]
        self.sums: Tensor | None = None  # until the network tells how many channels its maps have
        self.left = len(rows.starts) * len(columns.starts)
        self.result: Tensor | None = None

    def window(self, row: int, column: int) -> tuple[slice, slice, slice]:
        """All channels of a tile."""
        y, x = self.rows.starts[row], self.columns.starts[column]
        return slice(None), slice(y, y + self.rows.size), slice(x, x + self.columns.size)

    @torch.inference_mode()
    def take(self, row: int, column: int, maps: Tensor) -> None:
        """Blend the maps (outputs, h, w) of a tile in; they are used up."""
        maps = maps.to(self.home)
        maps.mul_(self.row_weights[row]).mul_(self.column_weights[column])
        if self.sums is None:
            self.sums = maps.new_zeros((len(maps), *self.pixels.shape[1:]))
        self.sums[self.window(row, column)].add_(maps)
        self.left -= 1
        if self.left == 0:
            whole = self.sums[:, : self.height, : self.width].half()
            self.result = _fetched(whole)
            self.done = torch.cuda.Event() if whole.is_cuda else None  # type: ignore[no-untyped-call]
            if self.done is not None:
                self.done.record()


_Tile: TypeAlias = tuple[_Job[Tag], int, int]


class _Runner(Generic[Tag]):
    """Tiles that wait, by shape, and the images they belong to, in order."""

    def __init__(self, network: nn.Module, device: Device, tiling: Tiling, stride: int, ladder: MemoryLadder) -> None:
        self.tiling, self.stride, self.ladder = tiling, stride, ladder
        self.overlap = rounded_up(tiling.overlap, stride)
        self.smallest = self.overlap + stride
        if tiling.tile is not None and tiling.tile < self.smallest:
            problem = f"{tiling.tile} pixels leave no room beside an overlap of {self.overlap}"
            raise UsageError("tile", problem, f"use a tile of {self.smallest} or more, or a smaller overlap")
        self.device = ladder.device or device
        self.network = prepare(network, self.device).eval()
        self.jobs: deque[_Job[Tag]] = deque()
        self.tiles: defaultdict[tuple[int, int], deque[_Tile[Tag]]] = defaultdict(deque)

    def add(self, job: _Job[Tag]) -> None:
        """Take an image in, and run what fills a batch."""
        self.jobs.append(job)
        self.divide(job)
        shape = (job.rows.size, job.columns.size)
        while len(self.tiles[shape]) >= self.batch(shape):
            self.run(shape)

    def divide(self, job: _Job[Tag]) -> None:
        """Queue the tiles of an image."""
        limit = self.limit(job.size)
        rows, columns = (divide(n, limit, self.overlap, self.stride) for n in job.pixels.shape[1:])
        job.begin(rows, columns, self.device)
        cells = [(job, i, j) for i in range(len(rows.starts)) for j in range(len(columns.starts))]
        self.tiles[rows.size, columns.size].extend(cells)

    def is_full(self) -> bool:
        """Whether so many images are on their way that the first must go."""
        if self.device.is_cpu:
            return bool(self.jobs)
        tile = self.tiling.tile or GPU_TILE
        pixels = GPU_BATCH_PIXELS if self.tiling.batch is None else self.tiling.batch * tile**2
        return sum(job.size for job in self.jobs) > BATCHES_IN_FLIGHT * pixels

    def finish_first(self) -> tuple[Tag, Maps]:
        """Run what the first image still waits for."""
        job = self.jobs[0]
        while job.result is None:
            self.run((job.rows.size, job.columns.size))
        self.jobs.popleft()
        if job.done is not None:
            job.done.synchronize()
        return job.tag, job.result.numpy().copy()

    def limit(self, pixels: int) -> int:
        """Longest side of a tile, for an image of so many pixels."""
        limit = self.tiling.tile
        if limit is None:
            whole = self.device.is_cpu and pixels <= WHOLE_PIXELS
            limit = pixels if whole else CPU_TILE if self.device.is_cpu else GPU_TILE
            limit = max(limit, 2 * self.overlap)
        return limit if self.ladder.tile is None else max(self.smallest, min(limit, self.ladder.tile))

    def batch(self, shape: tuple[int, int]) -> int:
        """Tiles of a shape at once."""
        pixels = shape[0] * shape[1]
        batch = self.tiling.batch or (1 if self.device.is_cpu else GPU_BATCH_PIXELS // pixels)
        limit = batch if self.ladder.pixels is None else self.ladder.pixels // pixels
        return max(1, min(batch, limit))

    def run(self, shape: tuple[int, int]) -> None:
        """Run one batch of tiles of a shape; where it does not fit, make it smaller for the next try."""
        waiting = self.tiles[shape]
        batch = [waiting[i] for i in range(min(len(waiting), self.batch(shape)))]
        try:
            outputs = self.forward(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            outputs = None  # the error, and with it what it holds in memory, goes before the next try
        if outputs is None:
            self.step_down(shape, len(batch))
            return
        for (job, row, column), maps in zip(batch, outputs, strict=True):
            waiting.popleft()
            job.take(row, column, maps)

    @torch.inference_mode()
    def forward(self, batch: list[_Tile[Tag]]) -> Tensor:
        """Maps (B, outputs, h, w) float32 of tiles."""
        tiles = [_moved(job.pixels[job.window(i, j)], self.device.torch_device) for job, i, j in batch]
        x = torch.stack(tiles).contiguous(memory_format=torch.channels_last)
        with self.device.autocast():
            output = self.network(x)
        maps: Tensor = getattr(output, "maps", output)
        return maps.to(torch.float32, copy=True)

    def step_down(self, shape: tuple[int, int], batch: int) -> None:
        """Take the next rung of the ladder; when tiles become smaller, or go elsewhere, begin anew."""
        before = (self.ladder.tile, self.ladder.device)
        self.ladder.step_down(self.device, batch, shape, self.smallest, self.tiling.oom_fallback)
        if self.device.is_cuda:
            torch.cuda.empty_cache()
        if before == (self.ladder.tile, self.ladder.device):
            return
        if self.ladder.device is not None:
            self.device = self.ladder.device
            prepare(self.network, self.device)
        self.tiles.clear()
        for job in self.jobs:
            if job.result is None:
                self.divide(job)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device; copied there beside the computation where it is a GPU."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


def _fetched(tensor: Tensor) -> Tensor:
    """In main memory; complete when the work of the GPU so far is."""
    if not tensor.is_cuda:
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
