"""finetune: a model and a few labelled images -> a model of their own (Scellseg)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cellkit.config import JsonValue
from cellkit.engine import Device, FitResult, distributed
from cellkit.io.checkpoints import save_checkpoint
from cellkit.stages.training_files import TrainingFiles
from cellkit.stages.tuning import Material, Tuner, TuningRecipe
from cellkit.stages.tuning_checks import Check, Guard, check, remove_rounds
from cellkit.stages.tuning_detector import DetectorRecipe, DetectorTuner


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """How fine-tuning ended.

    Attributes:
        result: of the training.
        check: what it did to images that were not learned from, where that was asked for.
        kept_base: the base was better and is the output.
    """

    result: FitResult
    check: Check | None = None
    kept_base: bool = False


def finetune(
    material: Material,
    recipe: TuningRecipe,
    device: Device,
    output: Path,
    *,
    guard: Guard | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Tuned | None:
    """Tune a model to a few labelled images and write its checkpoint.

    Args:
        material: shots, and the images that go with them.
        recipe: the base and all settings.
        device: where to train.
        output: the checkpoint to write; state and losses lie beside it.
        guard: what is checked; by default only what held images say.
        overwrite: start anew although files of another run are there.
        quiet: no progress.

    Returns:
        How it ended, or None: the output was there and up to date.

    Raises:
        NoInputError: no shot holds a cell, or contrastive tuning has nothing to compare with.
        UsageError: files of a run with other settings are there.
        ModelError: the base cannot be read, or not tuned this way.
        InterruptedRunError: SIGINT or SIGTERM after a clean save.
        LockedError: another run makes this checkpoint.
    """
    guard = guard or Guard()
    files = TrainingFiles(output=output)
    kind = DetectorTuner if isinstance(recipe, DetectorRecipe) else Tuner
    tuner = kind(material, recipe, device, quiet=quiet)
    history = tuner.history(leave_one_out=guard.leave_one_out, keep_better=guard.keep_better)
    with files.claimed():
        if not overwrite and files.is_done(history):
            return None
        result = tuner.train(material.shots, files, history, overwrite=overwrite)
        if not (result.finished and distributed.is_main()):
            return Tuned(result=result)
        tuned = tuner.tuned(material.shots, files)
        found = check(tuner, tuned, files, guard, overwrite=overwrite)
        kept = guard.keep_better and found is not None and found.is_worse
        chosen = replace(tuner.untuned(), history=history) if kept else tuned
        save_checkpoint(output, replace(chosen, card=_card(tuner, found, kept)), half=recipe.tuning.half)
        files.best.unlink()
        remove_rounds(tuner, files)
        return Tuned(result=result, check=found, kept_base=kept)


def _card(tuner: Tuner, found: Check | None, kept: bool) -> dict[str, JsonValue]:
    """What ``info`` tells of a tuned model."""
    card: dict[str, JsonValue] = {"base": tuner.name, "shots": [pair.key for pair in tuner.material.shots]}
    card |= tuner.card_of(base=kept)
    if found is not None:
        card |= {"check": found.to_dict(), "kept": "base" if kept else "tuned"}
    return card | ({"card of the base": dict(tuner.base.card)} if tuner.base.card else {})
