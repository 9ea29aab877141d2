"""Settings of learning object-centric embeddings: without torch, so that help can list them fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from cellkit.config import Spec
from cellkit.errors import UsageError

DampingName: TypeAlias = Literal["gaussian", "sigmoid"]
ReductionName: TypeAlias = Literal["sum", "mean"]


@dataclass(frozen=True, kw_only=True)
class OceSettings(Spec):
    """The loss of Cellulus and the pairs of pixels that it compares.

    Attributes:
        kappa: largest distance in pixels of a reference from its anchor.
        density: anchors per pixel of the map, and references per pixel of the disc around each anchor.
        temperature: squared distance in pixels beyond which a pair counts less and less (tau).
        regularisation: weight of the length of the offset at each anchor (lambda).
        damping: ``gaussian``: 1 - exp(-d^2 / tau), as in the authors' code; ``sigmoid``: 1 / (1 + exp(-d^2 / tau)), as
            in the paper.
        detach_reference: only anchors move towards their references, as in the authors' code.
        reduction: ``sum`` over all pairs, as in the paper, or their ``mean``.
    """

    kappa: float = 10.0
    density: float = 0.1
    temperature: float = 10.0
    regularisation: float = 1e-5
    damping: DampingName = "gaussian"
    detach_reference: bool = False
    reduction: ReductionName = "sum"

    def __post_init__(self) -> None:
        """Refuse what gives no loss.

        Raises:
            UsageError: a number is out of range, a name is unknown.
        """
        if self.kappa < 1:
            raise UsageError("kappa", f"{self.kappa:g} px reach no neighbour", "give 1 or more, e.g. 10")
        if not 0 < self.density <= 1:
            raise UsageError("density", f"{self.density:g} is out of range", "give a number up to 1, e.g. 0.1")
        if self.temperature <= 0:
            raise UsageError("temperature", f"{self.temperature:g} is not above 0", "give a number such as 10")
        if self.regularisation < 0:
            raise UsageError("regularisation", f"{self.regularisation:g} is negative", "give 0 or more, e.g. 1e-5")
        for name, choices in (("damping", get_args(DampingName)), ("reduction", get_args(ReductionName))):
            if getattr(self, name) not in choices:
                raise UsageError(name, f"'{getattr(self, name)}' is unknown", f"choose from {', '.join(choices)}")
