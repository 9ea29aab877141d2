"""What ``cellkit adapt`` does: its recipe, its images, the run and its closing words."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cellkit.cli import reporting, running, training
from cellkit.cli.finetune_choices import Place
from cellkit.cli.inputs import STREAM, named, read_options
from cellkit.cli.listing import ADAPT_OPTIONS, DECODING
from cellkit.cli.settings import apply, assignments, names_of
from cellkit.cli.supported import refuse_of_base
from cellkit.config import (
    WIDTHS,
    AdaptMethodName,
    JsonValue,
    NetworkName,
    Preprocessing,
    RepresentationName,
    Settings,
    Spec,
)
from cellkit.data.dataset import Pair
from cellkit.data.scale import REFERENCE_DIAMETER
from cellkit.data.splits import split
from cellkit.engine import distributed
from cellkit.errors import NoInputError, UsageError
from cellkit.io.sources import Source, find_together
from cellkit.methods.adapt_settings import AdaptSettings
from cellkit.stages.adapt_checks import check_channels, intensity_ratio, shared_images
from cellkit.stages.adapt_recipe import (
    NETWORK,
    AdaptAugmentation,
    AdaptFit,
    AdaptModel,
    AdaptPreprocessing,
    AdaptRecipe,
    base_parts,
)
from cellkit.stages.adapting import Domains, Watch, adapt

KINDS: tuple[type[Spec], ...] = (
    AdaptModel,
    AdaptPreprocessing,
    AdaptAugmentation,
    AdaptFit,
    AdaptSettings,
    *DECODING,
)
PART = 0.25  # of the source's images that is held out: the paper's 3:1
APART = 10.0  # times as wide a range of intensities is another order of magnitude

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """Which images there are, and what is done with them; as the options of the same names."""

    source: Sequence[str]
    target: Sequence[str]
    val: float | None
    monitor: str | None
    pictures: str | None
    channels: str | None


@dataclass(frozen=True)
class Choices:
    """How is learned; as the options of the same names."""

    method: AdaptMethodName
    model: str | None
    network: NetworkName | None
    representation: RepresentationName | None
    steps: int
    lr: float
    diameter: float | None
    seed: int
    settings: Sequence[str] | None


def begin(images: Images, choices: Choices, place: Place) -> None:
    """Adapt, or show what would be learned from.

    Raises:
        UsageError: options that cannot be meant, together or at all.
        NoInputError: there is no image of a kind that is needed.
    """
    chosen = recipe(choices)
    found = find(images, choices)
    watch = Watch(
        pairs=() if images.monitor is None else labelled("--monitor", [images.monitor], images.channels),
        pictures=picture_folder(images.pictures),
    )
    if place.dry_run:
        show(place.output, found, watch)
        return
    path = training.checkpoint_path(place.output, resume=place.resume, on_exists=place.on_exists)
    look_over(found, chosen)
    run(found, chosen, watch, place, path)


def recipe(choices: Choices) -> AdaptRecipe:
    """All settings from options and ``--set`` texts.

    Raises:
        UsageError: a setting or a combination of options that cannot be meant.
        ModelError: the base cannot be used.
    """
    training.refuse_detector(choices.network, choices.representation, choices.method, "choose another")
    values = assignments(choices.settings, KINDS, ADAPT_OPTIONS)
    decoding: Settings = {name: value for name, value in values.items() if name in names_of(*DECODING)}
    if choices.model is None:
        network = choices.network or NETWORK
        widths: dict[str, JsonValue] = {"widths": list(WIDTHS[network])}
        model = apply(AdaptModel, widths | values, network=network, representation=choices.representation)
        preprocessing: Preprocessing = apply(AdaptPreprocessing, values)
    else:
        refuse_beside_base(choices)
        refuse_of_base(values)
        model, preprocessing, decoding = base_parts(choices.model, decoding)
        model = apply(AdaptModel, model.to_dict() | values)
    chosen = AdaptRecipe(
        model=model,
        preprocessing=with_diameter(preprocessing, choices.diameter),
        fit=apply(AdaptFit, values, steps=choices.steps, learning_rate=choices.lr, seed=choices.seed),
        decoding=decoding,
        method=choices.method,
        augmentation=apply(AdaptAugmentation, values),
        adapt=apply(AdaptSettings, values),
    )
    for name in sorted(chosen.idle & values.keys()):
        log.warning("--set %s: the method %s has no use for it", name, choices.method)
    return chosen


def refuse_beside_base(choices: Choices) -> None:
    """A base has a network and a representation of its own.

    Raises:
        UsageError: another was given.
    """
    for option, given in (("--network", choices.network), ("--representation", choices.representation)):
        if given is not None:
            problem = "a base has a network and a representation of its own"
            raise UsageError(option, problem, f"leave {option} or --model out")


def with_diameter(preprocessing: Preprocessing, diameter: float | None) -> Preprocessing:
    """With the diameter of the target's cells that the user gives; all cells then come to one working diameter."""
    working = preprocessing.diameter or REFERENCE_DIAMETER
    if diameter is not None:
        return dataclasses.replace(preprocessing, diameter=working, typical=diameter, estimated=False)
    return dataclasses.replace(preprocessing, diameter=working) if preprocessing.estimated else preprocessing


def picture_folder(name: str | None) -> Path | None:
    """Where pictures go.

    Raises:
        UsageError: it is a file.
    """
    if name is not None and Path(name).is_file():
        raise UsageError(f"--pictures {name}", "is a file", "name a folder, there or not")
    return None if name is None else Path(name)


