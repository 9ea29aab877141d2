"""What the user of ``cellkit finetune`` has chosen, in parts that its ways of learning take as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cellkit.config import FinetuneMethodName, NetworkName, OnExists, RepresentationName, TrainedPartName


@dataclass(frozen=True)
class Images:
    """Which images there are, and what is done with them; as the options of the same names."""

    shots: Sequence[str]
    names: str | None
    val: str | None
    pairs: str | None
    channels: str | None
    query: Sequence[str] | None
    contrast: str | None
    count: int | None
    draw: int
    fraction: float | None = None


@dataclass(frozen=True)
class Choices:
    """How is learned; as the options of the same names."""

    model: str | None
    method: FinetuneMethodName
    train: TrainedPartName
    steps: int
    lr: float | None
    diameter: float | None
    seed: int
    settings: Sequence[str] | None


@dataclass(frozen=True)
class Support:
    """Options of the method ``supported`` alone."""

    labels: str | None
    pseudo: str | None
    alpha: float | None
    network: NetworkName | None
    representation: RepresentationName | None


@dataclass(frozen=True)
class Place:
    """Where it runs and what it writes; as the options of the same names."""

    output: str
    resume: bool
    on_exists: OnExists
    dry_run: bool
    device: tuple[str, str]
    quiet: bool
