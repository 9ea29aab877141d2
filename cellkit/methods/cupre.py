"""Alternate multi-task pre-training, AMT2: what is known of common objects, with eyes for cells (CUPre, section III).

After a warm-up on labelled images (COCO), rounds of two tasks: the encoder learns from all unlabelled images of cells
(MoCo), then the whole network from one part of the labelled images, with a penalty for moving the encoder away from
where the unlabelled images have just brought it (L2-SP, eq. 7). What is written is ready to be fine-tuned.

The alternation belongs to the method, not to the network: both tasks are ways of learning of their own, given to it. So
a dense network whose encoder can learn alone, with the loss of any representation, is pre-trained like a detector,
which no paper has.

The paper contradicts itself on the labelled step: the whole model is trained, with the penalty (III-D), which is the
default; or the backbone is frozen (V): ``freeze_trunk``. Then the statistics of its normalisations stay, too. Left open
there: how both penalty and loss are weighed (``sp_strength``; alpha is ``sp_balance``), the length of the tasks, and
what goes on from round to round: here each task has an optimiser of its own, whose moments it keeps, as are projection
and queue, while the key encoder begins each round as the encoder is then. The two squared norms of eq. 7 are over the
same weights, all of the encoder that are trained, as it stands there; Li et al. put the second on new layers alone. The
weight decay of the run stays beside them, as the warm-up needs it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from cellkit.engine.method import Method, OwnGroups
from cellkit.engine.optimisers import OWNER, Optimisers, ParameterGroup, parameters_of
from cellkit.errors import UsageError
from cellkit.methods.cupre_settings import CupreSettings, Place, Plan
from cellkit.methods.l2sp import l2sp
from cellkit.methods.moco_encoder import ImageEncoder

CONTRAST, LABELLED = "contrast", "labelled"  # the optimisers


class UnlabelledLearner(Method[Any], Protocol):
    """A way of learning of the encoder alone, as :class:`cellkit.methods.moco.MoCo`."""

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Encoder, and what only this task has."""

    def on_step_end(self, step: int) -> None:
        """Called after each of its own steps; ``step`` counts these alone."""

    def restart(self) -> None:
        """Called before a round, as something else has changed the encoder."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""


class CupreBatch(NamedTuple):
    """A batch of one of the tasks.

    Attributes:
        place: which task, and where in the run.
        part: of the labelled images; None: unlabelled ones.
        batch: as the way of learning made it.
    """

    place: Place
    part: int | None
    batch: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Tasks:
    """What takes turns.

    Attributes:
        unlabelled: trains the encoder.
        labelled: trains the whole network, one for each part of the labelled images; all of the same network.
    """

    unlabelled: UnlabelledLearner
    labelled: Sequence[Method[Any]]


class Cupre:
    """A labelled and an unlabelled task in turn, on one network.

    Args:
        tasks: both, of the same network.
        plan: what comes when.
        settings: of penalty and rates.

    Attributes:
        modules: the network.
        base: all weights of the encoder after the unlabelled images of this round (w0), or None before there is one.

    Raises:
        UsageError: there are no labelled images.
    """

    def __init__(self, tasks: Tasks, plan: Plan, settings: CupreSettings) -> None:
        if not tasks.labelled:
            raise UsageError("--labelled", "there is no part of labelled images", "give images with labels")
        self.modules: nn.Module = tasks.labelled[0].modules
        self.tasks = tasks
        self.plan = plan
        self.settings = settings
        self.encoder = ImageEncoder(self.modules)
        self.trunk = [weight for weight in self.encoder.weights() if weight.requires_grad]
        self.base: Tensor | None = None

    def parameter_groups(self) -> list[ParameterGroup]:
        """An optimiser for each task; each has the encoder."""
        rate = {} if self.settings.contrast_rate is None else {"lr": self.settings.contrast_rate}
        first = self.tasks.labelled[0]
        labelled = first.parameter_groups() if isinstance(first, OwnGroups) else parameters_of(self.modules)
        return [
            *({**group, **rate, OWNER: CONTRAST} for group in self.tasks.unlabelled.parameter_groups()),
            *({**group, OWNER: LABELLED} for group in labelled),
        ]

    def batches(self, start: int) -> Iterator[CupreBatch]:
        """Batches from step ``start`` on, each of the task whose turn it is."""
        streams: dict[int | None, Iterator[Any]] = {}  # by part, None: unlabelled
        for step in itertools.count(start):
            place = self.plan.at(step)
            part, number = self._stream(place)
            if place.phase == "labelled":  # images of other parts are not read ahead
                streams = {key: stream for key, stream in streams.items() if key in (None, part)}
            if part not in streams:
                streams[part] = self._task(part).batches(number)
            yield CupreBatch(place, part, next(streams[part]))

    def losses(self, batch: CupreBatch) -> Mapping[str, Tensor]:
        """Terms of the task, and on labelled images of a round ``l2sp`` (eq. 7)."""
        terms = self._task(batch.part).losses(batch.batch)
        if batch.part is None or self.base is None or self.settings.freeze_trunk or self.settings.sp_strength == 0:
            return terms
        penalty = l2sp(self._weights(), self.base, self.settings.sp_balance)
        return {**terms, "l2sp": self.settings.sp_strength * penalty}

    def step(self, batch: CupreBatch, optimisers: Optimisers) -> Mapping[str, Tensor]:
        """One step of the task by its own optimiser."""
        frozen = self.settings.freeze_trunk and batch.place.phase == "labelled"
        with self._held() if frozen else nullcontext():
            with optimisers.autocast():
                terms = self.losses(batch)
            optimisers.minimise(terms, CONTRAST if batch.part is None else LABELLED)
        return terms

    def on_step_end(self, step: int) -> None:
        """The unlabelled task ends its step; between tasks, weights are noted (w0) and the key encoder is set back."""
        done, to_come = self.plan.at(step - 1), self.plan.at(step)
        if done.phase == "contrast":
            self.tasks.unlabelled.on_step_end(self.plan.unlabelled_before(done) + 1)
            if to_come.phase != "contrast":
                self.base = self._weights().detach()
        elif to_come.phase == "contrast":
            self.tasks.unlabelled.restart()

    def state_dict(self) -> dict[str, Any]:
        """The plan, w0, and what the unlabelled task keeps."""
        return {"plan": self.plan.to_dict(), "base": self.base, "unlabelled": self.tasks.unlabelled.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave.

        Raises:
            UsageError: the run that is gone on with has other rounds.
        """
        if state["plan"] != self.plan.to_dict():
            earlier = Plan.from_dict(state["plan"]).steps
            problem = f"{self.plan.steps} here, but {earlier} in the run to go on with, which sets when rounds begin"
            raise UsageError("--steps", problem, "use the same number, or start another run")
        base = state["base"]
        self.base = None if base is None else base.to(self.encoder.ground.device)
        self.tasks.unlabelled.load_state_dict(state["unlabelled"])

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Inside, weights and statistics of the encoder are constants."""
        self.encoder.measure(measuring=False)
        for weight in self.trunk:
            weight.requires_grad_(False)
        try:
            yield
        finally:
            self.encoder.measure(measuring=True)
            for weight in self.trunk:
                weight.requires_grad_(True)

    def _stream(self, place: Place) -> tuple[int | None, int]:
        """Part of the labelled images, None for the unlabelled ones, and how many of its batches came before."""
        if place.phase == "contrast":
            return None, self.plan.unlabelled_before(place)
        return self.plan.labelled_before(place, len(self.tasks.labelled))

    def _task(self, part: int | None) -> Method[Any]:
        return self.tasks.unlabelled if part is None else self.tasks.labelled[part]

    def _weights(self) -> Tensor:
        """What of the encoder is trained, as one vector (w_S)."""
        return torch.cat([weight.flatten() for weight in self.trunk])
