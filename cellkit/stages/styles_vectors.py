"""The style vector of pixels: where an image lies among all kinds of images, in the network's own words.

A style vector is the mean of the deepest features of the encoder over the image, of unit length (Cellpose, Stringer et
al. 2021; Scellseg, Xun et al.). Images of one kind lie close together.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cellkit.engine.device import Device
from cellkit.engine.memory import is_out_of_memory
from cellkit.engine.tiles import divide, rounded_up
from cellkit.errors import MemoryLimitError, ModelError
from cellkit.networks import Styled, stride_of
from cellkit.stages.large_images import LargePixels

TILE = 1024  # px, longest side that goes through at once: half a GB of activations at 32 channels
SHORTEST = 1e-12  # a vector shorter than this has no direction


def styled(network: nn.Module, name: str) -> Styled:
    """The network of a model, known to have a style.

    Raises:
        ModelError: it has none; the message names the model.
    """
    if not isinstance(network, Styled):
        raise ModelError(name, "its network has no style vector", "choose a model whose network is unet or style-unet")
    return network


def style_of(network: Styled, pixels: NDArray[np.float32] | LargePixels, device: Device) -> NDArray[np.float32]:
    """The style (S,) float32 of one image, of unit length, by the encoder alone.

    An image of more than 1024 pixels a side goes through in equal tiles of at most that; its style is the mean of
    theirs, brought to unit length again: close to the style of the whole, not the same.

    Args:
        network: on the device, in evaluation mode.
        pixels: (C, h, w) normalised, at the scale of the network.
        device: where the network is.

    Raises:
        MemoryLimitError: a tile does not fit into memory.
        InputError: a large image cannot be read on.
    """
    styles = [_run(network, tile, device) for tile in _tiles(pixels, stride_of(network))]
    return unit(np.mean(styles, axis=0, dtype=np.float64)).astype(np.float32)


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Vectors (..., S) divided by their lengths; those without a direction become zeros."""
    exact = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(exact, axis=-1, keepdims=True)
    result: NDArray[np.float64] = np.divide(exact, lengths, out=np.zeros_like(exact), where=lengths > SHORTEST)
    return result


def _tiles(pixels: NDArray[np.float32] | LargePixels, stride: int) -> Iterator[NDArray[np.float32]]:
    """Tiles (C, h, w) that cover an image, of one size; beyond the lower and right edge it is mirrored.

    Their sides are multiples of the stride of the network, as in prediction.
    """
    height, width = pixels.shape[-2:]
    rows, columns = (divide(rounded_up(length, stride), TILE, 0, stride) for length in (height, width))
    for top in rows.starts:
        for left in columns.starts:
            down, across = slice(top, min(top + rows.size, height)), slice(left, min(left + columns.size, width))
            tile = pixels.window((down, across)) if isinstance(pixels, LargePixels) else pixels[:, down, across]
            missing = (0, rows.size - tile.shape[1]), (0, columns.size - tile.shape[2])
            yield np.pad(tile, ((0, 0), *missing), mode="reflect")


@torch.inference_mode()
def _run(network: Styled, tile: NDArray[np.float32], device: Device) -> NDArray[np.float32]:
    x = torch.from_numpy(tile)[None].to(device.torch_device).contiguous(memory_format=torch.channels_last)
    try:
        with device.autocast():
            style = network.styles(x)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        problem = f"a tile of {tile.shape[1]} x {tile.shape[2]} pixels does not fit into its memory"
        raise MemoryLimitError(str(device.torch_device), problem, "free its memory, or use --device cpu") from error
    return style[0].float().cpu().numpy()
