"""What all sinks have in common: the end of their block, and which existing outputs may stay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias

from cellkit.config import OnExists
from cellkit.errors import UsageError
from cellkit.io.detections import ObjectPrediction
from cellkit.io.labels import LabelImage, LabelRows
from cellkit.io.maps import Prediction
from cellkit.provenance import History, to_json

Kind: TypeAlias = Literal["labels", "maps"]
Item: TypeAlias = Prediction | ObjectPrediction | LabelImage | LabelRows

STORED: dict[Kind, tuple[str, ...]] = {"labels": ("labels",), "maps": ("maps", "instances")}
"""What files of ours may hold, by kind of output: predictions are maps or, of detectors, instances."""

ANOTHER = "choose another -o"


class DiscardedError(Exception):
    """Ends the block of a file under construction that shall not get its name; caught where it is raised."""


def _same(one: History, other: History) -> bool:
    """Equal as stored: a tuple among the arguments comes back as a list."""
    return to_json(one) == to_json(other)


def is_up_to_date(path: Path, stored: History | None, history: History, on_exists: OnExists) -> bool:
    """Whether an existing output can stay.

    Args:
        path: for messages.
        stored: its history, or None when it has none.
        history: that of the output that would be written.
        on_exists: what to do with outputs that are there.

    Raises:
        UsageError: it can neither stay nor be overwritten.
    """
    if on_exists == "overwrite":
        return False
    if on_exists == "error":
        raise UsageError(path, "exists already", f"add --on-exists skip or overwrite, or {ANOTHER}")
    if stored is None:
        problem = "exists and was not made by cellkit"
        raise UsageError(path, problem, f"add --on-exists overwrite, or {ANOTHER}")
    if not _same(stored, history):
        problem = "was made by other settings or of another input"
        raise UsageError(path, problem, f"add --on-exists overwrite, or {ANOTHER}")
    return True


def twice(output: str | Path, key: str) -> UsageError:
    """The error of a second image of the same name."""
    return UsageError(output, f"two images have the name {key!r}", "rename one of them")


class BaseSink(ABC):
    """What all sinks have in common: the end of the block."""

    def expect(self, count: int) -> None:  # noqa: B027 - most sinks have room
        """Any number of images has room."""

    def record_failure(self, key: str, source: str, reason: str) -> None:  # noqa: B027 - folders alone do
        """Nothing is noted here; stderr says it."""

    @abstractmethod
    def close(self) -> None:
        """Finish the output."""

    @abstractmethod
    def discard(self) -> None:
        """Leave nothing half-written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()
