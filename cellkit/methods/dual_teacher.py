"""Dual teacher: one student and two temporary teachers that take turns (Na et al. 2023).

Sources: Na et al., "Switching Temporary Teachers for Semi-Supervised Semantic Segmentation" (NeurIPS 2023), and the
authors' code, which their numbers come from. With the labelled images of the source and the unlabelled ones of the
target it is a rival of CULPICO, whose authors run it on their U-Net.

In each shift, an epoch, one teacher is on duty: it says what the target crops show, the student learns that on strong
augmentations of them, and after each step the teacher becomes the moving average of itself and the student. The other
teacher rests and stays what it was, so that the student is not taught by its own image all the time.

As the code: even shifts mix crops by CutMix, odd ones by ClassMix; pseudo-labels are hard; what is learned from a mixed
crop is weighed by the part of its pixels of which the teacher is confident (each crop for itself; for ClassMix the code
has one part for the whole batch, and for CutMix that of the crop before it was mixed); implicit consistency, weighed by
0.2, is the error of sub-networks of the student on the strong crops before they are mixed, where the teacher is
confident; the decay of place i of a shift is min(0.99, 1 - 1 / (i + 1)), so that a teacher that comes on duty becomes
the student after its first step (``dual_restart=false`` goes on from the teacher's last shift). Teachers normalise by
the crops that they see. What is evaluated, and so what is deployed here, is the student. Unlike the code, its running
statistics of batch norm come from a pass of their own, of the target's crops as they are: no image that is predicted is
a strong one.

Sub-networks: the paper's are those of stochastic depth, in the residual branches of ResNets and transformers. A U-Net
whose blocks have no way around them would be cut in two, so sub-networks here lack whole features: each batch norm
loses each of its features with a probability of ``dual_drop``, per crop. All other passes see the whole student;
CULPICO's authors, too, have no stochastic depth. A network without batch norm is its own sub-network.

Left out: hue, saturation and grey (there may be one channel), mirrored crops after mixing (crops come mirrored). Open
in CULPICO's paper: everything but that the method is this one.

Beyond the paper: any representation with a probability of a cell. A cell that a mixture covers in part keeps the flows
that it had.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cellkit.errors import UsageError
from cellkit.methods.adapt_strong import Crops, class_mix, cut_mix, numbered_apart, strong
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
from cellkit.methods.mean_teacher import follow
from cellkit.networks import Output

Mix = Callable[[Crops, Sequence[int]], Crops]

MIXES: Mapping[str, tuple[Mix, Mix]] = {
    "both": (cut_mix, class_mix),
    "class": (class_mix, class_mix),
    "cut": (cut_mix, cut_mix),
}
"""By setting, how crops are mixed in even and in odd shifts."""

STUDENT = "student."  # of the names of its weights


class School(nn.Module):
    """A student and its two teachers, which begin as copies of it; predicts as the student does."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.teachers = nn.ModuleList(copy.deepcopy(student).requires_grad_(False) for _ in range(2))

    def forward(self, x: Tensor) -> Output:
        """(B, C, H, W) -> the output of the student."""
        output: Output = self.student(x)
        return output


