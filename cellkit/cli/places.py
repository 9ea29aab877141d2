"""Where outputs will be, known before any is written."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cellkit.config import OnExists
from cellkit.errors import UsageError
from cellkit.io.atomic import output_error
from cellkit.io.keys import HDF5_SUFFIXES, split_dataset
from cellkit.io.sink_base import Kind
from cellkit.io.sinks import STREAM, Sink, names_folder, open_sink


def place_of(output: str, key: str, suffix: str) -> str:
    """The output of an image, for people: a file, a group of a file, or a member of the stream."""
    if output == STREAM:
        return f"stdout: {key}{suffix}"
    if names_folder(output):
        return str(Path(output) / (key + suffix))
    return f"{output}::/{key}" if output.endswith(HDF5_SUFFIXES) else output


@contextlib.contextmanager
def opened(
    output: str, kind: Kind, on_exists: OnExists, suffix: str, inputs: Sequence[tuple[str, str]]
) -> Iterator[Sink]:
    """The open sink, after all that can be said against the output before any work.

    Args:
        output: as the user named it.
        kind: labels or maps.
        on_exists: what to do with outputs that are there.
        suffix: kind of files in a folder.
        inputs: path and output key of each input that is a file; empty for a stream.

    Raises:
        UsageError: the output cannot be meant, has no room for the inputs, or is one of them.
        LockedError: another run is writing into the folder.
    """
    _protect(output, inputs, suffix)
    with open_sink(output, kind, on_exists, suffix) as sink:
        sink.expect(len(inputs))
        yield sink


def _protect(output: str, inputs: Iterable[tuple[str, str]], suffix: str) -> None:
    """Refuse an output that would take the place of an input, whatever may be overwritten."""
    if output == STREAM:
        return
    for path, key in inputs:
        file = Path(split_dataset(path)[0])
        target = Path(output) / (key + suffix) if names_folder(output) else Path(output)
        with contextlib.suppress(OSError):  # one of them is not there
            if file.samefile(target):
                raise UsageError(path, "its output would take its own place", "choose another -o")


def protect(path: Path, inputs: set[Path]) -> None:
    """Refuse an output that would take the place of an input.

    Args:
        path: the output.
        inputs: files that are read, resolved.

    Raises:
        UsageError: it is one of them.
    """
    if path.resolve() in inputs:
        raise UsageError(path, "the output would take the place of an input", "choose another name")


def send(data: bytes) -> None:
    """Write one file to stdout.

    Raises:
        BrokenPipeError: nobody reads it any more.
        OutputError: the disk behind it is full.
    """
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise output_error(STREAM, error) from error
