"""What ``cellkit pretrain --method cupre`` does: its recipe, both kinds of images, the run and its closing words."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence

from cellkit.cli import moco, pretrain_detection, reporting, running, training
from cellkit.cli.finetune_choices import Place
from cellkit.cli.listing import TRAIN_OPTIONS, TRAINING
from cellkit.cli.pretraining import Images
from cellkit.cli.settings import apply, assignments, names_of
from cellkit.cli.training import Choices
from cellkit.config import JsonValue, PretrainMethodName, Spec
from cellkit.data.layouts import Pair
from cellkit.data.moco_views import ViewSettings
from cellkit.errors import NoInputError, UsageError
from cellkit.io.sources import Source
from cellkit.methods.cupre_settings import CupreSettings
from cellkit.methods.moco_settings import MoCoSettings
from cellkit.stages.pretraining_cupre import CupreRecipe, pretrain_cupre
from cellkit.stages.pretraining_moco import rate_for

OWN: tuple[type[Spec], ...] = (CupreSettings, MoCoSettings, ViewSettings)
KINDS: tuple[type[Spec], ...] = (*OWN, *pretrain_detection.KINDS)
OPTIONS = pretrain_detection.OPTIONS

log = logging.getLogger(__name__)


def begin(
    method: PretrainMethodName,
    images: Images,
    choices: Choices,
    lr: float | None,
    texts: Sequence[str] | None,
    place: Place,
) -> None:
    """Train by ``moco`` or ``cupre``, or show what would be learned from.

    Args:
        method: which of both.
        images: that there are.
        choices: how is learned.
        lr: the learning rate, None where nobody chose one.
        texts: of ``--set``.
        place: where, and what is written.

    Raises:
        UsageError: options that cannot be meant, together or at all.
        NoInputError: images of a kind are missing.
    """
    if method == "moco":
        useless = {"names": images.names, "val": images.val, "pairs": images.pairs}
        cells = moco.sources(method, images.data, images.channels, **useless)
        return moco.begin(cells, moco.recipe(texts, choices, lr), place)
    if not images.labelled:
        raise UsageError("--labelled", "the method cupre learns from labelled images, too", "add --labelled DIR")
    chosen = recipe(texts, choices, lr)
    cells = moco.sources(method, images.data, images.channels, val=images.val)
    common = labelled_images(images)
    if place.dry_run:
        return show(place.output, cells, common)
    return run(cells, common, chosen, place)


def labelled_images(images: Images) -> tuple[Pair, ...]:
    """Labelled images of ``--labelled``; ``--names`` and ``--pairs`` are of these.

    Raises:
        NoInputError: there is none; names the option.
    """
    try:
        learn, _ = training.datasets(
            images.labelled or (), names=images.names, val=None, pairs=images.pairs, channels=None, seed=0
        )
    except NoInputError as error:
        raise NoInputError(f"--labelled {error.subject}", error.problem, error.repair) from error
    return learn.pairs


def recipe(texts: Sequence[str] | None, choices: Choices, lr: float | None) -> CupreRecipe:
    """All settings of a training from its options and ``--set`` texts; of the labelled task as if it were alone.

    Raises:
        UsageError: a setting that cannot be meant.
        ModelError: there is no such base.
    """
    detects = choices.network in (None, moco.DETECTOR)
    kinds = pretrain_detection.KINDS if detects else TRAINING
    values = moco.view_settings(assignments(texts, (*OWN, *kinds), OPTIONS if detects else TRAIN_OPTIONS))
    rest = as_texts({name: value for name, value in values.items() if name not in names_of(*OWN)})
    cupre = apply(CupreSettings, values)
    if detects:
        cupre = apply(CupreSettings, {"contrast_rate": rate_for(cupre.contrast_batch)} | values)
    return CupreRecipe.of(
        pretrain_detection.recipe(rest, choices, lr) if detects else training.recipe(rest, choices),
        apply(ViewSettings, values),
        apply(MoCoSettings, values),
        cupre,
    )


def as_texts(values: Mapping[str, JsonValue]) -> list[str]:
    """Values as they are written behind ``--set``."""
    return [f"{name}={_text(value)}" for name, value in values.items()]


def _text(value: JsonValue) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def show(output: str, cells: Sequence[Source], common: Sequence[Pair]) -> None:
    """Print the images of both kinds; nothing is trained."""
    sys.stdout.write(f"labelled\t{reporting.counted_images(len(common))}\n")
    for pair in common:
        sys.stdout.write(f"labelled\t{pair.key}\t{pair.image}\t{pair.labels.name}\n")
    moco.show(output, cells)


def run(cells: Sequence[Source], common: Sequence[Pair], chosen: CupreRecipe, place: Place) -> None:
    """Train, write, and say how it ended."""
    path = training.checkpoint_path(place.output, resume=place.resume, on_exists=place.on_exists)
    plan = chosen.cupre.plan(chosen.fit.steps)
    log.info("%s labelled, %s not", reporting.counted_images(len(common)), reporting.counted_images(len(cells)))
    words = "%d steps of warm-up, then %d rounds of %d on unlabelled and %d on labelled images"
    log.info(words, plan.warm, plan.rounds, plan.contrast, plan.labelled)
    device, overwrite = running.open_device(*place.device), place.on_exists == "overwrite"
    result = pretrain_cupre(common, cells, chosen, device, path, overwrite=overwrite, quiet=place.quiet)
    training.say_how_it_ended(path, result)
