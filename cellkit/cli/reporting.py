"""Words, progress and failures of the verbs that go over images: stderr for people, stdout for data."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tqdm import tqdm

from cellkit.errors import CellkitError, NoInputError, PartialError, UsageError
from cellkit.io.sinks import STREAM, Sink, names_folder
from cellkit.stages.outcomes import Failure, Skipped

log = logging.getLogger(__name__)
T = TypeVar("T")

NOTICE = 25  # between information and warnings: shown unless --quiet
HEARTBEAT_SECONDS = 60.0  # between plain progress lines where there is no terminal
FAILURES_NAMED = 3  # in the closing line; more are counted


def set_up_logging(verb: str, verbose: int, quiet: bool) -> None:
    """Notices and warnings to stderr as one line each; ``-v`` adds information, ``-vv`` debugging."""
    level = logging.ERROR if quiet else [NOTICE, logging.INFO, logging.DEBUG][min(verbose, 2)]
    handler = _Stderr()
    handler.setFormatter(_Lines(verb))
    package = logging.getLogger("cellkit")
    package.handlers[:] = [handler]
    package.setLevel(level)
    package.propagate = False


class _Stderr(logging.Handler):
    """Lines that do not tear a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class _Lines(logging.Formatter):
    def __init__(self, verb: str) -> None:
        super().__init__()
        self.verb = verb

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno in (logging.INFO, NOTICE) else f"{record.levelname.lower()}: "
        trace = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        return f"cellkit {self.verb}: {level}{record.getMessage()}{trace}"


def counted_images(number: int) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} image" + ("" if number == 1 else "s")


def notice(text: str) -> None:
    """A line that people should see, unless ``--quiet``."""
    log.log(NOTICE, "%s", text)


@dataclass
class Tally:
    """What became of the images of one run."""

    done: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Images that came."""
        return self.done + self.skipped + len(self.failures)

    def check(self, subject: str, output: str = STREAM) -> None:
        """Raise what the exit code must tell.

        Args:
            subject: the inputs, in short.
            output: as the user named it; a folder has a list of what failed.

        Raises:
            NoInputError: no image came at all.
            CellkitError: the only image failed: its own error.
            PartialError: some of several images failed.
        """
        if self.total == 0:
            raise NoInputError(subject, "no image came", "give image files, folders, or a tar stream with images")
        if not self.failures:
            return
        if self.total == 1:
            raise self.failures[0].error
        names = ", ".join(f.key for f in self.failures[:FAILURES_NAMED])
        names += ", ..." if len(self.failures) > FAILURES_NAMED else ""
        hints = ["the others are done"] if len(self.failures) < self.total else []
        hints += ["failed.tsv says why"] if output != STREAM and names_folder(output) else []
        problem = f"{len(self.failures)} of {self.total} images failed: {names}"
        raise PartialError(subject, problem, "; ".join(hints) or None)


def progress(items: Iterable[T], total: int | None, quiet: bool, unit: str = "image") -> Iterator[T]:
    """Pass items on; a bar when stderr is a terminal, else a line now and then, nothing when quiet."""
    if quiet:
        yield from items
    elif sys.stderr.isatty():
        yield from tqdm(items, total=total, unit=unit, file=sys.stderr, leave=False)
    else:
        yield from _heartbeat(items, total, unit)


def _heartbeat(items: Iterable[T], total: int | None, unit: str) -> Iterator[T]:
    start = last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= HEARTBEAT_SECONDS:
            last = now
            of = f" of {total}" if total else ""
            notice(f"{count}{of} {unit}s, {count / (now - start):.2f} per second")


def check_json(as_json: bool, output: str) -> None:
    """Refuse two kinds of data on one stdout.

    Raises:
        UsageError: ``--json`` beside a tar stream.
    """
    if as_json and output == STREAM:
        raise UsageError("--json", "stdout carries the tar stream already", "choose another -o, or leave --json out")


def deliver(outcomes: Iterable[Any], sink: Sink, *, total: int | None, quiet: bool, as_json: bool = False) -> Tally:
    """Write each result as soon as it is there; record failures and go on.

    Args:
        outcomes: results, failures and skips.
        sink: where results go.
        total: how many images are expected, if known.
        quiet: no progress.
        as_json: one line of JSON per image on stdout.
    """
    tally, cells, start = Tally(), 0, time.monotonic()
    counting = as_json or log.isEnabledFor(logging.INFO)
    for item in progress(outcomes, total, quiet):
        outcome = _written(item, sink)
        count = getattr(outcome, "count", None) if counting else None
        cells += count or 0
        _note(outcome, tally, count)
        if as_json:
            sys.stdout.write(json.dumps(_as_json(outcome, count), ensure_ascii=False) + "\n")
            sys.stdout.flush()  # whoever reads the lines waits for them
    found = f"; {cells} cells" if cells else ""
    parts = f"{tally.done} done, {tally.skipped} up to date, {len(tally.failures)} failed{found}"
    log.info("%s: %s; %.1f s", counted_images(tally.total), parts, time.monotonic() - start)
    return tally


def _written(item: Any, sink: Sink) -> Any:  # noqa: ANN401 - any result with a key
    """The result once it is written, or the failure that it became."""
    if isinstance(item, Skipped):
        return item
    if not isinstance(item, Failure):
        try:
            sink.write(item)
            return item
        except CellkitError as error:
            item = Failure(key=item.key, source=item.source, error=error)
    sink.record_failure(item.key, item.source, str(item.error))
    return item


def _note(outcome: Any, tally: Tally, count: int | None) -> None:  # noqa: ANN401
    """Count and say what became of an image; the failure of the only one ends the run, and is said there."""
    if tally.total == 1 and tally.failures:
        log.warning("%s", tally.failures[0].error)
    match outcome:
        case Failure():
            tally.failures.append(outcome)
            if tally.total > 1:
                log.warning("%s", outcome.error)
        case Skipped():
            tally.skipped += 1
            log.info("%s: up to date", outcome.key)
        case _:
            tally.done += 1
            log.info("%s: %s", outcome.key, "done" if count is None else f"{count} cells")


def _as_json(outcome: Any, count: int | None) -> dict[str, Any]:  # noqa: ANN401
    base = {"key": outcome.key, "source": outcome.source}
    match outcome:
        case Failure():
            return base | {"status": "failed", "error": str(outcome.error)}
        case Skipped():
            return base | {"status": "up to date"}
    return base | {"status": "done"} | ({} if count is None else {"cells": count})
