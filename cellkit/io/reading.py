"""How a stored image is read as frames of (C, H, W): time points, one plane of a stack, channels by number or name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cellkit.errors import InputError, UsageError
from cellkit.io.stored import COPY_AGAIN, Index, LazyPixels, Stored

KNOWN_AXES = "TZCSYX"
RGB_NAMES = ("red", "green", "blue", "alpha")
NAMES_SHOWN = 40  # channels listed in a message; more make no line that is read


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What the user says about inputs that their metadata does not say, or says wrongly.

    Attributes:
        axes: one letter per dimension of the file, of T Z C S Y X (S: samples of a colour).
        channels: which channels, in which order: numbers from 0, or names.
        plane: which plane of a z-stack, from 0.
        series: which image of a TIFF that holds several, from 0.
        dataset: which dataset of an HDF5 file.

    Raises:
        UsageError: letters that are no axes.
    """

    axes: str | None = None
    channels: tuple[int | str, ...] | None = None
    plane: int | None = None
    series: int = 0
    dataset: str | None = None

    def __post_init__(self) -> None:
        axes = "YX" if self.axes is None else self.axes.upper()
        if set(axes) - set(KNOWN_AXES) or len(set(axes)) < len(axes) or not {"Y", "X"} <= set(axes):
            choices = f"letters of {KNOWN_AXES}, each once, Y and X always, for example CYX"
            raise UsageError("--axes", f"{self.axes!r} are no axes", choices)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which numbers along the axes of a stored image make its frames.

    Attributes:
        stored: the image.
        frames: time points; each is an image of its own.
        channels: numbers of the chosen channels, in order; channel c x S + s is sample s of channel c.
        channel_names: their names, or empty.
        rgb: they are red, green and blue.
        size: (H, W).
        fixed: place of the plane of the stack per axis letter.
        guessed: what was guessed, in words.
    """

    stored: Stored
    frames: int
    channels: tuple[int, ...]
    channel_names: tuple[str, ...]
    rgb: bool
    size: tuple[int, int]
    fixed: Mapping[str, int]
    guessed: tuple[str, ...]

    def pixels(self, frame: int) -> LazyPixels:
        """(C, H, W) of one frame; nothing is read yet."""
        indices = tuple(self._index(frame, channel) for channel in self.channels)
        return LazyPixels(self.stored.array, indices, self.stored.axes, self.size, self.stored.dtype)

    def _index(self, frame: int, channel: int) -> Index:
        samples = _size(self.stored, "S")
        places = {**self.fixed, "T": frame, "C": channel // samples, "S": channel % samples}
        return tuple(places.get(axis, 0) for axis in self.stored.axes)


def plan(stored: Stored, options: ReadOptions) -> Reading:
    """Find frames, plane and channels of a stored image.

    Raises:
        InputError: no pixels, complex pixels, a stack of which no plane was chosen, axes or channels that the file
            does not have.
    """
    stored = _with_axes(stored, options.axes)
    _check_pixels(stored)
    fixed = _plane(stored, options.plane)
    channels, guessed = _channels(stored, options.channels)
    names = _names(stored)
    is_rgb = stored.rgb and [c % _size(stored, "S") for c in channels] == [0, 1, 2]
    return Reading(
        stored=stored,
        frames=_size(stored, "T"),
        channels=channels,
        channel_names=tuple(names[c] for c in channels) if names else (),
        rgb=is_rgb,
        size=(_size(stored, "Y"), _size(stored, "X")),
        fixed=fixed,
        guessed=stored.guessed + guessed,
    )


def _size(stored: Stored, axis: str) -> int:
    return stored.shape[stored.axes.index(axis)] if axis in stored.axes else 1


def _sizes(stored: Stored) -> str:
    return " x ".join(str(n) for n in stored.shape)


def _with_axes(stored: Stored, axes: str | None) -> Stored:
    if axes is None:
        return stored
    axes = axes.upper()
    if len(axes) != len(stored.shape):
        problem = f"has {len(stored.shape)} axes ({stored.axes}, {_sizes(stored)}), but --axes {axes} names {len(axes)}"
        raise InputError(stored.name, problem, "give one letter per axis")
    samples = stored.shape[axes.index("S")] if "S" in axes else 0
    guessed = tuple(text for text in stored.guessed if not text.startswith("axes"))
    return replace(stored, axes=axes, rgb=samples in (3, 4), alpha=samples == 4, guessed=guessed)


def _check_pixels(stored: Stored) -> None:
    if 0 in stored.shape:
        raise InputError(stored.name, f"has no pixels ({_sizes(stored)})", COPY_AGAIN)
    if stored.dtype.kind == "c":
        raise InputError(stored.name, f"has complex pixels ({stored.dtype})", "save their magnitude as float32")
    if stored.dtype.kind not in "buif":
        raise InputError(stored.name, f"holds no numbers ({stored.dtype})", "save it as uint8, uint16 or float32")
    if "Y" not in stored.axes or "X" not in stored.axes:
        raise InputError(stored.name, f"is no image: its axes are {stored.axes} ({_sizes(stored)})", "give --axes")


def _plane(stored: Stored, plane: int | None) -> dict[str, int]:
    """Place along the z axis, or along the one axis of which the file does not say what it is."""
    open_axes = [a for a, n in zip(stored.axes, stored.shape, strict=True) if n > 1 and a not in "TCSYX"]
    if len(open_axes) > 1:
        example = "".join(dict.fromkeys("TZC"[-len(open_axes) :] + "YX"))
        problem = f"has {len(stored.shape)} axes that it does not name ({stored.axes}, {_sizes(stored)})"
        raise InputError(stored.name, problem, f"give --axes, for example --axes {example}")
    axis = open_axes[0] if open_axes else "Z"
    planes = _size(stored, axis)
    if plane is None and planes > 1:
        raise InputError(stored.name, f"3-D stack of {planes} planes", _ways_out(stored.axes, axis))
    if not 0 <= (plane or 0) < planes:
        has = "only plane 0" if planes == 1 else f"planes 0 to {planes - 1}"
        raise InputError(stored.name, f"has no plane {plane}", f"it has {has}: choose with --plane")
    return {axis: plane or 0}


def _ways_out(axes: str, axis: str) -> str:
    ways = "choose one with --plane N"
    if set(axes) - {axis} - set(KNOWN_AXES):  # another axis of length 1 without a name: no letters to propose
        return ways
    if "T" not in axes:
        ways += f", or give --axes {axes.replace(axis, 'T')} for a time series"
    if axis != "Z" and "C" not in axes:
        ways += f", or --axes {axes.replace(axis, 'C')} for channels"
    return ways


def _names(stored: Stored) -> tuple[str, ...]:
    """A name per channel, or none."""
    count = _size(stored, "C") * _size(stored, "S")
    if len(stored.channel_names) == count:
        return stored.channel_names
    return RGB_NAMES[:count] if stored.rgb and count <= len(RGB_NAMES) else ()


def _channels(stored: Stored, chosen: tuple[int | str, ...] | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Numbers of the channels, and what was decided about them without being asked."""
    samples = _size(stored, "S")
    count = _size(stored, "C") * samples
    if chosen:
        names = _names(stored)
        return tuple(_number(stored.name, channel, names, count) for channel in chosen), ()
    if stored.alpha and samples > 1:
        return tuple(c for c in range(count) if c % samples != samples - 1), ("opacity (alpha) is left out",)
    return tuple(range(count)), ()


def _number(source: str, channel: int | str, names: tuple[str, ...], count: int) -> int:
    """The number of a channel given by number or name; case matters only where names differ in nothing else."""
    if isinstance(channel, str):
        same = [i for i, n in enumerate(names) if n == channel] or [
            i for i, n in enumerate(names) if n.casefold() == channel.casefold()
        ]
        if len(same) == 1:
            return same[0]
        if not channel.isdecimal():
            problem = f"has {len(same)} channels named {channel!r}" if same else f"has no channel {channel!r}"
            raise InputError(source, problem, _choices(names, count))
    if not 0 <= int(channel) < count:
        raise InputError(source, f"has no channel {channel}", _choices(names, count))
    return int(channel)


def _choices(names: tuple[str, ...], count: int) -> str:
    if not names:
        return "it has only channel 0" if count == 1 else f"it has channels 0 to {count - 1}, without names"
    listed = ", ".join(f"{i} {name}" for i, name in list(enumerate(names))[:NAMES_SHOWN])
    return f"choose by number or name among {listed}" + (", ..." if count > NAMES_SHOWN else "")
