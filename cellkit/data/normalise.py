"""Channels as the model wants them, and intensities brought to a common range, one channel at a time.

Images are (C, H, W): arrays, or lazy pixels of which only windows can be read.

Colour becomes grey by the luminance of ITU-R BT.601, with the integer weights of Pillow's mode "L": this is what the
authors of few-shot meta-learning read (Dawoud et al.), and red, green and blue that are equal stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellkit.config import Preprocessing
from cellkit.errors import InputError, ModelError

if TYPE_CHECKING:
    from cellkit.io.images import Image, Pixels

Limits: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]

EXACT_PIXELS = 1 << 24  # lazy channels up to 4096 x 4096 are read whole; larger ones are sampled
SAMPLE_BANDS = 32  # bands of rows, evenly spread over the height of a larger image
BAND_ROWS = 8  # several neighbouring rows cost a compressed file no more than one
PIECE_PIXELS = 1 << 20  # np.bincount turns its input into 64-bit integers: count in pieces of 8 MiB
BINS = {np.dtype(np.uint8): 1 << 8, np.dtype(np.uint16): 1 << 16}  # dtypes whose percentiles come from a histogram
GREY, RGB, RGBA = 1, 3, 4  # channel counts
LUMINANCE = (19595, 38470, 7471)  # 0.299, 0.587 and 0.114 of 2 ** LUMINANCE_BITS; their sum is exactly that
LUMINANCE_BITS = 16  # the largest weighed sum of 16-bit values still fits into 32 bits


def statistics(pixels: Pixels, preprocessing: Preprocessing, *, source: str = "image") -> Limits:
    """The values that become 0 and 1, per channel.

    Arrays and lazy images of up to 4096 x 4096 pixels are measured exactly; of larger lazy images 32 bands of 8 rows
    are read, always the same ones. When the percentiles of a channel coincide although it is not constant (a few
    bright cells on black), its minimum and maximum are taken.

    Args:
        pixels: (C, H, W) array or lazy pixels.
        preprocessing: kind of normalisation and percentiles.
        source: name of the image for error messages.

    Returns:
        low and high, (C,) float64 each; equal where a channel is constant.

    Raises:
        InputError: a value is NaN or infinite.
    """
    count = pixels.shape[0]
    low, high = np.zeros(count), np.ones(count)
    if preprocessing.normalisation == "none":
        return low, high
    if preprocessing.normalisation == "range":
        return low, np.full(count, _white(pixels.dtype))
    repeated = isinstance(pixels, np.ndarray) and pixels.strides[0] == 0  # one channel seen several times
    for channel in range(1 if repeated else count):
        low[channel], high[channel] = _limits(_sample(pixels, channel, source), preprocessing)
    if repeated:
        low[:], high[:] = low[0], high[0]
    return low, high


def normalise(
    window: NDArray[Any], low: NDArray[np.float64], high: NDArray[np.float64], *, source: str = "image"
) -> NDArray[np.float32]:
    """Bring ``low`` to 0 and ``high`` to 1, without clipping; a constant channel becomes zeros.

    Args:
        window: (C, h, w) part of an image, or all of it.
        low: (C,) values that become 0.
        high: (C,) values that become 1.
        source: name of the image for error messages.

    Returns:
        (C, h, w) float32.

    Raises:
        InputError: a value is NaN or infinite.
    """
    check_finite(window, source)
    span = high - low
    factor = np.divide(1.0, span, out=np.zeros_like(span), where=span > 0)
    # 64-bit sources may have an offset that 32-bit floats cannot resolve
    exact = np.float64 if window.dtype.itemsize > 2 and window.dtype != np.float32 else np.float32
    result: NDArray[Any] = np.subtract(window, low[:, None, None], dtype=exact)
    np.multiply(result, factor[:, None, None], out=result, casting="same_kind")
    return result.astype(np.float32, copy=False)


def check_finite(window: NDArray[Any], source: str) -> None:
    """Refuse NaN and infinite values.

    Raises:
        InputError: there are some; says how many.
    """
    if window.dtype.kind not in "fc":
        return
    finite = np.isfinite(window)
    if not finite.all():
        missing = int(finite.size - np.count_nonzero(finite))
        raise InputError(source, f"{missing} pixels are NaN or infinite", "replace them by a background value first")


def prepare_channels(image: Image, preprocessing: Preprocessing) -> Pixels:
    """The channels of an image as the model wants them; nothing is read yet from lazy pixels.

    With ``colour="rgb"`` a grey image is repeated and alpha is dropped; with ``"as-is"`` the count must match, a
    single grey channel is padded with zeros (Scellseg's second, empty channel) and alpha is dropped. With ``"grey"``
    RGB becomes one channel, without alpha, and is then taken as a grey image is with ``"as-is"``.

    Returns:
        (``preprocessing.channels``, H, W) array or lazy pixels.

    Raises:
        ModelError: the image has another number of channels; the repair names ``--channels``.
    """
    pixels = image.pixels
    if preprocessing.colour == "grey" and image.rgb and pixels.shape[0] in (RGB, RGBA):
        pixels = luminance(pixels) if isinstance(pixels, np.ndarray) else GreyView(pixels)
    found, wanted = pixels.shape[0], preprocessing.channels
    if found == wanted:
        return pixels
    if found == GREY:
        empty = 0 if preprocessing.colour == "rgb" else None
        return _select(pixels, (0,) + (empty,) * (wanted - 1))
    if found == RGBA and wanted == RGB and image.rgb:
        return _select(pixels, (0, 1, 2))
    example = ",".join(str(channel) for channel in range(min(found, wanted)))
    raise ModelError(
        image.source,
        f"{found} channels, but the model wants {wanted}",
        f"choose them with --channels, e.g. --channels {example}",
    )


def luminance(pixels: NDArray[Any]) -> NDArray[Any]:
    """One grey channel from red, green and blue.

    Args:
        pixels: (3 or more, h, w); what follows blue is left out.

    Returns:
        (1, h, w): whole numbers of 8 and 16 bits as they are, rounded as Pillow does; wider values as floats.
    """
    dtype, shape = pixels.dtype, pixels.shape[1:]
    if dtype.kind == "u" and dtype.itemsize <= 2:
        total = np.full(shape, 1 << (LUMINANCE_BITS - 1), np.uint32)  # rounds to the nearest
        for channel, weight in enumerate(LUMINANCE):
            total += pixels[channel] * np.uint32(weight)
        return (total >> LUMINANCE_BITS).astype(dtype)[None]
    exact = np.float32 if dtype.itemsize <= 2 or dtype == np.float32 else np.float64
    grey: NDArray[Any] = np.zeros(shape, exact)
    for channel, weight in enumerate(LUMINANCE):
        grey += pixels[channel].astype(exact) * exact(weight / (1 << LUMINANCE_BITS))
    return grey[None]


class GreyView:
    """Lazy pixels in grey: the luminance of red, green and blue beneath, one window at a time."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.shape = (GREY, pixels.shape[1], pixels.shape[2])
        self.dtype = luminance(np.zeros((RGB, 1, 1), pixels.dtype)).dtype

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Read a window: (channel slice, y slice, x slice)."""
        return luminance(self.pixels[0:RGB, index[1], index[2]])[index[0]]


class ChannelView:
    """Lazy pixels with other channels: each a channel of the pixels beneath, or None for zeros."""

    def __init__(self, pixels: Pixels, channels: tuple[int | None, ...]) -> None:
        self.pixels = pixels
        self.channels = channels
        self.shape = (len(channels), pixels.shape[1], pixels.shape[2])
        self.dtype = pixels.dtype

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Read a window: (channel slice, y slice, x slice)."""
        chosen = self.channels[index[0]]
        read = {c: self.pixels[c : c + 1, index[1], index[2]][0] for c in set(chosen) if c is not None}
        if not read:
            shape = tuple(len(range(*s.indices(n))) for s, n in zip(index[1:], self.shape[1:], strict=True))
            return np.zeros((len(chosen), *shape), self.dtype)
        empty = np.zeros_like(next(iter(read.values())))
        return np.stack([empty if channel is None else read[channel] for channel in chosen])


def _select(pixels: Pixels, channels: tuple[int | None, ...]) -> Pixels:
    if not isinstance(pixels, np.ndarray):
        return ChannelView(pixels, channels)
    if set(channels) == {0}:
        return np.broadcast_to(pixels, (len(channels), *pixels.shape[1:]))
    selected = np.zeros((len(channels), *pixels.shape[1:]), pixels.dtype)
    for place, channel in enumerate(channels):
        if channel is not None:
            selected[place] = pixels[channel]
    return selected


def _white(dtype: np.dtype[Any]) -> float:
    """The largest value of whole numbers; 1 of floats and truth values, as is their custom."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0


def _sample(pixels: Pixels, channel: int, source: str) -> list[NDArray[Any]]:
    """Pieces of one channel: all of it, or bands of rows of a large lazy one."""
    pieces = list(_pieces(pixels, channel))
    for piece in pieces:
        check_finite(piece, source)
    return pieces


def _pieces(pixels: Pixels, channel: int) -> Iterator[NDArray[Any]]:
    if isinstance(pixels, np.ndarray):
        yield pixels[channel]
        return
    height, width = pixels.shape[1:]
    if height * width <= EXACT_PIXELS:
        yield pixels[channel : channel + 1, 0:height, 0:width][0]
        return
    count = min(SAMPLE_BANDS, height)
    for start in np.linspace(0, max(height - BAND_ROWS, 0), count).astype(int).tolist():
        step = -(-width // (EXACT_PIXELS // (SAMPLE_BANDS * BAND_ROWS)))  # very wide images: every n-th column
        yield pixels[channel : channel + 1, start : start + BAND_ROWS, 0:width][0, :, ::step]


def _limits(pieces: list[NDArray[Any]], preprocessing: Preprocessing) -> tuple[float, float]:
    smallest = float(min(piece.min() for piece in pieces))
    largest = float(max(piece.max() for piece in pieces))
    if preprocessing.normalisation == "minmax":
        return smallest, largest
    low, high = _percentiles(pieces, preprocessing.percentiles)
    return (low, high) if high > low else (smallest, largest)


def _percentiles(pieces: list[NDArray[Any]], percentiles: tuple[float, float]) -> tuple[float, float]:
    """As ``np.percentile`` (linear interpolation), from a histogram for 8- and 16-bit values (8 times faster)."""
    bins = BINS.get(pieces[0].dtype)
    if bins is None:
        values = np.concatenate([piece.ravel() for piece in pieces])
        exact = values.astype(np.float32) if values.dtype.itemsize == 2 or values.dtype == bool else values
        low, high = np.percentile(exact, percentiles)
        return float(low), float(high)
    counts = np.zeros(bins, np.int64)
    for piece in pieces:
        flat = piece.ravel()
        for start in range(0, flat.size, PIECE_PIXELS):
            counts += np.bincount(flat[start : start + PIECE_PIXELS], minlength=bins)
    low, high = (_percentile_of_histogram(np.cumsum(counts), percentile) for percentile in percentiles)
    return low, high


def _percentile_of_histogram(cumulated: NDArray[np.int64], percentile: float) -> float:
    position = (int(cumulated[-1]) - 1) * percentile / 100
    before = int(position)
    # the k-th smallest value is the first bin whose cumulated count exceeds k
    lower, upper = np.searchsorted(cumulated, [before, min(before + 1, int(cumulated[-1]) - 1)], side="right")
    return float(lower + (upper - lower) * (position - before))
