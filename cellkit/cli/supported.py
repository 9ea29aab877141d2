"""What ``cellkit finetune --method supported`` does: its recipe, its images, the run and its closing words."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellkit.cli import running, training
from cellkit.cli.finetune_choices import Choices, Images, Place, Support
from cellkit.cli.finetune_options import DEFAULT_BASE
from cellkit.cli.inputs import STREAM, named, read_options
from cellkit.cli.listing import DECODING, SUPPORT_OPTIONS
from cellkit.cli.settings import apply, assignments, names_of
from cellkit.config import JsonValue, Preprocessing, Settings, Spec
from cellkit.data.augment import Augmentation
from cellkit.data.dataset import Pair, merge
from cellkit.data.layouts import find_pairs, read_names, select
from cellkit.data.supported import NO_LABELS, Halves, halves, match_labels
from cellkit.data.truth import LabelRef
from cellkit.errors import NoInputError, UsageError
from cellkit.io.sources import Source, find_sources
from cellkit.methods.settings import SupportedSettings
from cellkit.stages.supporting import (
    NETWORK,
    SupportedFit,
    SupportedModel,
    SupportedPreprocessing,
    SupportedRecipe,
    base_parts,
    fresh_widths,
    support,
)
from cellkit.stages.tuning_checks import Guard

SUPPORTED: tuple[type[Spec], ...] = (
    SupportedModel,
    SupportedPreprocessing,
    Augmentation,
    SupportedFit,
    SupportedSettings,
    *DECODING,
)
OF_THE_BASE = names_of(SupportedModel, SupportedPreprocessing) - {"batch", "half"}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The images of a run.

    Attributes:
        halves: what is learned from.
        held: images that choose the best weights.
    """

    halves: Halves
    held: tuple[Pair, ...]


def tune(images: Images, choices: Choices, given: Support, guard: Guard, place: Place) -> None:
    """Learn from sparse and pseudo labels, or show what would be done.

    Raises:
        UsageError: options that cannot be meant, together or at all.
    """
    refuse(images, choices, guard)
    chosen = recipe(choices, given)
    found = find(images, given, chosen.supported)
    if place.dry_run:
        show(place.output, found)
        return
    path = training.checkpoint_path(place.output, resume=place.resume, on_exists=place.on_exists)
    run(found, chosen.sized(found.halves.diameter), place, path)


def refuse(images: Images, choices: Choices, guard: Guard) -> None:
    """Options of other ways of fine-tuning.

    Raises:
        UsageError: one was given.
    """
    useless = {
        "--query": images.query,
        "--contrast": images.contrast,
        "--pairs": images.pairs,
        "--shots": images.count,
        "--fraction": images.fraction is not None,
        "--draw": images.draw,
        "--train": choices.train != "all",
        "--leave-one-out": guard.leave_one_out,
        "--keep-better": guard.keep_better,
    }
    for option, value in useless.items():
        if value:
            raise UsageError(option, "the method supported has no use for it", "leave it out")


def recipe(choices: Choices, given: Support) -> SupportedRecipe:
    """All settings from options and ``--set`` texts; without a diameter of the cells, that is missing.

    Raises:
        UsageError: a setting or a combination of options that cannot be meant.
        ModelError: the base cannot be used.
    """
    values = assignments(choices.settings, SUPPORTED, SUPPORT_OPTIONS)
    names = names_of(*DECODING)
    rate = training.RATE if choices.lr is None else choices.lr
    decoding: Settings = {name: value for name, value in values.items() if name in names}
    if given.network is None and given.representation is None:
        refuse_of_base(values)
        model, preprocessing, decoding = base_parts(choices.model or DEFAULT_BASE, decoding)
        model = apply(SupportedModel, model.to_dict() | values)
    elif choices.model is not None:
        problem = "a base has a network and a representation of its own"
        option = "--network" if given.network is not None else "--representation"
        raise UsageError(option, problem, f"leave {option} or --model out")
    else:
        network = given.network or NETWORK
        widths: dict[str, JsonValue] = {"widths": list(fresh_widths(network))}
        model = apply(SupportedModel, widths | values, network=network, representation=given.representation)
        preprocessing = apply(SupportedPreprocessing, values)
    return SupportedRecipe(
        model=model,
        preprocessing=with_diameter(preprocessing, choices.diameter),
        augmentation=apply(Augmentation, values),
        fit=apply(SupportedFit, values, steps=choices.steps, learning_rate=rate, seed=choices.seed),
        supported=apply(SupportedSettings, values, alpha=alpha_of(given)),
        decoding=decoding,
    )


def refuse_of_base(values: Mapping[str, JsonValue]) -> None:
    """Settings of network and preprocessing, which a base brings along.

    Raises:
        UsageError: one was given.
    """
    for name in values:
        if name in OF_THE_BASE:
            raise UsageError("--set", f"'{name}' is that of the base", "leave it out, or begin anew with --network")


def with_diameter(preprocessing: Preprocessing, diameter: float | None) -> Preprocessing:
    """With the diameter of the cells that the user gives.

    Raises:
        UsageError: there is no working diameter to bring them to.
    """
    if preprocessing.diameter is None:
        raise UsageError("diameter", "none is no size", "give pixels, e.g. 30")
    return dataclasses.replace(preprocessing, typical=diameter)


