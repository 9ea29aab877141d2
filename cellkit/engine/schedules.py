"""Learning rates as pure functions of the step: nothing to save, nothing to get wrong on resume."""

from __future__ import annotations

import math
from collections.abc import Callable

from cellkit.config import ScheduleName
from cellkit.engine.settings import FitSettings

HALVINGS_OF_DECAY = 10  # Scellseg halves every 10 of its last 100 epochs
DECAY_SHARE = 5  # ... of 500 epochs: a fifth


def cosine(step: int, settings: FitSettings) -> float:
    """Half a cosine from 1 after the warm-up to 0 at the end (Loshchilov and Hutter 2017, eq. 5)."""
    length = max(1, settings.steps - settings.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0, step - settings.warmup) / length)))


def flat_decay(step: int, settings: FitSettings) -> float:
    """1, then halved ten times over the last ``decay`` steps (Stringer 2021; Scellseg's pre-training)."""
    decay = settings.steps // DECAY_SHARE if settings.decay is None else settings.decay
    into = step - (settings.steps - decay)
    if into < 0 or decay <= 0:
        return 1.0
    return float(0.5 ** (1 + into * HALVINGS_OF_DECAY // decay))


def halving(step: int, settings: FitSettings) -> float:
    """Halved after each quarter of the run (Scellseg's fine-tuning: after 25, 50, 75 of 100 steps)."""
    return float(0.5 ** (4 * step // settings.steps))


def tenths(step: int, settings: FitSettings) -> float:
    """A tenth after two fifths of the run, a hundredth after three (Cellulus: after 20 and 30 of 50 epochs)."""
    return float(0.1 ** ((5 * step >= 2 * settings.steps) + (5 * step >= 3 * settings.steps)))


def late_tenths(step: int, settings: FitSettings) -> float:
    """A tenth after 8/9 of the run, a hundredth after 17/18 (detectron2: after 240 and 255 of 270 thousand)."""
    return float(0.1 ** ((9 * step >= 8 * settings.steps) + (18 * step >= 17 * settings.steps)))


def constant(step: int, settings: FitSettings) -> float:
    """1."""
    return 1.0


SCHEDULES: dict[ScheduleName, Callable[[int, FitSettings], float]] = {
    "cosine": cosine,
    "flat-decay": flat_decay,
    "halving": halving,
    "tenths": tenths,
    "late-tenths": late_tenths,
    "constant": constant,
}


def rate_factor(step: int, settings: FitSettings) -> float:
    """What the learning rate is multiplied with in a step.

    Args:
        step: how many steps were done before.
        settings: names the schedule, its length and its warm-up, which rises linearly and ends at 1.
    """
    warmth = min(1.0, (step + 1) / settings.warmup) if settings.warmup > 0 else 1.0
    return warmth * SCHEDULES[settings.schedule](step, settings)
