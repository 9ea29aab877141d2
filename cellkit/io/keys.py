"""Keys: the names under which images, predictions and labels of one image find each other."""

from __future__ import annotations

from pathlib import PurePath

from cellkit.errors import InputError

TIFF_SUFFIXES = (".ome.tiff", ".ome.tif", ".ome.btf", ".tiff", ".tif", ".btf")
PICTURE_SUFFIXES = (".png", ".jpeg", ".jpg")
HDF5_SUFFIXES = (".hdf5", ".h5")
IMAGE_SUFFIXES = TIFF_SUFFIXES + PICTURE_SUFFIXES + HDF5_SUFFIXES

_SEPARATORS = ("/", "\\", "\0")  # of folders on any system that unpacks our streams, and the end of a C string


def suffix_of(name: str) -> str:
    """The known image suffix a name ends with, lower case; '.ome.tif' is one suffix; '' when there is none."""
    lowered = PurePath(name).name.lower()
    return next((suffix for suffix in IMAGE_SUFFIXES if lowered.endswith(suffix)), "")


def split_dataset(name: str) -> tuple[str, str | None]:
    """``FILE.h5::/dataset`` as file and dataset; any other name has no dataset, whatever colons it has."""
    file, mark, dataset = name.rpartition("::")
    is_meant = mark and dataset and (dataset.startswith("/") or file.lower().endswith(HDF5_SUFFIXES))
    return (file, dataset) if is_meant else (name, None)


def key_of(name: str) -> str:
    """The key of a file: its name without folders and without the known image suffix.

    Dots, spaces and letters of any alphabet stay: 'in/img.01 a.ome.tif' has the key 'img.01 a'. Of
    'FILE.h5::/dataset' the key is that of the file.

    Raises:
        InputError: the name makes no key, see :func:`safe_key`.
    """
    file = split_dataset(name)[0]
    suffix = suffix_of(file)
    stem = PurePath(file).name
    return safe_key(stem[: len(stem) - len(suffix)], source=name)


def safe_key(key: str, source: str | None = None) -> str:
    """The key itself, if a file may be called so.

    Args:
        key: what shall name an output.
        source: the file it comes from, for the message.

    Raises:
        InputError: the key is empty, hidden (a leading dot, so also '..') or would leave its folder.
    """
    subject = source or repr(key)
    if not key:
        raise InputError(subject, "has no name to call its output by", "rename it")
    if any(mark in key for mark in _SEPARATORS):
        raise InputError(subject, f"its name {key!r} would leave the output folder", "rename it without separators")
    if key.startswith("."):
        raise InputError(subject, f"its name {key!r} begins with a dot", "rename it")
    return key
