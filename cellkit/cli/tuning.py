"""What ``cellkit finetune`` does: its recipe, its images, a look at the labels, the run and its closing words."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from cellkit.cli import reporting, running, training, tuning_detector
from cellkit.cli.finetune_choices import Choices, Images, Place, Support
from cellkit.cli.finetune_options import DEFAULT_BASE
from cellkit.cli.inputs import named
from cellkit.cli.listing import DECODING, OPTIONS
from cellkit.cli.settings import apply, assignments, names_of
from cellkit.cli.training import Selection
from cellkit.config import FinetuneMethodName, JsonValue, Settings, ShotCrops, Spec, TuningSettings
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

__all__ = ["Guard", "refuse", "tune"]

log = logging.getLogger(__name__)

TUNING: tuple[type[Spec], ...] = (
    TuningSettings,
    Augmentation,
    ShotCrops,
    TuningFit,
    ContrastSettings,
    L2SPSettings,
    *DECODING,
)
LISTED = (*TUNING, *tuning_detector.KINDS)  # what both have is listed with the default of the first

SHOWN = {  # scores of the closing line, by the one that chooses
    "ap_dsb": ("ap_dsb@0.5", "ap_dsb"),
    "coco/segm/AP": ("coco/segm/AP50", "coco/segm/AP"),
}
WORDS = {"held": "on {} held images", "left out": "on {} shots left out", "shots": "on the shot itself"}


def tune(images: Images, choices: Choices, support: Support, guard: Guard, place: Place) -> None:
    """Fine-tune from shots, or show what would be done.

    Raises:
        UsageError: options that cannot be meant, together or at all.
    """
    refuse(support, choices.method)
    chosen = recipe(choices)
    pool, held = training.datasets(
        images.shots,
        names=images.names,
        val=images.val,
        pairs=images.pairs,
        channels=images.channels,
        seed=choices.seed,
    )
    uses_query = choices.method == "contrastive" or chosen.tuning.batch_statistics == "query"
    shots = drawn(pool, images)
    found = material(shots, held, images, choices.method, uses_query=uses_query)
    if place.dry_run:
        show(place.output, found, pool.layout)
        return
    path = training.checkpoint_path(place.output, resume=place.resume, on_exists=place.on_exists)
    look_over(found, chosen.base)
    overwrite = place.on_exists == "overwrite"
    run(found, chosen, place.device, path, guard, overwrite=overwrite, quiet=place.quiet)


def refuse(support: Support, method: FinetuneMethodName) -> None:
    """Options that only supported supervision has.

    Raises:
        UsageError: one was given.
    """
    for name, value in vars(support).items():
        if value is not None:
            raise UsageError(f"--{name}", f"the method {method} has no use for it", "add --method supported")


def recipe(choices: Choices) -> TuningRecipe:
    """All settings of a fine-tuning from its options and ``--set`` texts."""
    if tuning_detector.is_detector(choices.model or DEFAULT_BASE):
        return tuning_detector.recipe(choices)
    values = assignments(choices.settings, TUNING, OPTIONS["finetune"])
    _check_crops(values)
    decoding = names_of(*DECODING)
    rate = training.RATE if choices.lr is None else choices.lr
    numbers = {"steps": choices.steps, "learning_rate": rate, "seed": choices.seed}
    return TuningRecipe(
        base=choices.model or DEFAULT_BASE,
        tuning=apply(TuningSettings, values, method=choices.method, train=choices.train),
        augmentation=apply(Augmentation, values),
        fit=apply(TuningFit, values, **numbers),
        contrast=apply(ContrastSettings, values),
        l2sp=apply(L2SPSettings, values),
        crops=apply(ShotCrops, values),
        typical=choices.diameter,
        decoding={name: value for name, value in values.items() if name in decoding},
    )


def _check_crops(values: Settings) -> None:
    """Refuse settings of one kind of crops with the other.

    Raises:
        UsageError: there is one.
    """
    grid = values.get("crops") == "grid"
    own = names_of(ShotCrops) - {"crops"}
    for name in values:
        if grid and name in names_of(Augmentation) - {"crop"}:
            raise UsageError("--set", f"'{name}' means nothing for crops of a grid", "leave it or crops=grid out")
        if name in own and not grid:
            raise UsageError("--set", f"'{name}' is of crops of a grid", "add --set crops=grid")


def drawn(pool: Selection, images: Images) -> Selection:
    """So many of the images, or such a part of them, the same for every model; all where neither is asked for.

    Raises:
        UsageError: both are asked for, none at all, or more than there are.
    """
    count, by_key = images.count, {pair.key: pair for pair in pool.pairs}
    if images.fraction is not None:
        if count is not None:
            raise UsageError("--fraction", "--shots says how many already", "leave one of them out")
        if images.fraction == 0:
            raise UsageError("--fraction", "0 is no image", "give a number above 0, up to 1")
        count = max(1, round(images.fraction * len(by_key)))
    if count is None:
        return pool
    if count > len(by_key):
        problem = f"{count} asked for, {len(by_key)} labelled images there"
        raise UsageError("--shots", problem, f"give 1 to {len(by_key)}, or label more")
    chosen = draw_shots(list(by_key), count, images.draw)
    return dataclasses.replace(pool, pairs=tuple(by_key[key] for key in chosen))


def draw_of(shots: Selection, images: Images) -> dict[str, JsonValue]:
    """What the history says of a part of the images: how it was drawn, and which they are."""
    if images.fraction is None:
        return {}
    return {"fraction": images.fraction, "draw": images.draw, "drawn": [pair.key for pair in shots.pairs]}


def material(
    shots: Selection, held: Selection, images: Images, method: FinetuneMethodName, *, uses_query: bool
) -> Material:
    """The images of the run.

    Raises:
        UsageError: images without labels are missing where they are used, or are given where they are not.
        NoInputError: no query image is there.
    """
    useless = {"--query": images.query and not uses_query, "--contrast": images.contrast and method != "contrastive"}
    for option, given in useless.items():
        if given:
            raise UsageError(option, f"the method {method} has no use for it", "add --method contrastive")
    draw = draw_of(shots, images)
    if not uses_query:
        return Material(shots=shots.pairs, held=held.pairs, draw=draw)
    if not images.query:
        if method == "contrastive":
            raise UsageError("--method", "contrastive learns from images without labels too", "add --query DIR")
        raise UsageError("batch_statistics", "'query' measures images without labels", "add --query DIR")
    try:
        sources = find_sources(images.query, ReadOptions(channels=shots.pairs[0].channels))
    except NoInputError as error:
        raise NoInputError(named(images.query), "no query image", error.repair) from error
    return Material(shots=shots.pairs, held=held.pairs, query=sources, contrast=images.contrast, draw=draw)


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
    takes_both = load_checkpoint(model_path(base)).preprocessing.colour != "as-is"
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
    parts = [f"{name} {check.before[name]:.4f} before, {check.after[name]:.4f} after" for name in SHOWN[check.choice]]
    return ", ".join(parts) + " " + WORDS[check.kind].format(check.images)
