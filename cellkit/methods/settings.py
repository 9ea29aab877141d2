"""Settings of the ways of learning that have some of their own; without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from cellkit.config import Spec
from cellkit.errors import UsageError

StatisticsName: TypeAlias = Literal["shots", "all"]


@dataclass(frozen=True, kw_only=True)
class ContrastSettings(Spec):
    """Settings of contrastive fine-tuning (Scellseg, eq. 2 and 3).

    Attributes:
        alpha: where alpha begins; the contrast term is weighed by its sigmoid.
        alpha_rate: full learning rate of alpha; it follows the schedule of the others.
        epsilon: added to the denominator of the contrast term.
        statistics: whose features enter the running statistics of batch norm, which prediction uses: those of the
            ``shots``, or of ``all``, query and contrast crops too, as in the authors' code.
    """

    alpha: float = 0.2
    alpha_rate: float = 0.1
    epsilon: float = 1e-5
    statistics: StatisticsName = "shots"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: a negative rate, or an epsilon that is not above 0.
        """
        if self.alpha_rate < 0:
            raise UsageError("alpha_rate", f"{self.alpha_rate:g} is negative", "give 0 or more")
        if not self.epsilon > 0:
            raise UsageError("epsilon", f"{self.epsilon:g} is not above 0", "e.g. 1e-5")


@dataclass(frozen=True, kw_only=True)
class L2SPSettings(Spec):
    """Settings of fine-tuning that stays near the base (Li et al. 2018; CUPre, eq. 7).

    Attributes:
        strength: factor of the penalty; 0.05 is the 0.1 / 2 of Li et al.
        balance: share of the distance to the base, against the share of the plain squared norm, 0 to 1.
    """

    strength: float = 0.05
    balance: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: a negative strength, or a balance out of [0, 1].
        """
        if self.strength < 0:
            raise UsageError("strength", f"{self.strength:g} is negative", "give 0 or more")
        if not 0 <= self.balance <= 1:
            raise UsageError("balance", f"{self.balance:g} is out of range", "give a number from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class SupportedSettings(Spec):
    """Settings of supervision that is supported by pseudo labels (Cellulus, section 4.2).

    Attributes:
        alpha: weight of the loss on pseudo labels; that on sparse labels has 1 - alpha. At 0 and 1 the other half of
            the batch falls away.
        background: pixels around labelled cells in which what is no cell is background; beyond nothing is known.
    """

    alpha: float = 0.5
    background: float = 30.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: alpha out of [0, 1], or a negative reach of the background.
        """
        if not 0 <= self.alpha <= 1:
            raise UsageError("--alpha", f"{self.alpha:g} is out of range", "give a number from 0 to 1")
        if not self.background >= 0:
            raise UsageError("background", f"{self.background:g} is negative", "give pixels, e.g. 30")