def alpha_of(given: Support) -> float | None:
    """The weight of pseudo labels: 0 or 1 where only one kind of labels is given; None: as the settings have it.

    Raises:
        UsageError: there are no labels at all, or not those that the given weight needs.
    """
    if given.labels is None and given.pseudo is None:
        problem = "supported learns from labels of some cells and from a segmentation"
        raise UsageError("--method", problem, "add --labels SPARSE, --pseudo PSEUDO, or both")
    if given.alpha is None:
        return 1.0 if given.labels is None else 0.0 if given.pseudo is None else None
    if given.labels is None and given.alpha < 1:
        raise UsageError("--alpha", f"{given.alpha:g} needs labelled cells too", "add --labels, or leave --alpha out")
    if given.pseudo is None and given.alpha > 0:
        raise UsageError("--alpha", f"{given.alpha:g} needs pseudo labels too", "add --pseudo, or leave --alpha out")
    return given.alpha


def find(images: Images, given: Support, settings: SupportedSettings) -> Found:
    """Images and their labels.

    Raises:
        UsageError: a stream, or a name that fits no image.
        NoInputError: there is no image, no label that fits one, or no cell that is labelled.
        InputError: labels that cannot be read.
    """
    if STREAM in images.shots:
        raise UsageError(STREAM, "a stream cannot be learned from", "name files or folders")
    try:
        every = find_sources(images.shots, read_options(None, images.channels, None))
    except NoInputError as error:
        raise NoInputError(named(images.shots), "no image to learn from", error.repair) from error
    held = held_images(images)
    chosen = every if images.names is None else listed(every, read_names(images.names))
    kept = {pair.image for pair in held}
    learn = [source for source in chosen if source.path not in kept]  # never learn from what chooses
    sparse = matched(given.labels, every)
    pseudo = matched(given.pseudo, every) if settings.alpha > 0 else NO_LABELS
    found = halves(learn, settings.background, sparse=sparse, pseudo=pseudo)
    if settings.alpha < 1 and not found.sparse:
        raise NoInputError(given.labels or "--labels", "no image shows a labelled cell", "outline some cells first")
    if settings.alpha > 0 and not found.pseudo:
        raise NoInputError(given.pseudo or "--pseudo", "no image that is learned from has labels", "check --names")
    return Found(halves=found, held=held)


def matched(root: str | None, sources: Sequence[Source]) -> Mapping[str, LabelRef]:
    """Labels by the key of their image; says how many fit none.

    Raises:
        NoInputError: none fits.
    """
    if root is None:
        return NO_LABELS
    found = match_labels(root, sources)
    if not found.labels:
        problem = f"none of {found.missed} label images has the name of an image"
        raise NoInputError(root, problem, "name label images as the images")
    if found.missed:
        log.warning("%s: no image for %d of %d label images", root, found.missed, found.missed + len(found.labels))
    return found.labels


def listed(sources: Sequence[Source], names: Sequence[str]) -> list[Source]:
    """The images with these names: keys, or names of files with or without folder.

    Raises:
        UsageError: a name fits no image, or two.
    """
    known: dict[str, set[str]] = {}
    for source in sources:
        for name in {source.key, source.path, Path(source.path).name}:
            known.setdefault(name, set()).add(source.key)
    wanted: set[str] = set()
    for name in names:
        keys = known.get(name) or known.get(Path(name).name) or set()
        if len(keys) != 1:
            problem = f"{name!r} is no image" if not keys else f"{name!r} fits {', '.join(sorted(keys))}"
            raise UsageError("list of images", problem, f"one of {len(sources)}, e.g. {sources[0].key}")
        wanted |= keys
    return [source for source in sources if source.key in wanted]


def held_images(images: Images) -> tuple[Pair, ...]:
    """Images with all their cells labelled: in a folder or file, or listed of the folders that are learned from.

    Raises:
        UsageError: a fraction: sparse labels do not score anything.
    """
    if images.val is None:
        return ()
    if Path(images.val).is_dir() or Path(images.val).suffix in training.DATASETS:
        held = find_pairs(images.val).pairs
    elif Path(images.val).is_file():
        found = [(root, find_pairs(root)) for root in images.shots]
        held = select(merge("", found), read_names(images.val)).pairs
    else:
        problem = f"'{images.val}' is no file or folder: sparse labels cannot score a part of the images"
        raise UsageError("--val", problem, "give images of which all cells are labelled")
    channels = read_options(None, images.channels, None).channels
    return held if channels is None else tuple(dataclasses.replace(pair, channels=channels) for pair in held)


def show(output: str, found: Found) -> None:
    """Print the images of each half; nothing is trained."""
    parts = {"sparse": found.halves.sparse, "pseudo": found.halves.pseudo, "validate": found.held}
    training.show_datasets(output, *(training.Selection(name, "by name", pairs) for name, pairs in parts.items()))


def run(found: Found, chosen: SupportedRecipe, place: Place, path: Path) -> None:
    """Train, write, and say how it ended."""
    parts = found.halves
    log.info(
        "%d images with labelled cells, %d with pseudo labels, %d to validate; cells of %.3g px",
        len(parts.sparse),
        len(parts.pseudo),
        len(found.held),
        chosen.preprocessing.typical,
    )
    device, overwrite = running.open_device(*place.device), place.on_exists == "overwrite"
    result = support(parts, found.held, chosen, device, path, overwrite=overwrite, quiet=place.quiet)
    training.say_how_it_ended(path, result)
