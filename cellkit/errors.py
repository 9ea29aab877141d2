"""Every failure that a user can cause or meet, each with its exit code.

The command line prints ``cellkit VERB: error: SUBJECT: PROBLEM (REPAIR)`` in one line and exits with ``code``.
Whatever is not a :class:`CellkitError` is a bug and exits with 1.
"""

from __future__ import annotations

import os
from typing import ClassVar


class CellkitError(Exception):
    """An expected failure: what it concerns, what is wrong, what to do about it.

    Args:
        subject: the file, option or image it concerns, as the user wrote it.
        problem: what is wrong, one clause without a full stop.
        repair: what the user can do, and the choices there are.
    """

    code: ClassVar[int] = 1

    def __init__(self, subject: str | os.PathLike[str], problem: str, repair: str | None = None) -> None:
        self.subject = str(subject)
        self.problem = problem
        self.repair = repair
        super().__init__(self.subject, problem, repair)

    def __str__(self) -> str:
        text = f"{self.subject}: {self.problem}" + (f" ({self.repair})" if self.repair else "")
        return " ".join(text.split())  # one line, whatever a library put into its message


class UsageError(CellkitError):
    """An option or argument that cannot be meant: unknown choice, contradiction, output that exists."""

    code = 2


class DeviceError(UsageError):
    """A device or precision was asked for by name and is not there."""


class PartialError(CellkitError):
    """Some images failed; the others are written."""

    code = 3


class OutputError(PartialError):
    """An output could not be written or did not read back as written (full disk, folder gone)."""


class NoInputError(CellkitError):
    """No input matched."""

    code = 4


class InputError(CellkitError):
    """An input is missing, unreadable, truncated or not of the kind that is needed."""

    code = 5


class ModelError(InputError):
    """A model file is unreadable, truncated, of a newer format, or does not fit its input."""


class TrainingError(CellkitError):
    """Training cannot go on: a loss is not finite."""

    code = 1


class GateError(CellkitError):
    """A score stayed under what ``evaluate --fail-under`` asks."""

    code = 6


class LockedError(CellkitError):
    """Another run holds the lock of the output."""

    code = 75


class InterruptedRunError(CellkitError):
    """SIGINT (130) or SIGTERM (143) after a clean save.

    Args:
        subject: the file that holds the saved state.
        problem: what was saved.
        signal_number: the signal that stopped the run.
    """

    def __init__(self, subject: str | os.PathLike[str], problem: str, signal_number: int) -> None:
        super().__init__(subject, problem, "run the same command again to go on")
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """128 + signal number, as shells report it."""
        return 128 + self.signal_number


class MemoryLimitError(CellkitError):
    """Out of memory after every fallback."""

    code = 137
