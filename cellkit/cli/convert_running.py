"""What ``cellkit convert`` reads, and the sink it writes into."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

from cellkit.cli import convert_sinks as sinks
from cellkit.cli import convert_streams as streams
from cellkit.cli import reporting
from cellkit.cli.convert_options import is_folder
from cellkit.cli.inputs import STREAM
from cellkit.config import OnExists
from cellkit.errors import CellkitError, OutputError, UsageError
from cellkit.io.sinks import Sink, open_sink
from cellkit.stages.converting import (
    LABEL_IMAGES,
    Cells,
    Format,
    Found,
    check_sparse,
    count_cells,
    draw_cells,
    find_cells,
    read_cells,
)
from cellkit.stages.outcomes import Failure, Skipped

Inputs: TypeAlias = list[Found] | Iterator[Found | Failure]  # of a stream as they arrive


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """That only a part of the cells shall be kept.

    Attributes:
        fraction: of all cells together.
        seed: of the draw.
        quiet: not a word about it.
    """

    fraction: float
    seed: int
    quiet: bool


def keeping(fraction: float | None, seed: int, root: str, to: Format, quiet: bool) -> Keeping | None:
    """What ``--keep-fraction`` asks for, checked before any work.

    Raises:
        UsageError: no fraction, a format that cannot hold sparse labels, or a stream.
    """
    if fraction is None:
        return None
    check_sparse(fraction, to)
    if root == STREAM:
        problem = "a stream is read once, and all cells are counted before some are drawn"
        raise UsageError("--keep-fraction", problem, "unpack the stream and name the folder")
    return Keeping(fraction=fraction, seed=seed, quiet=quiet)


def find(root: str, output: str, to: Format, image: str | None, size: tuple[int, int] | None) -> Inputs:
    """The labelled images, in the order of their layout or of the stream.

    Args:
        root: as the user named it.
        output: likewise.
        to: format.
        image: the image of drawn outlines or a folder of such, or None.
        size: (H, W) of it, or None.

    Raises:
        UsageError: what cannot go through a stream.
        NoInputError, InputError: as :func:`cellkit.stages.converting.find_cells`.
    """
    streams.check(root, output, to)
    if root != STREAM:
        return find_cells(root, image, size)
    if image is not None:
        raise UsageError("--image", "members of a stream have no image", "give --shape H,W")
    return streams.found_in_stream(size)


def count_of(found: Inputs) -> int | None:
    """How many there are, if it is known."""
    return len(found) if isinstance(found, list) else None


@contextlib.contextmanager
def delivered(
    output: str, to: Format, on_exists: OnExists, found: Inputs, keeping: Keeping | None = None
) -> Iterator[tuple[Iterator[Cells | Failure | Skipped], Sink]]:
    """What comes out for each image and the open sink, after all that can be said against the output before any work.

    Raises:
        UsageError: the output cannot be meant, has no room for the images, or is one of the inputs.
        LockedError: another run is writing into the folder.
    """
    known = found if isinstance(found, list) else []
    outputs = sinks.Outputs(on_exists, sinks.inputs_of(known))
    if not is_folder(output) and Path(output).resolve() in outputs.inputs:
        raise UsageError(output, "the output would take the place of an input", "choose another -o")
    cells = read_cells(found, to) if keeping is None else _part_of_cells(known, to, keeping)
    if to in LABEL_IMAGES:
        with _label_sink(output, to, outputs, known) as labels:
            labels.expect(len(known))
            yield _unless_done(cells, labels), labels
        return
    try:
        opened = _sink(output, to, outputs, known)
    except OutputError as error:
        raise UsageError(error.subject, error.problem, error.repair) from error
    with opened as sink:
        sink.expect(len(known))
        yield _prepared(cells, sink), cast(Sink, sink)


def _part_of_cells(found: list[Found], to: Format, keeping: Keeping) -> Iterator[Cells | Failure]:
    """A part of the cells, once those of all images are counted."""
    counted = reporting.progress(count_cells(found), len(found), keeping.quiet)
    kept = draw_cells(dict(counted), keeping.fraction, keeping.seed)
    if kept.total:
        reporting.notice(f"{kept.count} of {kept.total} cells are kept, by seed {kept.seed}")
    yield from read_cells(found, to, kept)


def _label_sink(output: str, to: Format, outputs: sinks.Outputs, found: list[Found]) -> Sink:
    if output != STREAM and is_folder(output):
        targets = (Path(output) / f"{one.key}.{to}" for one in found)
        taken = next((path for path in targets if path.resolve() in outputs.inputs), None)
        if taken is not None:
            raise UsageError(taken, "the output would take the place of an input", "choose another -o")
    return open_sink(output, "labels", outputs.on_exists, f".{to}")


def _sink(
    output: str, to: Format, outputs: sinks.Outputs, found: list[Found]
) -> sinks.PartsFolder | sinks.PartFile | sinks.CocoSink | sinks.FramesFolder | streams.PartsStream:
    path = Path(output)
    if to == "coco":
        file = path / sinks.COCO_FILE if is_folder(output) else path
        return sinks.CocoSink(None if output == STREAM else file, outputs)
    if output == STREAM:
        return streams.PartsStream(to)
    if to == "ctc":
        return sinks.FramesFolder(path, [one.key for one in found], outputs)
    return sinks.PartsFolder(path, to, outputs) if is_folder(output) else sinks.PartFile(path, to, outputs)


def _unless_done(items: Iterable[Cells | Failure], sink: Sink) -> Iterator[Cells | Failure | Skipped]:
    for item in items:
        done = isinstance(item, Cells) and sink.is_done(item.key, item.history)
        yield Skipped(key=item.key, source=item.source) if done else item


def _prepared(items: Iterable[Cells | Failure], sink: sinks.ExportSink) -> Iterator[Cells | Failure | Skipped]:
    """Cells whose files are encoded and may be written; those whose files are there are skipped."""
    for item in items:
        if isinstance(item, Failure):
            yield item
            continue
        try:
            yield item if sink.prepare(item) else Skipped(key=item.key, source=item.source)
        except UsageError:
            raise
        except CellkitError as error:
            yield Failure(key=item.key, source=item.source, error=error)
