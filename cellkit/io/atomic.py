"""Outputs that exist only when they are complete, and folders that one run at a time writes into."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from cellkit.errors import LockedError, OutputError

log = logging.getLogger(__name__)

LOCK_NAME = ".cellkit.lock"
LONGEST_NAME = 200  # bytes: file systems allow 255, and the temporary name is longer than the final one
_PART = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.part", re.DOTALL)
_ERRNO_IN_TEXT = re.compile(r"errno = (\d+)")  # how HDF5 tells what the system said

_ELSEWHERE = "write elsewhere with -o"
_REASONS = {
    errno.ENOSPC: ("no space is left on the device", f"free some space, or {_ELSEWHERE}"),
    errno.EDQUOT: ("the disk quota is used up", f"free some space, or {_ELSEWHERE}"),
    errno.EFBIG: ("the file is larger than the system allows", _ELSEWHERE),
    errno.EROFS: ("the file system is read-only", _ELSEWHERE),
    errno.EACCES: ("permission denied", f"{_ELSEWHERE}, or change the permissions of the folder"),
    errno.EPERM: ("permission denied", f"{_ELSEWHERE}, or change the permissions of the folder"),
    errno.ENOENT: ("its folder does not exist", "create it first, or check the path"),
    errno.ENOTDIR: ("its folder is a file", "check the path"),
    errno.EEXIST: ("a file has this name", "choose another name"),
    errno.EISDIR: ("a folder has this name", "choose another name"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter name"),
}
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)  # file systems without flock, e.g. some of clusters


def output_error(path: str | Path, error: Exception) -> OutputError:
    """One line for what the system (or HDF5 on its behalf) said while writing ``path``."""
    number = getattr(error, "errno", None)
    if number is None and (found := _ERRNO_IN_TEXT.search(str(error))):
        number = int(found[1])
    if number is None:
        return OutputError(path, f"could not be written: {error}", _ELSEWHERE)
    problem, repair = _REASONS.get(number, (os.strerror(number), _ELSEWHERE))
    return OutputError(path, f"could not be written: {problem}", repair)


def _part_of(path: Path) -> Path:
    """The temporary file beside ``path``; hidden, so that no reader takes it for an output."""
    name = path.name
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
    return path.with_name(f".{name}.{os.getpid()}.part")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file that appears under its name only when it is complete and on the disk.

    Yields:
        A temporary file in the same folder, already there and empty. When the block ends well it is synchronised and
        renamed to ``path``; when it ends in whatever exception it is removed, and ``path`` stays as it was.

    Raises:
        OutputError: the system refuses: full disk, read-only, no permission, no such folder.
    """
    part = _part_of(path)
    try:
        part.write_bytes(b"")  # a folder that cannot be written in is known before any work
        yield part
        _synchronise(part)
        part.replace(path)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the file is complete; not every file system can synchronise a folder
        _synchronise(path.parent)


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(path: Path) -> None:
    """Find out before any work whether a file could be written under ``path``.

    Raises:
        OutputError: it could not.
    """
    if path.is_dir():
        raise output_error(path, IsADirectoryError(errno.EISDIR, ""))
    part = _part_of(path)
    try:
        part.write_bytes(b"")
        part.unlink()
    except OSError as error:
        raise output_error(path, error) from error


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove temporary files of runs that were killed: those whose process is gone.

    Args:
        folder: where to look.
        name: only those of this output; None: of every output (hold the lock of the folder).
    """
    with contextlib.suppress(OSError):
        for part in list(folder.iterdir()):
            found = _PART.fullmatch(part.name)
            if found and name in (None, found["name"]) and not _is_running(int(found["pid"])):
                part.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def lock(folder: Path) -> AbstractContextManager[None]:
    """Keep other runs out of a folder; a killed run leaves no lock behind, since the system releases it.

    Raises:
        LockedError: another run is writing into the folder.
        OutputError: the folder cannot be written in.
    """
    busy = LockedError(folder, "another run is writing into this folder", "wait for it to end")
    return _locked(folder / LOCK_NAME, folder, busy)


def lock_file(path: Path) -> AbstractContextManager[None]:
    """As :func:`lock`, for one file that is to be written; others may be written beside it.

    Raises:
        LockedError: another run is making the file.
        OutputError: its folder cannot be written in.
    """
    busy = LockedError(path, "another run is making it", "wait for it to end, or choose another -o")
    return _locked(path.with_name(f".{path.name}.lock"), path, busy)


@contextlib.contextmanager
def _locked(path: Path, output: Path, busy: LockedError) -> Iterator[None]:
    try:
        descriptor = _acquire(path, output, busy)
    except OSError as error:
        raise output_error(output, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # while the lock is held: nobody else can have taken it in between
        os.close(descriptor)


def _acquire(path: Path, output: Path, busy: LockedError) -> int:
    """Open and lock the file; once more if its last holder removed it in between."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(descriptor, path):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise busy from error
        except OSError as error:
            if error.errno in _NO_LOCKS:
                log.warning("%s: this file system has no locks; let only one run write here", output)
                return descriptor
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
