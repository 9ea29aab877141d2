"""Mean teacher: a student learns on the target what the average of its own past weights says (Tarvainen, Valpola 2017).

The student sees the crops of the target with other intensities, the teacher sees them as they are; the student shall
nevertheless say the same (consistency, section 2 there). The teacher's weights follow those of the student after each
step, theta' = a theta' + (1 - a) theta, and it is the teacher that is predicted with.

As there: mean squared difference of probabilities (``consistency=hard``: the loss of the representation, with the
teacher's cells for the truth), a weight that rises as exp(-5 (1 - t)^2), and a true mean of the weights as long as that
forgets faster, a = min(decay, 1 - 1 / (s + 1)) after step s, as in the authors' code. Also as in their code the teacher
stays in training mode: it normalises each batch by itself, and its running statistics, which prediction uses, come
from its own passes; of the weights alone it is an average.

Left open by the paper, which knows no second domain: only crops of the target have a consistency; the source has the
loss of its labels. Theirs has a weight of 100 times the labelled part of the images (2 to 8 for CIFAR-10); ours is
``consistency_weight``. Maps that are no logits (flows, distances) have the error of the representation's own loss.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellkit.methods.adapt_ramp import risen
from cellkit.methods.adapt_strong import strong
from cellkit.methods.adaptation import (
    Adaptation,
    DomainBatch,
    check_probability,
    domain_batches,
    probability,
    pseudo_targets,
    under,
)
from cellkit.methods.contrastive import unrecorded
from cellkit.representations import Representation
from cellkit.representations.star import DISTANCE_WEIGHT

STUDENT, TEACHER = "student", "teacher"  # of the modules' state


class MeanTeacher:
    """A student with the exponential moving average of its weights as teacher.

    Raises:
        UsageError: the representation has no probability of a cell.
    """

    members = 1
    settled = True

    def __init__(self, adaptation: Adaptation) -> None:
        check_probability(adaptation.representation)
        self.adaptation = adaptation
        self.settings = adaptation.settings
        self.student = adaptation.network
        self.teacher = copy.deepcopy(adaptation.network).requires_grad_(False)
        self.modules = nn.ModuleDict({STUDENT: self.student, TEACHER: self.teacher})
        self.steps = 0

    def batches(self, start: int) -> Iterator[DomainBatch]:
        """Crops of both domains from step ``start`` on."""
        return domain_batches(self.adaptation, start)

    def losses(self, batch: DomainBatch) -> dict[str, Tensor]:
        """``source TERM`` of the labels, and ``target TERM`` of the teacher, with their weights."""
        representation, alone = self.adaptation.representation, self.settings.statistics == "target"
        with unrecorded(self.student) if alone else nullcontext():
            source = representation.loss(self.student(batch.source.images).maps.float(), batch.source.targets)
        maps = self.student(strong(batch.target, batch.seeds, self.settings)).maps.float()
        target = self._consistency(maps, self._taught(batch))
        whole = self.settings.consistency_ramp * self.adaptation.steps
        weight = self.settings.consistency_weight * risen(self.steps, round(whole))
        learned = {f"target {name}": weight * term for name, term in target.items()}
        return {f"source {name}": term for name, term in source.items()} | learned

    def on_step_end(self, step: int) -> None:
        """The teacher follows the student."""
        self.steps = step
        follow(self.teacher, self.student, min(self.settings.teacher_decay, 1 - 1 / (step + 1)))

    def split(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights of the teacher, and those of the student as ``student.NAME``."""
        student = {name: tensor for name, tensor in state.items() if name.startswith(f"{STUDENT}.")}
        return under(state, f"{TEACHER}."), student

    def state_dict(self) -> dict[str, Any]:
        """Steps done."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.steps = state["steps"]

    @torch.no_grad()
    def _taught(self, batch: DomainBatch) -> Tensor:
        """The teacher's maps of the target, float32."""
        if self.settings.statistics == "both":
            self.teacher(batch.source.images)  # for its running statistics
        maps: Tensor = self.teacher(batch.target).maps.float()
        return maps

    def _consistency(self, maps: Tensor, taught: Tensor) -> dict[str, Tensor]:
        """Terms of the student's maps against the teacher's."""
        representation = self.adaptation.representation
        if self.settings.consistency == "hard":
            return representation.loss(maps, pseudo_targets(taught, representation, self.adaptation.decoding))
        return soft_difference(maps, taught, representation)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move the weights, not the statistics, of a teacher to ``decay`` of themselves and the rest of the student's."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - decay)


def soft_difference(maps: Tensor, taught: Tensor, representation: Representation) -> dict[str, Tensor]:
    """How far a student is from its teacher: ``cell`` of probabilities, and where there are others ``maps`` of these.

    Mean squared difference of the probabilities of all classes (mask, border) or of a cell (the others); flows and
    distances have half the squared error, those of stars a fifth of the absolute one, as when they learn from labels.

    Args:
        maps: (B, C, H, W) of the student.
        taught: (B, C, H, W) of the teacher.
        representation: of the maps.
    """
    if representation.name in ("mask", "border"):
        return {"cell": F.mse_loss(maps.softmax(1), taught.softmax(1))}
    cell = F.mse_loss(probability(maps, representation), probability(taught, representation))
    if representation.name == "star":
        return {"cell": cell, "maps": DISTANCE_WEIGHT * F.l1_loss(maps[:, :-1], taught[:, :-1])}
    return {"cell": cell, "maps": 0.5 * F.mse_loss(maps[:, :2], taught[:, :2])}
