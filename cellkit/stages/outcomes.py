"""What comes out of a stage for one image besides its result: a failure or a skip. One bad image costs one image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from cellkit.errors import CellkitError
from cellkit.provenance import History

IsDone: TypeAlias = Callable[[str, History], bool]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An image that could not be done.

    Attributes:
        key: output name of the image.
        source: the image as the user named it.
        error: why.
    """

    key: str
    source: str
    error: CellkitError


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An image whose output is there and up to date."""

    key: str
    source: str


def never_done(key: str, history: History) -> bool:
    """The default: nothing is skipped."""
    return False
