"""Classic fine-tuning: go on with supervised learning, on the shots."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from cellkit.methods.supervised import Supervised
from cellkit.methods.tuning import Tuning, freeze


class Classic(Supervised):
    """Supervised learning on the shots, of the whole network or a part of it (Scellseg, "classic").

    Raises:
        ModelError: a part is wanted of a network that has none.
    """

    def __init__(self, tuning: Tuning) -> None:
        freeze(tuning.network, tuning.part, base=tuning.base)
        super().__init__(tuning.network, tuning.representation, tuning.shots, batch=tuning.batch, seed=tuning.seed)

    def split(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights of the network; nothing is trained beside it."""
        return dict(state), {}
