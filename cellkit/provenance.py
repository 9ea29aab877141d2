"""The history that every output carries: which commands made it, as samtools' @PG records do."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from cellkit import __version__
from cellkit.config import JsonValue

DIGEST_SIZE = 16  # bytes of BLAKE2b: 128 bits tell files apart, 32 letters fit a line


@dataclass(frozen=True, kw_only=True)
class Record:
    """One command in the history of a file.

    Attributes:
        verb: the command, e.g. ``predict``.
        version: version of cellkit.
        arguments: the arguments that shape the result; paths of outputs, devices and verbosity are left out.
        model: name of the model, or None.
        model_digest: digest of the model file, or None.
        input_digest: digest of the input file, or None when it came through a stream.
    """

    verb: str
    version: str = __version__
    arguments: dict[str, JsonValue] = field(default_factory=dict)
    model: str | None = None
    model_digest: str | None = None
    input_digest: str | None = None


History: TypeAlias = tuple[Record, ...]


def to_json(history: History) -> str:
    """The history as one line of JSON, oldest command first, with sorted keys: equal histories, equal text."""
    return json.dumps([asdict(record) for record in history], sort_keys=True, ensure_ascii=False)


def from_json(text: str) -> History:
    """Rebuild a history from :func:`to_json`.

    Raises:
        ValueError: the text is no history (also ``TypeError`` inside is turned into it).
    """
    try:
        return tuple(Record(**_fields(item)) for item in json.loads(text))
    except (TypeError, AttributeError) as error:
        raise ValueError(f"no history of cellkit: {error}") from error


def _fields(item: dict[str, Any]) -> dict[str, Any]:
    known = Record.__dataclass_fields__
    return {name: value for name, value in item.items() if name in known}  # newer versions may add fields


def digest_of(source: Path | bytes | BinaryIO) -> str:
    """Digest of a file, of bytes or of an open binary file, read in bounded pieces."""
    if isinstance(source, bytes):
        return hashlib.blake2b(source, digest_size=DIGEST_SIZE).hexdigest()
    if isinstance(source, Path):
        with source.open("rb") as stream:
            return digest_of(stream)
    digest = hashlib.blake2b(digest_size=DIGEST_SIZE)
    while piece := source.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()
