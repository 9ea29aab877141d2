"""Settings of momentum contrast: without torch, so that help can list them fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from cellkit.config import Spec
from cellkit.errors import UsageError

MoCoVersion: TypeAlias = Literal["v2", "v1"]

TEMPERATURES: dict[MoCoVersion, float] = {"v2": 0.2, "v1": 0.07}


@dataclass(frozen=True, kw_only=True)
class MoCoSettings(Spec):
    """Momentum contrast (He et al. 2020; v2: Chen et al. 2020).

    Attributes:
        version: ``v2``: two layers project the features, ``v1``: one; temperature and views follow.
        temperature: what similarities are divided by (tau), or none: 0.2 of v2, 0.07 of v1.
        projection: length of the vectors that are compared (D_v).
        key_momentum: how much of its weights the key encoder keeps in each step (m).
        queue: keys of former batches that a query is told from (K), or none: half as many as there are images, at most
            4096. A multiple of the batch is taken.
        key_groups: parts of a batch of keys, in random order, that batch normalisation sees one by one, as if each
            were on a GPU of its own; it keeps the network from telling its positive by the statistics of the batch.
    """

    version: MoCoVersion = "v2"
    temperature: float | None = None
    projection: int = 128
    key_momentum: float = 0.999
    queue: int | None = None
    key_groups: int = 2

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UsageError: a number is out of range, a version is unknown.
        """
        if self.version not in get_args(MoCoVersion):
            raise UsageError("version", f"'{self.version}' is unknown", "choose from v2, v1")
        if self.temperature is not None and not self.temperature > 0:
            raise UsageError("temperature", f"{self.temperature:g} is not above 0", "e.g. 0.2")
        if not 0 <= self.key_momentum <= 1:
            raise UsageError(
                "key_momentum", f"{self.key_momentum:g} is out of range", "give a number up to 1, e.g. 0.999"
            )
        for name, value in (("projection", self.projection), ("queue", self.queue), ("key_groups", self.key_groups)):
            if value is not None and value < 1:
                raise UsageError(name, f"{value} is none", "give 1 or more")

    @property
    def tau(self) -> float:
        """The temperature, that of the version where none was chosen."""
        return TEMPERATURES[self.version] if self.temperature is None else self.temperature
