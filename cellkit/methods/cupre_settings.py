"""Settings of alternate multi-task pre-training: without torch, so that help can list them fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from cellkit.config import Spec
from cellkit.errors import UsageError

PhaseName: TypeAlias = Literal["warm-up", "contrast", "labelled"]


class Place(NamedTuple):
    """Where a step is in the run.

    Attributes:
        phase: what it learns from.
        round: number of the round, 0 in the warm-up.
        number: of the step in its phase of the round, or in the warm-up.
    """

    phase: PhaseName
    round: int
    number: int


@dataclass(frozen=True, kw_only=True)
class Plan(Spec):
    """What comes when: the warm-up on labelled images, then rounds of contrast and of labelled images (AMT2).

    Attributes:
        warm: steps of the warm-up.
        rounds: how often both tasks follow each other (R).
        contrast: steps of each round on unlabelled images (m).
        labelled: steps of each round on labelled images (d).

    Raises:
        UsageError: a round without steps of one of its tasks.
    """

    warm: int
    rounds: int
    contrast: int
    labelled: int

    def __post_init__(self) -> None:
        """See the class."""
        if min(self.rounds, self.contrast, self.labelled, self.warm + 1) < 1:
            problem = f"{self.rounds} rounds of {self.contrast} and {self.labelled} steps leave a task out"
            raise UsageError("plan", problem, "give each task a step, and a round at least")

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.warm + self.rounds * (self.contrast + self.labelled)

    def at(self, step: int) -> Place:
        """Where the step is before which ``step`` were done; beyond the end the last phase goes on."""
        if step < self.warm:
            return Place("warm-up", 0, step)
        length = self.contrast + self.labelled
        number, into = divmod(step - self.warm, length)
        if number >= self.rounds:
            number, into = self.rounds - 1, step - self.warm - (self.rounds - 1) * length
        if into < self.contrast:
            return Place("contrast", number, into)
        return Place("labelled", number, into - self.contrast)

    def unlabelled_before(self, place: Place) -> int:
        """Batches of unlabelled images before that of a step of the phase ``contrast``."""
        return place.round * self.contrast + place.number

    def labelled_before(self, place: Place, parts: int) -> tuple[int, int]:
        """Which part of the labelled images a step learns from, and how many of its batches came before.

        The warm-up takes the parts in turn, step by step; round r has part r alone.

        Args:
            place: a step of the warm-up or of the phase ``labelled``.
            parts: how many there are; with fewer than rounds they come again.
        """
        if place.phase == "warm-up":
            return place.number % parts, place.number // parts
        part = place.round % parts
        in_warm_up = (self.warm - part + parts - 1) // parts
        return part, in_warm_up + place.round // parts * self.labelled + place.number


@dataclass(frozen=True, kw_only=True)
class CupreSettings(Spec):
    """Alternate multi-task pre-training (CUPre, section III-D).

    Attributes:
        rounds: of contrast and labelled images in turn, each with its own part of the labelled images (R).
        warm_part: part of all steps that is the warm-up on labelled images; the rest is divided into equal rounds.
        contrast_part: part of each round that learns from unlabelled images.
        contrast_batch: crops in a step on unlabelled images, of each of which there are two views.
        contrast_rate: learning rate on unlabelled images, which follows the same schedule, or none: that of the run;
            where a detector learns, MoCo's 0.03 for 256 crops a step, and in proportion for others.
        sp_strength: factor of the penalty for leaving the weights that the unlabelled images gave the encoder in the
            same round; 0: CUPre--.
        sp_balance: share of the distance from them, against the share of the plain squared norm (alpha of eq. 7).
        freeze_trunk: labelled images leave the encoder as it is in the rounds, instead of the penalty.
    """

    rounds: int = 10
    warm_part: float = 0.25
    contrast_part: float = 0.5
    contrast_batch: int = 32
    contrast_rate: float | None = None
    sp_strength: float = 0.05
    sp_balance: float = 0.9
    freeze_trunk: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: a number is out of range.
        """
        for name, value in (("rounds", self.rounds), ("contrast_batch", self.contrast_batch)):
            if value < 1:
                raise UsageError(name, f"{value} is none", "give 1 or more")
        if not 0 <= self.warm_part < 1:
            raise UsageError("warm_part", f"{self.warm_part:g} is out of range", "give a part of all steps below 1")
        if not 0 < self.contrast_part < 1:
            raise UsageError("contrast_part", f"{self.contrast_part:g} is out of range", "give a part between 0 and 1")
        if self.contrast_rate is not None and not self.contrast_rate > 0:
            raise UsageError("contrast_rate", f"{self.contrast_rate:g} is not above 0", "e.g. 0.03")
        if self.sp_strength < 0:
            raise UsageError("sp_strength", f"{self.sp_strength:g} is negative", "give 0 or more")
        if not 0 <= self.sp_balance <= 1:
            raise UsageError("sp_balance", f"{self.sp_balance:g} is out of range", "give a number from 0 to 1")

    def plan(self, steps: int) -> Plan:
        """All steps of a run divided; what does not divide into rounds is added to the warm-up.

        Raises:
            UsageError: too few steps for so many rounds.
        """
        each = (steps - round(steps * self.warm_part)) // self.rounds
        if each < 2:
            problem = f"{steps} are too few for {self.rounds} rounds of two tasks after the warm-up"
            raise UsageError("--steps", problem, "give more steps, or --set rounds of fewer")
        contrast = min(max(1, round(each * self.contrast_part)), each - 1)
        return Plan(warm=steps - self.rounds * each, rounds=self.rounds, contrast=contrast, labelled=each - contrast)
