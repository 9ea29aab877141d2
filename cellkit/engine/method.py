"""What the training loop asks of a way of learning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from cellkit.engine.optimisers import Optimisers, ParameterGroup

B = TypeVar("B")


class Method(Protocol[B]):
    """A way of learning: what it trains, from which batches, by which losses.

    It may also define ``parameter_groups`` (:class:`OwnGroups`), ``step`` (:class:`OwnStep`), ``state_dict`` and
    ``load_state_dict`` (:class:`OwnState`) and ``on_step_end`` (:class:`StepHook`). The engine leaves the training
    and evaluation modes of the modules as they are.
    """

    @property
    def modules(self) -> nn.Module:
        """Everything that is trained and saved."""

    def batches(self, start: int) -> Iterator[B]:
        """Endless batches on the device, from number ``start``; number s depends on the seed and s alone."""

    def losses(self, batch: B) -> Mapping[str, Tensor]:
        """Named terms (scalars), whose sum is minimised; terms without gradient are only logged."""


@runtime_checkable
class OwnGroups(Protocol):
    """A method whose parameters differ in learning rate, weight decay or optimiser."""

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """As :class:`cellkit.engine.optimisers.Optimisers` takes them."""


@runtime_checkable
class OwnStep(Protocol):
    """A method that does more in a step than go down one gradient (Reptile, maximum classifier discrepancy)."""

    def step(self, batch: Any, optimisers: Optimisers) -> Mapping[str, Tensor]:  # noqa: ANN401 - its own batch
        """Do the whole step, forward passes under ``optimisers.autocast()``; returns the terms to log."""


@runtime_checkable
class OwnState(Protocol):
    """A method with a state beside its modules (a teacher, a round number)."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""


@runtime_checkable
class StepHook(Protocol):
    """A method that does something after every step."""

    def on_step_end(self, step: int) -> None:
        """Called after ``step`` steps are done."""
