"""Where the tables and pictures of ``cellkit measure`` go: files, or stdout, written whole when all images are done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cellkit.cli.inputs import STREAM
from cellkit.cli.places import protect, send
from cellkit.config import OnExists
from cellkit.errors import OutputError, UsageError
from cellkit.io.atomic import check_writable, remove_leftovers, written_whole

ANOTHER = "add --on-exists overwrite, or choose another name"


@dataclass(frozen=True)
class Destination:
    """Where the table goes, and how.

    Attributes:
        output: a file, or -.
        on_exists: what to do with outputs that are there.
        workers: threads.
        quiet: no progress.
    """

    output: str
    on_exists: OnExists
    workers: int
    quiet: bool


class WholeFile:
    """A file whose bytes are known at the end; all that can be said against it is said before any work.

    Args:
        output: as the user named it; - is stdout.
        on_exists: what to do when it is there.
        taken: files that may not be overwritten, resolved.

    Raises:
        UsageError: it cannot be written, is there and may not be, or is one of the files that are read.
    """

    def __init__(self, output: str, on_exists: OnExists, taken: set[Path]) -> None:
        self._path = None if output == STREAM else Path(output)
        self._on_exists = on_exists
        if self._path is None:
            return
        protect(self._path, taken)
        try:
            check_writable(self._path)
        except OutputError as error:
            raise UsageError(error.subject, error.problem, error.repair) from error
        remove_leftovers(self._path.parent, self._path.name)
        if self._path.exists() and on_exists == "error":
            raise UsageError(self._path, "exists already", ANOTHER)

    @property
    def suffix(self) -> str:
        """Kind of file, in small letters; empty for stdout."""
        return "" if self._path is None else self._path.suffix.lower()

    def check(self, data: bytes) -> None:
        """Refuse to write what differs from a file that shall stay, before another file of the run is written.

        Raises:
            UsageError: it would.
        """
        if self._path is not None:
            is_same(self._path, data, self._on_exists)

    def write(self, data: bytes) -> None:
        """Write it; errors as :func:`place`."""
        if self._path is None:
            send(data)
        else:
            place(self._path, data, self._on_exists)


def place(path: Path, data: bytes, on_exists: OnExists) -> None:
    """Write a file whole; with ``skip`` one that is the same stays as it is.

    Raises:
        UsageError: as :func:`is_same`.
        OutputError: the system refuses.
    """
    if not is_same(path, data, on_exists):
        with written_whole(path) as part:
            part.write_bytes(data)


def is_same(path: Path, data: bytes, on_exists: OnExists) -> bool:
    """Whether a file that is there can stay, being what would be written.

    Raises:
        UsageError: it can neither stay nor be overwritten.
    """
    if not path.exists() or on_exists == "overwrite":
        return False
    if on_exists == "error":
        raise UsageError(path, "exists already", ANOTHER)
    if path.read_bytes() != data:
        raise UsageError(path, "exists, and is another than this run would write", ANOTHER)
    return True
