"""The history of any output of ours, whatever kind of file it is."""

from __future__ import annotations

from pathlib import Path

from cellkit.errors import InputError
from cellkit.io import grouped_hdf5, label_png, label_tiff
from cellkit.io.grouped_hdf5 import FORMAT_NAME, first_bytes, history_of, is_of_kind, members, opened, text_of
from cellkit.io.stored import decoding
from cellkit.provenance import History

ZIP_MAGIC = b"PK\x03\x04"  # checkpoints are zip files


def read_history(path: str | Path) -> History:
    """The commands that made a file of ours: labels (TIFF, PNG, HDF5), prediction file or checkpoint.

    Raises:
        InputError: missing, unreadable, or not made by cellkit.
    """
    path = Path(path)
    start = first_bytes(path, str(path))
    with decoding(str(path)):
        history = _history(path, start)
    if history is None:
        raise InputError(path, "was not made by cellkit", "only outputs of cellkit have a history")
    return history


def stored_history(path: Path) -> History | None:
    """The history of a file, or None when it is none of ours or cannot be read."""
    try:
        return read_history(path)
    except InputError:
        return None


def _history(path: Path, start: bytes) -> History | None:
    if start.startswith(grouped_hdf5.MAGIC):
        return _history_of_hdf5(path)
    if start.startswith(ZIP_MAGIC):
        from cellkit.io.checkpoints import load_checkpoint  # torch only when it is needed

        return load_checkpoint(path).history
    header = None
    if start.startswith(label_tiff.MAGICS):
        header = label_tiff.read_tiff_header(path)
    elif start.startswith(label_png.MAGIC):
        header = label_png.read_png_header(path.read_bytes())
    return header.history if header else None


def _history_of_hdf5(path: Path) -> History | None:
    """That of the only image, which names its input too, or that of the whole file."""
    with opened(path, str(path)) as file:
        if text_of(file, "format") != FORMAT_NAME:
            return None
        groups = [item for _, item in members(file, str(path))]
        return history_of(groups[0] if len(groups) == 1 else file, str(path))


def read_histories(path: Path, kind: str) -> dict[str, History]:
    """The history of each image by key of an HDF5 file of ours.

    Args:
        path: the file.
        kind: ``maps`` or ``labels``.

    Raises:
        InputError: missing, unreadable, not made by cellkit, or of the other kind.
    """
    with opened(path, str(path)) as file:
        if not is_of_kind(file, kind):
            raise InputError(path, f"holds no {kind} of cellkit", "name another file")
        return {key: history_of(group, str(path)) for key, group in members(file, str(path))}
