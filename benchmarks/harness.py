"""The harness: timings in pairs, goals, and what a comparison is given to work with."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from benchmarks.peer import Peer
    from cellkit.engine.device import Device

Seconds: TypeAlias = Callable[[], float]
Kind: TypeAlias = Literal["faster", "cost", "value"]

SIGNS: dict[Kind, str] = {"faster": ">=", "cost": "<=", "value": "<="}


class Unavailable(Exception):
    """A comparison cannot be made here; the message says what is missing."""


@dataclass(frozen=True)
class Goal:
    """What a comparison is to reach.

    Attributes:
        kind: ``faster``: the peer takes at least ``limit`` times as long; ``cost``: ours takes at most ``limit``
            times as long; ``value``: ours alone is at most ``limit``.
        limit: a factor, or in the unit of the measurement.
    """

    kind: Kind
    limit: float

    def is_met(self, value: float) -> bool:
        """Whether a median reaches the goal."""
        return value >= self.limit if self.kind == "faster" else value <= self.limit


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One line of the table.

    Attributes:
        comparison: name of the comparison.
        case: what it was made on.
        ours: one number per round.
        other: the peer's, round by round; empty where ours stands alone.
        unit: of both.
        goal: what is wanted, or None: told for information.
        note: what else one should know.
    """

    comparison: str
    case: str
    ours: tuple[float, ...]
    other: tuple[float, ...] = ()
    unit: str = "s"
    goal: Goal | None = None
    note: str = ""

    @property
    def values(self) -> tuple[float, ...]:
        """What the goal is about, round by round: ratios, or ours alone."""
        if not self.other:
            return self.ours
        pairs = zip(self.ours, self.other, strict=True)
        if self.goal is not None and self.goal.kind == "cost":
            return tuple(ours / other for ours, other in pairs)
        return tuple(other / ours for ours, other in pairs)

    @property
    def median(self) -> float:
        """Of :attr:`values`: the median of the paired ratios, not the ratio of the medians."""
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        return None if self.goal is None else self.goal.is_met(self.median)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        goal = None if self.goal is None else {"kind": self.goal.kind, "limit": self.goal.limit}
        return {
            "comparison": self.comparison,
            "case": self.case,
            "unit": self.unit,
            "ours": list(self.ours),
            "other": list(self.other),
            "values": list(self.values),
            "median": self.median,
            "lowest": min(self.values),
            "highest": max(self.values),
            "goal": goal,
            "met": self.is_met,
            "note": self.note,
        }


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a comparison is given.

    Attributes:
        data: folder of the real images.
        scratch: empty folder for files, removed at the end.
        start_peer: starts the other environment, or None where none is known.
        quick: small inputs and few rounds: to see that it works.
    """

    data: Path
    scratch: Path
    start_peer: Callable[[], Peer] | None = None
    quick: bool = False

    @cached_property
    def device(self) -> Device:
        """The CPU, set up as the commands do: threads by affinity, memory allocator, precision."""
        from cellkit.engine.device import open_device

        return open_device("cpu")

    @cached_property
    def peer(self) -> Peer:
        """The peer, with as many threads as we have.

        Raises:
            Unavailable: there is no environment for it.
        """
        import torch

        if self.start_peer is None:
            raise Unavailable("no environment of the peer (give --peer PYTHON; benchmarks/README.md makes one)")
        _ = self.device
        peer = self.start_peer()
        peer.request(do="threads", count=torch.get_num_threads())
        return peer

    def rounds(self, full: int) -> int:
        """Pairs to time, where ``full`` are wanted."""
        return 1 if self.quick else full


def timed(function: Callable[[], object]) -> Seconds:
    """A function that runs another and says how many seconds it took."""

    def run() -> float:
        begun = time.perf_counter()
        function()
        return time.perf_counter() - begun

    return run


def alternate(ours: Seconds, other: Seconds, rounds: int, *, warm_up: bool = True) -> tuple[tuple[float, ...], ...]:
    """Seconds of both, taken in turns (A B A B ...), so that a busy machine slows both sides of a pair.

    Args:
        ours: runs and times one side.
        other: runs and times the other.
        rounds: pairs.
        warm_up: run both once before, without counting (compilers, caches, first pages).
    """
    if warm_up:
        ours()
        other()
    pairs = [(ours(), other()) for _ in range(rounds)]
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)


def cellkit_command() -> list[str]:
    """How the command line is started: the console script beside this Python, or ``python -m cellkit``."""
    script = Path(sys.executable).with_name("cellkit")
    return [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-m", "cellkit"]
