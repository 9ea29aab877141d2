"""Progress on stderr: a bar on a terminal, a line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

LINE_SECONDS = 30.0  # between lines in a log file


class Progress:
    """Context that shows how far long work is, how fast it goes and how long it will take.

    Args:
        total: steps or items in all, or None where nobody knows.
        unit: what is counted, in the plural.
        done: how many were done before, in an earlier run.
        quiet: show nothing.
        stream: where to; None: stderr.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        total: int | None,
        unit: str = "steps",
        *,
        done: int = 0,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.unit, self.quiet = total, unit, quiet
        self.stream = sys.stderr if stream is None else stream
        self._clock, self._begin, self._first, self._done = clock, clock(), done, done
        self._spoken: float | None = None  # when the last line was written
        self._said = done  # what it said
        self._words = ""
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if not self.quiet and self.stream.isatty():
            self._bar = tqdm(total=self.total, initial=self._first, unit=f" {self.unit}", file=self.stream)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._done != self._said:
            self._write_line()

    def update(self, done: int, values: Mapping[str, float] | None = None) -> None:
        """Say that so many are done, with the newest values of what is watched."""
        self._done = done
        if self.quiet:
            return
        self._words = " ".join(f"{name} {value:.4g}" for name, value in (values or {}).items())
        if self._bar is not None:
            self._bar.set_postfix_str(self._words, refresh=False)
            self._bar.update(done - self._bar.n)
        elif self._spoken is None or self._clock() - self._spoken >= LINE_SECONDS:
            self._write_line()

    def _write_line(self) -> None:
        if self.quiet:
            return
        self._spoken, self._said = self._clock(), self._done
        parts = [f"{self._done}/{self.total} {self.unit}" if self.total else f"{self._done} {self.unit}", self._words]
        seconds = self._clock() - self._begin
        if self._done > self._first and seconds > 0:
            rate = (self._done - self._first) / seconds
            parts.append(f"{rate:.3g} {self.unit}/s")
            if self.total and self.total > self._done:
                parts.append(f"{duration((self.total - self._done) / rate)} left")
        self.stream.write(", ".join(p for p in parts if p) + "\n")
        self.stream.flush()


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
