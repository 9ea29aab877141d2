"""What ``cellkit finetune`` does: its recipe, its images, a look at the labels, the run and its closing words."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from cellkit.cli import reporting, running, training
from cellkit.cli.inputs import named
from cellkit.cli.listing import DECODING, OPTIONS
from cellkit.cli.settings import apply, assignments, names_of
from cellkit.cli.training import Selection
from cellkit.config import FinetuneMethodName, Spec, TrainedPartName, TuningSettings
from cellkit.data.augment import Augmentation
from cellkit.data.shot_lint import lint
from cellkit.data.splits import draw_shots
from cellkit.engine import distributed
from cellkit.errors import InputError, NoInputError, UsageError
from cellkit.io.checkpoints import load_checkpoint, model_path
from cellkit.io.images import ReadOptions
from cellkit.io.sources import find_sources
from cellkit.methods.settings import ContrastSettings, L2SPSettings
from cellkit.stages.finetuning import Tuned, finetune
from cellkit.stages.tuning import Material, TuningFit, TuningRecipe
from cellkit.stages.tuning_checks import Check, Guard

__all__ = ["Guard", "Material", "drawn", "look_over", "material", "recipe", "run", "show"]

log = logging.getLogger(__name__)

TUNING: tuple[type[Spec], ...] = (
    TuningSettings,
    Augmentation,
    TuningFit,
    ContrastSettings,
    L2SPSettings,
    *DECODING,
)

SHOWN = ("ap_dsb@0.5", "ap_dsb")  # scores of the closing line
WORDS = {"held": "on {} held images", "left out": "on {} shots left out", "shots": "on the shot itself"}


def recipe(
    base: str,
    texts: Sequence[str] | None,
    *,
    method: FinetuneMethodName,
    train: TrainedPartName,
    steps: int,
    lr: float,
    diameter: float | None,
    seed: int,
) -> TuningRecipe:
    """All settings of a fine-tuning from its options and ``--set`` texts."""
    values = assignments(texts, TUNING, OPTIONS["finetune"])
    decoding = names_of(*DECODING)
    return TuningRecipe(
        base=base,
        tuning=apply(TuningSettings, values, method=method, train=train),
        augmentation=apply(Augmentation, values),
        fit=apply(TuningFit, values, steps=steps, learning_rate=lr, seed=seed),
        contrast=apply(ContrastSettings, values),
        l2sp=apply(L2SPSettings, values),
        typical=diameter,
        decoding={name: value for name, value in values.items() if name in decoding},
    )


def drawn(pool: Selection, count: int | None, seed: int) -> Selection:
    """So many of the images, the same for every model; all without a count."""
    if count is None:
        return pool
    by_key = {pair.key: pair for pair in pool.pairs}
    if count > len(by_key):
        problem = f"{count} asked for, {len(by_key)} labelled images there"
        raise UsageError("--shots", problem, f"give 1 to {len(by_key)}, or label more")
    chosen = draw_shots(list(by_key), count, seed)
    return dataclasses.replace(pool, pairs=tuple(by_key[key] for key in chosen))


def material(
    shots: Selection, held: Selection, query: Sequence[str] | None, contrast: str | None, method: FinetuneMethodName
) -> Material:
    """The images of the run.

    Raises:
        UsageError: contrastive without images without labels; those without contrastive.
        NoInputError: no query image is there.
    """
    if method != "contrastive":
        for option, value in (("--query", query), ("--contrast", contrast)):
            if value:
                raise UsageError(option, f"the method {method} has no use for it", "add --method contrastive")
        return Material(shots=shots.pairs, held=held.pairs)
    if not query:
        raise UsageError("--method", "contrastive learns from images without labels too", "add --query DIR")
    try:
        sources = find_sources(query, ReadOptions(channels=shots.pairs[0].channels))
    except NoInputError as error:
        raise NoInputError(named(query), "no query image", error.repair) from error
    return Material(shots=shots.pairs, held=held.pairs, query=sources, contrast=contrast)


def show(output: str, chosen: Material, layout: str) -> None:
    """Print the images; nothing is trained."""
    training.show_datasets(output, Selection("shot", layout, tuple(chosen.shots)), _held(chosen, layout))


def _held(chosen: Material, layout: str) -> Selection:
    return Selection("score", layout, tuple(chosen.held))


def look_over(chosen: Material, base: str) -> None:
    """Warn of labels that tuning would suffer from; grey and colour together are no trouble for a model of both.

    Raises:
        InputError: they make tuning impossible.
    """
    takes_both = load_checkpoint(model_path(base)).preprocessing.colour == "rgb"
    for finding in lint(chosen.shots):
        if finding.fatal:
            raise InputError(finding.key or "shots", finding.message, finding.repair)
        if not (finding.kind == "channels" and takes_both):
            log.warning("%s", finding)


def run(
    chosen: Material,
    settings: TuningRecipe,
    device: tuple[str, str],
    path: Path,
    guard: Guard,
    *,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Tune, write, and say what it did."""
    log.info("%d shots, %d images to score, %d query images", len(chosen.shots), len(chosen.held), len(chosen.query))
    if len(chosen.shots) == 1 and (guard.keep_better or guard.leave_one_out) and not chosen.held:
        log.warning("one shot cannot be left out: the scores are those of the shot learned from (add --val)")
    tuned = finetune(
        chosen, settings, running.open_device(*device), path, guard=guard, overwrite=overwrite, quiet=quiet
    )
    if distributed.is_main():
        reporting.notice(f"{path} is up to date" if tuned is None else closing_words(path, tuned))


def closing_words(path: Path, tuned: Tuned) -> str:
    """How it ended, in one line."""
    words = f"{path} {training.how_it_ended(tuned.result)}: {tuned.result.steps} steps"
    if tuned.check is None:
        return words
    kept = "; the base was better and is what was written" if tuned.kept_base else ""
    return f"{words}; {_scores(tuned.check)}{kept}"


def _scores(check: Check) -> str:
    parts = [f"{name} {check.before[name]:.4f} before, {check.after[name]:.4f} after" for name in SHOWN]
    return ", ".join(parts) + " " + WORDS[check.kind].format(check.images)
