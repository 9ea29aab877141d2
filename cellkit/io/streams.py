"""Tar streams between stages: a member per image as soon as it is done, and an end that tells a whole from a cut one.

A stream of ours is a POSIX (pax) tar archive. Its first member ``__cellkit__.json`` is ``{"format": 1}``, its last one
``__end__.json`` is ``{"count": N, "digest": "..."}``: how many members lie between, and the BLAKE2b digest (16 bytes)
of their names and contents. Then come two blocks of zeros, as in every tar archive. A plain archive of ``tar c`` has
neither member; its two blocks of zeros tell that it is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import tarfile
import time
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO, Self

from cellkit.errors import InputError, UsageError
from cellkit.io.atomic import output_error
from cellkit.io.keys import safe_key
from cellkit.provenance import DIGEST_SIZE

FORMAT_VERSION = 1
START_NAME = "__cellkit__.json"
END_NAME = "__end__.json"
BLOCK = 512  # bytes; tar pads everything to it
PIECE = 1 << 24  # bytes read at once: a header that lies about a size costs no memory
LONGEST_EXTENSION = 1 << 20  # bytes of a pax header or a long name
PIPE_BYTES = 1 << 20  # the most that Linux grants to everybody
SIZE_LENGTH = 8  # bytes before each name and content in the digest
ZEROS = bytes(BLOCK)
GZIP_MAGIC = b"\x1f\x8b"

FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
PAX_GLOBAL, PAX_LOCAL = tarfile.XGLTYPE, tarfile.XHDTYPE
NAME_LONG, LINK_LONG = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
EXTENSIONS = (PAX_GLOBAL, PAX_LOCAL, NAME_LONG, LINK_LONG)


class _Digest:
    """Count and digest of members."""

    def __init__(self) -> None:
        self.count = 0
        self._digest = hashlib.blake2b(digest_size=DIGEST_SIZE)

    def add(self, name: str, data: bytes) -> None:
        self.count += 1
        for part in (name.encode("utf-8", "surrogateescape"), data):
            self._digest.update(len(part).to_bytes(SIZE_LENGTH, "little"))
            self._digest.update(part)

    def to_json(self) -> bytes:
        return json.dumps({"count": self.count, "digest": self._digest.hexdigest()}).encode()


def _widen(stream: BinaryIO) -> None:
    """Let the system hold a whole small member, so that the writer goes on while the reader works."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no pipe, not this system, more than it allows
        fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class StreamWriter:
    """Writes members to a stream, each at once; without :meth:`close` readers take the stream for cut.

    A pipe whose reader is gone raises BrokenPipeError.

    Args:
        stream: where to, e.g. ``sys.stdout.buffer``.
        name: how to call it in messages.

    Raises:
        UsageError: the stream is a terminal.
        OutputError: it cannot be written.
    """

    def __init__(self, stream: BinaryIO, name: str = "-") -> None:
        if stream.isatty():
            raise UsageError(name, "refuse to write binary to a terminal", "add > FILE, | COMMAND or -o DIR")
        self._stream = stream
        self._name = name
        self._digest = _Digest()
        _widen(stream)
        self._send(START_NAME, json.dumps({"format": FORMAT_VERSION}).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()

    def write(self, name: str, data: bytes) -> None:
        """Write one member; it has left this process when the method returns.

        Raises:
            InputError: the name cannot be that of a file.
            OutputError: the disk behind the stream is full.
        """
        self._send(safe_key(name), data)
        self._digest.add(name, data)

    def close(self) -> None:
        """Write the end; the stream itself stays open."""
        self._send(END_NAME, self._digest.to_json(), after=2 * ZEROS)

    def _send(self, name: str, data: bytes, after: bytes = b"") -> None:
        header = tarfile.TarInfo(name)
        header.size = len(data)
        header.mtime = int(time.time())  # tar x warns of files from 1970
        try:
            self._stream.write(header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
            self._stream.write(data)
            self._stream.write(bytes(-len(data) % BLOCK) + after)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise output_error(self._name, error) from error


def read_stream(stream: BinaryIO, source: str = "-") -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of a tar stream, in the order they come, one in memory at a time.

    Folders and hidden files of a plain archive are passed over.

    Args:
        stream: a tar stream of ours, or a plain one as of ``tar c``.
        source: how to call it in messages.

    Raises:
        InputError: no tar; cut at whatever byte; links or devices; names that would leave the folder; more data after
            the end; for streams of ours also another count or digest than its end tells, or a newer format.
    """
    reader = _Reader(stream, source)
    members = reader.members()
    first = next(members, None)
    if first is not None and first[0] == START_NAME:
        _check_start(first[1], source)
        yield from _checked(members, source)
    elif first is not None:
        yield first
        del first  # one member in memory at a time
        yield from members
    reader.check_end()


def _check_start(data: bytes, source: str) -> None:
    version = _parsed(data, source).get("format")
    if not isinstance(version, int):
        raise InputError(source, "is a damaged stream: no format version", "run the command before it again")
    if version > FORMAT_VERSION:
        problem = f"is a stream of format {version}; this cellkit reads up to {FORMAT_VERSION}"
        raise InputError(source, problem, "upgrade cellkit")


def _checked(members: Iterator[tuple[str, bytes]], source: str) -> Iterator[tuple[str, bytes]]:
    """Members up to the end member, which must agree with them."""
    digest = _Digest()
    end = None
    for name, data in members:
        if end is not None:
            raise InputError(source, "goes on after its end", "pipe one stream at a time")
        if name == END_NAME:
            end = data
            continue
        digest.add(name, data)
        yield name, data
    if end is None:
        raise InputError(source, f"is cut after {digest.count} files", "the command before it failed: run it again")
    if _parsed(end, source) != _parsed(digest.to_json(), source):
        raise InputError(source, "is damaged: its digest is wrong", "run the command before it again")


def _parsed(data: bytes, source: str) -> dict[str, object]:
    try:
        values = json.loads(data)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise InputError(source, "is a damaged stream", "run the command before it again")
    return values


class _Reader:
    """Members of a tar stream. Python's tarfile takes a stream cut between two members for a whole one."""

    def __init__(self, stream: BinaryIO, source: str) -> None:
        self._stream = stream
        self._source = source
        self._count = 0

    def members(self) -> Iterator[tuple[str, bytes]]:
        """Names and contents of files up to the first block of zeros."""
        extended: dict[str, str] = {}
        while (block := self._block()) != ZEROS:
            header = self._header(block)
            size = self._size(header, extended)
            if header.type in EXTENSIONS:
                extended |= self._extension(header.type, self._content(size))
                continue
            name = extended.get("path", header.name)
            self._check(name, header.type, extended)
            extended = {}
            if header.type == tarfile.DIRTYPE:
                continue
            data = self._content(size)
            self._count += name not in (START_NAME, END_NAME)
            if not name.rpartition("/")[2].startswith("."):
                yield name, data

    def check_end(self) -> None:
        """Check the second block of zeros, and that nothing but padding follows."""
        if self._block() != ZEROS:
            raise InputError(self._source, "is no valid tar archive: its end is damaged", "make it again")
        while piece := self._stream.read(PIECE):
            if piece.strip(b"\0"):
                raise InputError(self._source, "goes on after its end", "pipe one archive at a time")

    def _read(self, size: int) -> bytes:
        """Exactly ``size`` bytes, in pieces."""
        pieces: list[bytes] = []
        while size > 0:
            piece = self._stream.read(min(size, PIECE))
            if not piece:
                raise self._cut()
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _cut(self) -> InputError:
        problem = f"is cut after {self._count} files" if self._count else "is empty or cut"
        return InputError(self._source, problem, "the command before it failed: run it again")

    def _block(self) -> bytes:
        return self._read(BLOCK)

    def _content(self, size: int) -> bytes:
        data = self._read(size)
        self._read(-size % BLOCK)
        return data

    def _header(self, block: bytes) -> tarfile.TarInfo:
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            repair = (
                "decompress it first, e.g. with zcat" if block.startswith(GZIP_MAGIC) else "pipe what 'tar c' makes"
            )
            raise InputError(self._source, "is no valid tar archive", repair) from error

    def _size(self, header: tarfile.TarInfo, extended: dict[str, str]) -> int:
        text = extended.get("size", str(header.size)) if header.type in FILES else str(header.size)
        size = int(text) if text.isdecimal() else -1
        limit = LONGEST_EXTENSION if header.type in EXTENSIONS else None
        if size < 0 or (limit is not None and size > limit):
            raise InputError(self._source, f"is no valid tar archive: a size of {text}", "make it again")
        return size

    def _extension(self, kind: bytes, data: bytes) -> dict[str, str]:
        """What a header before the header of a file says about it."""
        if kind == NAME_LONG:
            return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
        return self._records(data) if kind == PAX_LOCAL else {}

    def _records(self, data: bytes) -> dict[str, str]:
        """Records ``LENGTH NAME=VALUE`` of a pax header."""
        records: dict[str, str] = {}
        position = 0
        while position < len(data):
            length, space, _ = data[position : position + 20].partition(b" ")
            end = position + int(length) if length.isdigit() else 0
            record = data[position + len(length) + 1 : end - 1]
            name, equals, value = record.partition(b"=")
            if not space or not equals or end > len(data) or data[end - 1 : end] != b"\n":
                raise InputError(self._source, "is no valid tar archive: a damaged pax header", "make it again")
            records[name.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
            position = end
        return records

    def _check(self, name: str, kind: bytes, extended: dict[str, str]) -> None:
        """Refuse what is neither file nor folder, and names that lead elsewhere."""
        is_sparse = any(key.startswith("GNU.sparse") for key in extended)
        if kind not in (*FILES, tarfile.DIRTYPE) or is_sparse:
            problem = f"the member {name!r} is a link, a device or a sparse file"
            raise InputError(self._source, problem, "make the archive of plain files, e.g. with tar ch")
        if not name or "\0" in name or name.startswith("/") or ".." in name.split("/"):
            problem = f"the member {name!r} would leave the output folder"
            raise InputError(self._source, problem, "make the archive with plain relative names")