class DualTeacher:
    """A student learns from the source, and on the target from the teacher that is on duty.

    Several processes mix the crops of their own share.

    Raises:
        UsageError: the representation has no probability of a cell, or a setting cannot be.
    """

    members = 1
    settled = True

    def __init__(self, adaptation: Adaptation) -> None:
        check_probability(adaptation.representation)
        self.adaptation = adaptation
        self.settings = adaptation.settings
        self.modules = School(adaptation.network)
        self.records = any(isinstance(module, nn.BatchNorm2d) for module in adaptation.network.modules())
        self.shift = _shift_of(adaptation)
        self.steps = 0

    def batches(self, start: int) -> Iterator[DomainBatch]:
        """Crops of both domains from step ``start`` on."""
        return domain_batches(self.adaptation, start)

    def losses(self, batch: DomainBatch) -> dict[str, Tensor]:
        """``source TERM``, ``target TERM`` of mixed crops, ``consistency TERM`` of sub-networks.

        Of two that are only logged, ``confident`` is the part of the target's pixels of which the teacher is confident,
        ``pseudo cells`` the part that it takes for cells.
        """
        loss, student, settings = self.adaptation.representation.loss, self.modules.student, self.settings
        recording = nullcontext() if settings.statistics == "both" else unrecorded(student)
        terms = loss(_maps(student, batch.source.images, recording), batch.source.targets)
        if self.records:
            with torch.no_grad():
                student(batch.target)
        lesson = self.lesson(batch)
        mixed = MIXES[settings.dual_mix][self.steps // self.shift % 2](lesson, batch.seeds)
        weights = mixed.weights.mean((1, 2), keepdim=True).expand_as(mixed.weights)
        learned = loss(_maps(student, mixed.images, unrecorded(student)), mixed.targets, weights)
        alike = {}
        if settings.dual_consistency:
            with sub_network(student, batch.seeds, settings.dual_drop):
                maps = _maps(student, lesson.images, unrecorded(student))
            alike = loss(maps, lesson.targets, lesson.weights)
        return (
            {f"source {name}": term for name, term in terms.items()}
            | {f"target {name}": term for name, term in learned.items()}
            | {f"consistency {name}": settings.dual_consistency * term for name, term in alike.items()}
            | {"confident": lesson.weights.mean(), "pseudo cells": (lesson.targets > 0).any(1).float().mean()}
        )

    @torch.no_grad()
    def lesson(self, batch: DomainBatch) -> Crops:
        """Strong crops of the target, what the teacher on duty says of them as they were, and where it is confident."""
        teacher, kind = self.modules.teachers[self.steps // self.shift % 2], self.adaptation.representation
        maps = _maps(teacher, batch.target, unrecorded(teacher))
        chance = probability(maps, kind)
        confident = (torch.maximum(chance, 1 - chance) >= self.settings.dual_confidence).float()
        targets = numbered_apart(pseudo_targets(maps, kind, self.adaptation.decoding), kind.name)
        return Crops(strong(batch.target, batch.seeds, self.settings), targets, confident)

    def on_step_end(self, step: int) -> None:
        """The teacher on duty follows the student, parameters alone; the step that comes may begin the next shift."""
        number, place = divmod(step - 1, self.shift)
        done = place if self.settings.dual_restart else number // 2 * self.shift + place
        decay = min(self.settings.dual_decay, 1 - 1 / (done + 1))
        follow(self.modules.teachers[number % 2], self.modules.student, decay)
        self.steps = step

    def split(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights of the student, and those of the teachers, ``teachers.0.NAME``, ``teachers.1.NAME``."""
        return under(state, STUDENT), {name: tensor for name, tensor in state.items() if not name.startswith(STUDENT)}

    def state_dict(self) -> dict[str, Any]:
        """Steps done, which tell whose shift it is."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.steps = state["steps"]


@contextmanager
def sub_network(network: nn.Module, seeds: Sequence[int], drop: float) -> Iterator[None]:
    """Inside, batch norms put out 0 for some of their features, and the others the more: Dropout of whole features.

    Args:
        network: any; without batch norm nothing happens.
        seeds: one per crop of the pass inside, which choose the features.
        drop: part of the features that is lost.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    sizes = [module.num_features for module in norms]
    drawn = torch.stack([torch.rand(sum(sizes), generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    factors = ((drawn >= drop) / (1 - drop)).to(next(network.parameters()).device)
    handles = [
        module.register_forward_hook(_times(part[:, :, None, None]))
        for module, part in zip(norms, torch.split(factors, sizes, 1), strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _times(factor: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A hook that multiplies what a module puts out."""
    return lambda _, __, output: output * factor.to(output.dtype)


def _maps(network: nn.Module, images: Tensor, within: AbstractContextManager[object]) -> Tensor:
    """Maps (B, C, H, W) float32 of a pass within a context."""
    with within:
        maps: Tensor = network(images).maps
    return maps.float()


def _shift_of(adaptation: Adaptation) -> int:
    """Steps of a shift.

    Raises:
        UsageError: it would have none, or a sub-network would have no features.
    """
    given, drop = adaptation.settings.dual_switch, adaptation.settings.dual_drop
    if given is not None and given < 1:
        raise UsageError("dual_switch", f"{given} steps are no shift", "give 1 or more, or nothing for an epoch")
    if not 0 <= drop < 1:
        raise UsageError("dual_drop", f"{drop:g} is out of range", "give 0 or more, below 1")
    return given or adaptation.source.steps_per_epoch(adaptation.batch)
