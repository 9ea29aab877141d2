"""Label images: TIFF, PNG and HDF5 of ours, written whole and checked; those of other tools and .npy read too."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellkit.errors import InputError, OutputError, UsageError
from cellkit.io import grouped_hdf5, label_png, label_tiff
from cellkit.io.atomic import written_whole
from cellkit.io.grouped_hdf5 import first_bytes
from cellkit.io.histories import read_history
from cellkit.io.keys import key_of, split_dataset, suffix_of
from cellkit.io.label_hdf5 import encode_hdf5, read_hdf5
from cellkit.io.label_image import LARGEST_LABEL, UNKNOWN, LabelHeader, LabelImage, LabelInfo, LabelRows
from cellkit.io.label_png import encode_png, read_png
from cellkit.io.label_tiff import read_tiff, write_tiff
from cellkit.io.stored import decoding

__all__ = [
    "LABEL_SUFFIXES",
    "LabelHeader",
    "LabelImage",
    "LabelInfo",
    "LabelRows",
    "fill_label_file",
    "read_history",
    "read_label_images",
    "read_labels",
    "write_labels",
]

LABEL_SUFFIXES = (".tif", ".tiff", ".png", ".h5", ".hdf5")
NPY_MAGIC = b"\x93NUMPY"
COLOUR_CHANNELS = (3, 4)
NUMBERING = "labels begin at 1, 0 is background"


def read_labels(
    path: str, data: bytes | None = None, dataset: str | None = None, *, unknown: bool = False
) -> LabelImage:
    """Read one label image; what kind of file it is decides its beginning, not its name.

    Args:
        path: the file as the user named it, also ``FILE.h5::/dataset``.
        data: its bytes, when it came through a stream.
        dataset: dataset of an HDF5 file.
        unknown: -1 is allowed, for pixels of which nothing is known.

    Raises:
        InputError: missing, empty, truncated, no image; negative, fractional or too large labels; colours, stacks;
            an HDF5 with several label images and none named.
    """
    found = list(_read(path, data, dataset, unknown))
    if len(found) == 1:
        return found[0]
    keys = ", ".join(f"::/{image.key}/labels" for image in found[:8]) + (", ..." if len(found) > 8 else "")
    raise InputError(path, f"holds {len(found)} label images", f"name one: {keys}" if found else "make it again")


def read_label_images(path: str, data: bytes | None = None) -> Iterator[LabelImage]:
    """Read all label images of a file: one, or those of all keys of an HDF5 file.

    Raises:
        InputError: as :func:`read_labels`.
    """
    return _read(path, data, None, unknown=False)


def _read(path: str, data: bytes | None, dataset: str | None, unknown: bool) -> Iterator[LabelImage]:
    file, named = split_dataset(path)
    content = Path(file) if data is None else data
    start = first_bytes(content, path)
    with decoding(path):
        if start.startswith(grouped_hdf5.MAGIC):
            for key, array, header in read_hdf5(content, path, dataset or named):
                yield _label_image(path, _labels(_plane(array, path), path, unknown), header, key)
        elif dataset or named:
            raise InputError(path, "is no HDF5 file, so it has no datasets", "name the file alone")
        else:
            array, found = _read_single(content, start, path)
            yield _label_image(path, _labels(_plane(array, path), path, unknown), found)


def _read_single(content: Path | bytes, start: bytes, name: str) -> tuple[NDArray[Any], LabelHeader | None]:
    if start.startswith(label_tiff.MAGICS):
        return read_tiff(content, name)
    data = content if isinstance(content, bytes) else content.read_bytes()
    if start.startswith(label_png.MAGIC):
        return read_png(data, name)
    if start.startswith(NPY_MAGIC):
        return np.load(io.BytesIO(data), allow_pickle=False), None
    raise InputError(name, "is no label image", "give TIFF, PNG, HDF5 or .npy")


def _label_image(
    name: str, labels: NDArray[np.int32], header: LabelHeader | None = None, key: str | None = None
) -> LabelImage:
    header = header or LabelHeader()
    return LabelImage(
        key=key or key_of(name.removesuffix(".npy")),
        source=name,
        labels=labels,
        scores=header.scores,
        pixel_size=header.pixel_size,
        history=header.history,
        outlines=header.outlines,
    )


def _plane(array: NDArray[Any], name: str) -> NDArray[Any]:
    """The one plane (H, W) of an array, whose other axes have the length 1."""
    shape = array.shape
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    while array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[2] in COLOUR_CHANNELS:
        raise InputError(name, "is a colour image, not labels", "save the labels as one grey channel")
    if array.ndim != 2:
        size = " x ".join(str(n) for n in shape) or "one number"
        raise InputError(name, f"is {array.ndim}-D ({size}), not a 2-D label image", "give one plane per file")
    if 0 in array.shape:
        raise InputError(name, f"has no pixels ({shape[0]} x {shape[1]})", "make it again")
    return array


def _labels(array: NDArray[Any], name: str, unknown: bool) -> NDArray[np.int32]:
    """Whole numbers from 0 (-1 where there may be unknown pixels) that fit int32, from whatever type."""
    if array.dtype.kind not in "buif":
        raise InputError(name, f"holds no whole numbers ({array.dtype})", "save the labels as uint16 or uint32")
    if array.dtype.kind == "b":
        return array.astype(np.int32)
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.rint(array)).all()):
        raise InputError(name, "holds fractions or NaN, not labels", "save the labels as uint16 or uint32")
    if array.min() < (UNKNOWN if unknown else 0):
        raise InputError(
            name, f"holds negative numbers ({array.min():g})", _meaning(bool(array.min() == UNKNOWN), unknown)
        )
    if array.max() > LARGEST_LABEL:
        raise InputError(name, f"holds labels above {LARGEST_LABEL} ({array.max():.0f})", "number the cells from 1")
    return array.view(np.int32) if array.dtype == np.uint32 else array.astype(np.int32, copy=False)


def _meaning(only_unknown: bool, unknown: bool) -> str:
    """What numbers mean, for who has negative ones."""
    if only_unknown:
        return f"{NUMBERING}; pixels of which nothing is known are for pretrain and finetune --method supported"
    return f"{NUMBERING}, -1 where nothing is known" if unknown else NUMBERING


def write_labels(
    target: Path | BinaryIO, item: LabelImage | LabelRows, compress: bool = True, *, suffix: str = ".tif"
) -> None:
    """Write a label image as uint16, or uint32 above 65,535, and read it back before it gets its name.

    Labels that hold -1, where nothing is known, become int16, or int32 above 32,767.
    Bands of rows go into a TIFF file in bounded memory; other kinds and streams hold the encoded image in memory.

    Args:
        target: a file, whose suffix says its kind, or a stream.
        item: labels, whole or by bands of rows.
        compress: zlib in TIFF; none is quicker for a pipe.
        suffix: kind of file in a stream.

    Raises:
        OutputError: it cannot be written, or does not read back as it was written.
        UsageError: unknown suffix, or a label above 65,535 or -1 in a PNG.
    """
    kind = suffix_of(target.name) if isinstance(target, Path) else suffix
    if kind not in LABEL_SUFFIXES and not kind.startswith(".ome.tif"):
        subject = target if isinstance(target, Path) else suffix
        raise UsageError(subject, "label images are not written as this kind of file", ".tif, .png or .h5")
    if not isinstance(target, Path):
        target.write(_encoded(item, kind, compress))
        return
    with written_whole(target) as part:
        fill_label_file(part, item, kind, compress)


def fill_label_file(part: Path, item: LabelImage | LabelRows, suffix: str, compress: bool = True) -> None:
    """Write a label image into a file that is under construction, and read it back.

    Args:
        part: the file, whatever its name.
        item: labels, whole or by bands of rows.
        suffix: kind of file.
        compress: zlib in TIFF.

    Raises:
        OutputError: it does not read back as it was written.
        UsageError: a label above 65,535 or -1 in a PNG.
    """
    if suffix not in (".png", ".h5", ".hdf5"):
        write_tiff(part, item, compress)
        return
    data = _encoded(item, suffix, compress)
    part.write_bytes(data)
    if part.read_bytes() != data:
        raise OutputError(item.key, "the label image does not read back as it was written", "check the disk")


def _encoded(item: LabelImage | LabelRows, kind: str, compress: bool) -> bytes | memoryview:
    if kind == ".png":
        return encode_png(item)
    if kind in (".h5", ".hdf5"):
        return encode_hdf5(item)
    memory = io.BytesIO()
    write_tiff(memory, item, compress)
    return memory.getbuffer()
