"""Words, progress and failures of the verbs that go over images: stderr for people, stdout for data."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tqdm import tqdm

from cellkit.errors import CellkitError, NoInputError, PartialError
from cellkit.stages.outcomes import Failure, Skipped

if TYPE_CHECKING:
    from cellkit.io.sinks import Sink

log = logging.getLogger(__name__)
T = TypeVar("T")

HEARTBEAT_SECONDS = 60.0  # between plain progress lines where there is no terminal


class Keyed(Protocol):
    """A result of one image."""

    @property
    def key(self) -> str:
        """Output name of the image."""


def set_up_logging(verb: str, verbose: int, quiet: bool) -> None:
    """Warnings and worse to stderr as one line each; ``-v`` adds information, ``-vv`` debugging."""
    level = logging.ERROR if quiet else [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(verb))
    package = logging.getLogger("cellkit")
    package.handlers[:] = [handler]
    package.setLevel(level)
    package.propagate = False


class _Lines(logging.Formatter):
    def __init__(self, verb: str) -> None:
        super().__init__()
        self.verb = verb

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        trace = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        return f"cellkit {self.verb}: {level}{record.getMessage()}{trace}"


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

    def check(self, subject: str) -> None:
        """Raise what the exit code must tell.

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
        names = ", ".join(f.key for f in self.failures[:3]) + (" ..." if len(self.failures) > 3 else "")
        raise PartialError(
            subject, f"{len(self.failures)} of {self.total} images failed: {names}", "the others are done"
        )


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
            log.warning("%d%s %ss, %.2f per second", count, of, unit, count / (now - start))


def deliver(outcomes: Iterable[Any], sink: Sink, *, total: int | None, quiet: bool, as_json: bool = False) -> Tally:
    """Write each result as soon as it is there; record failures and go on.

    Args:
        outcomes: results, failures and skips.
        sink: where results go.
        total: how many images are expected, if known.
        quiet: no progress.
        as_json: one line of JSON per image on stdout.
    """
    tally = Tally()
    for outcome in progress(outcomes, total, quiet):
        match outcome:
            case Failure():
                _fail(tally, outcome, sink)
            case Skipped():
                tally.skipped += 1
            case _:
                try:
                    sink.write(outcome)
                    tally.done += 1
                except CellkitError as error:
                    _fail(tally, Failure(key=outcome.key, source=outcome.source, error=error), sink)
        if as_json:
            sys.stdout.write(json.dumps(_as_json(outcome), ensure_ascii=False) + "\n")
    if tally.skipped and not quiet:
        log.info("%d images were up to date", tally.skipped)
    return tally


def _fail(tally: Tally, failure: Failure, sink: Sink) -> None:
    tally.failures.append(failure)
    sink.record_failure(failure.key, failure.source, str(failure.error))
    log.warning("%s", failure.error)


def _as_json(outcome: Any) -> dict[str, Any]:  # noqa: ANN401 - any result with a key
    base = {"key": outcome.key, "source": outcome.source}
    match outcome:
        case Failure():
            return base | {"status": "failed", "error": str(outcome.error)}
        case Skipped():
            return base | {"status": "up to date"}
    count = getattr(outcome, "count", None)
    return base | {"status": "done"} | ({} if count is None else {"cells": count})