def find(images: Images, choices: Choices) -> Domains:
    """Labelled images, those held out apart, and images of the target.

    Raises:
        UsageError: a domain that the method needs is not named, a stream, or a part that cannot be held out.
        NoInputError: no image is there.
    """
    upper, lower = choices.method == "target-only", choices.method == "source-only"
    roots, option = (images.target, "--target") if upper else (images.source, "--source")
    if not roots:
        raise UsageError(option, f"the method {choices.method} learns from labelled images", f"add {option} DIR")
    if not images.target and not lower:
        problem = f"the method {choices.method} learns from images of the target, without their labels"
        raise UsageError("--target", problem, "add --target DIR, or use --method source-only")
    pairs = labelled(option, roots, images.channels)
    learn, held = held_out(pairs, images.val, choices.seed)
    return Domains(
        source=short(roots),
        pairs=learn,
        held=held,
        target=short(images.target),
        images=unlabelled(images.target, images.channels) if images.target else (),
    )


def short(roots: Sequence[str]) -> str:
    """The names of folders, without where they are: a run may go on elsewhere."""
    return ", ".join(Path(root).name or root for root in roots)


def labelled(option: str, roots: Sequence[str], channels: str | None) -> tuple[Pair, ...]:
    """Annotated images.

    Raises:
        NoInputError: there is none; names the option.
    """
    try:
        learn, _ = training.datasets(roots, names=None, val=None, pairs=None, channels=channels, seed=0)
    except NoInputError as error:
        raise NoInputError(f"{option} {error.subject}", error.problem, error.repair) from error
    return learn.pairs


def unlabelled(roots: Sequence[str], channels: str | None) -> list[Source]:
    """Images of the target.

    Raises:
        UsageError: a stream, of which images could not be read again.
        NoInputError: there is none.
    """
    if STREAM in roots:
        raise UsageError(STREAM, "a stream cannot be learned from", "name files or folders")
    try:
        return find_together(roots, read_options(None, channels, None))
    except NoInputError as error:
        raise NoInputError(f"--target {named([error.subject])}", "no image to learn from", error.repair) from error


def held_out(pairs: Sequence[Pair], fraction: float | None, seed: int) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """Images to learn from, and those that choose; of one image alone none is held out, unless that was asked for.

    Raises:
        UsageError: a part that cannot be held out.
    """
    if fraction is None and len(pairs) == 1:
        reporting.notice("one labelled image alone: none is held out, the last weights are written")
        return tuple(pairs), ()
    try:
        _, kept = split([pair.key for pair in pairs], PART if fraction is None else fraction, seed)
    except UsageError as error:
        raise UsageError("--val", error.problem, error.repair) from error
    chosen = set(kept)
    learn, held = ([pair for pair in pairs if (pair.key in chosen) == is_held] for is_held in (False, True))
    return tuple(learn), tuple(held)


def show(output: str, found: Domains, watch: Watch) -> None:
    """Print the images of each kind; nothing is trained."""
    for part, pairs in (("learn", found.pairs), ("validate", found.held), ("monitor", watch.pairs)):
        sys.stdout.write(f"{part}\t{reporting.counted_images(len(pairs))}\n")
        for pair in pairs:
            sys.stdout.write(f"{part}\t{pair.key}\t{pair.image}\t{pair.labels.name}\n")
    sys.stdout.write(f"target\t{reporting.counted_images(len(found.images))}\n")
    for source in found.images:
        sys.stdout.write(f"target\t{source.key}\t{source.path}\n")
    sys.stdout.write(f"-> {output}\n")


def look_over(found: Domains, chosen: AdaptRecipe) -> None:
    """Say what sets the domains apart, or does not, before anything is learned.

    Raises:
        UsageError: their channels differ.
        InputError: an image cannot be read.
    """
    working = chosen.preprocessing.diameter
    if working is not None and chosen.preprocessing.typical is None and not chosen.preprocessing.estimated:
        words = "cells of the target are taken to have %g px, as the model wants them; --diameter says otherwise"
        log.log(reporting.NOTICE, words, working)
    if chosen.method == "target-only" or not found.images:
        return
    check_channels(found.pairs, found.images, chosen.preprocessing)
    ratio = intensity_ratio(found.pairs, found.images)
    if ratio >= APART:
        each = "each image is normalised by itself"
        known = (
            each
            if chosen.preprocessing.normalisation != "none"
            else "--set normalisation=minmax would bring them together"
        )
        log.log(reporting.NOTICE, "intensities of source and target are spread %.0f-fold apart: %s", ratio, known)
    shared = shared_images((*found.pairs, *found.held), found.images)
    if shared:
        words = "%s: %s of it in the source, too: there is little to adapt to"
        log.warning(words, found.target, reporting.counted_images(shared))


def run(found: Domains, chosen: AdaptRecipe, watch: Watch, place: Place, path: Path) -> None:
    """Adapt, write, and say how it ended."""
    learn, images = reporting.counted_images(len(found.pairs)), reporting.counted_images(len(found.images))
    log.info("%s to learn from, %d held out; %s of the target", learn, len(found.held), images)
    device, overwrite = running.open_device(*place.device), place.on_exists == "overwrite"
    result = adapt(found, chosen, device, path, watch=watch, overwrite=overwrite, quiet=place.quiet)
    if not distributed.is_main():
        return
    if result is None:
        reporting.notice(f"{path} is up to date")
        return
    loss = "" if result.best_score is None else f", loss on held-out images of the source {-result.best_score:.4f}"
    reporting.notice(f"{path} {training.how_it_ended(result)}: {result.steps} steps{loss}")
