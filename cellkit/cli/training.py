"""What the verbs that train have in common: recipes from options, labelled images from folders and lists."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from cellkit.cli import reporting, running
from cellkit.cli.inputs import named, read_options
from cellkit.cli.listing import DECODING, OPTIONS, TRAINING
from cellkit.cli.settings import apply, assignments, names_of
from cellkit.config import (
    NO_SETTINGS,
    WIDTHS,
    ModelSettings,
    NetworkName,
    OnExists,
    Preprocessing,
    PretrainMethodName,
    RepresentationName,
    SupervisedSettings,
)
from cellkit.data.augment import Augmentation
from cellkit.data.dataset import Dataset, Pair, merge
from cellkit.data.layouts import find_pairs, read_names, select
from cellkit.data.splits import split
from cellkit.engine import FitResult, FitSettings, distributed
from cellkit.errors import NoInputError, OutputError, UsageError
from cellkit.io.atomic import check_writable
from cellkit.representations import REPRESENTATIONS
from cellkit.stages.model import decode_settings
from cellkit.stages.pretraining import SupervisedRecipe, pretrain
from cellkit.stages.pretraining_detection import DetectionRecipe, pretrain_detection
from cellkit.stages.training_files import TrainingFiles

LabelledRecipe: TypeAlias = SupervisedRecipe | DetectionRecipe

log = logging.getLogger(__name__)

DATASETS = (".csv", ".json", ".h5", ".hdf5")  # files of --val that are annotated images themselves, no list of names
DETECTION = "add --method detection"
RATE = 1e-3  # of what is learned by Adam, where nobody chose another
LISTED = 10  # unpaired files named one by one; more are counted


@dataclasses.dataclass(frozen=True)
class Selection:
    """Labelled images, with a word on where they come from."""

    name: str
    layout: str
    pairs: tuple[Pair, ...]
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)  # key of an image -> where it was found


@dataclasses.dataclass(frozen=True)
class Choices:
    """Settings of a training that are options of their own."""

    network: NetworkName | None
    representation: RepresentationName | None
    diameter: float | None
    steps: int
    lr: float
    seed: int


def refuse_object_size(size: str | None, method: PretrainMethodName = "supervised") -> None:
    """Labels tell the size of objects.

    Raises:
        UsageError: it was given.
    """
    if size is not None:
        raise UsageError("--object-size", f"the method {method} has no use for it", "add --method oce")


def refuse_detector(
    network: NetworkName | None, representation: RepresentationName | None, method: str, repair: str = DETECTION
) -> None:
    """A network or a representation that is learned in another way.

    Raises:
        UsageError: it was asked for.
    """
    for option, value, own in (("--network", network, "detector"), ("--representation", representation, "boxes")):
        if value == own:
            raise UsageError(option, f"the method {method} trains no {own}", repair)


def recipe(texts: Sequence[str] | None, choices: Choices) -> SupervisedRecipe:
    """All settings of a training from its options and ``--set`` texts."""
    values = assignments(texts, TRAINING, OPTIONS["pretrain"])
    network, representation = choices.network or "unet", choices.representation or "flow"
    refuse_detector(choices.network, choices.representation, "supervised")
    widths = {"widths": list(WIDTHS[network])}
    model = apply(ModelSettings, widths | values, network=network, representation=representation)
    preprocessing = apply(Preprocessing, values, diameter=choices.diameter)
    names = names_of(*DECODING)
    decoding = {name: value for name, value in values.items() if name in names}
    decode_settings(REPRESENTATIONS[representation], NO_SETTINGS, decoding)  # checks them
    return SupervisedRecipe(
        decoding=decoding,
        model=model,
        preprocessing=preprocessing,
        augmentation=apply(Augmentation, values),
        fit=apply(FitSettings, values, steps=choices.steps, learning_rate=choices.lr, seed=choices.seed),
        supervised=apply(SupervisedSettings, values),
    )


def datasets(
    roots: Sequence[str],
    *,
    names: str | None,
    val: str | None,
    pairs: str | None,
    channels: str | None,
    seed: int,
) -> tuple[Selection, Selection]:
    """Images to learn from, and images that choose the best weights.

    ``val`` is a file that lists names in the same folders, other annotated images, or a fraction to hold back.
    """
    found = [(root, find_pairs(root, pairs=pairs)) for root in roots]
    _warn_of_unpaired(found)
    merged = merge(", ".join(dict.fromkeys(dataset.layout for _, dataset in found)), found)
    learn = select(merged, read_names(names)).pairs if names else merged.pairs
    held: tuple[Pair, ...] = ()
    if val and (Path(val).is_dir() or Path(val).suffix in DATASETS):
        held = find_pairs(val).pairs
    elif val and Path(val).is_file():
        held = select(merged, read_names(val)).pairs
    elif val:
        learn, held = _hold_back(learn, val, seed)
    kept = {pair.image for pair in held}
    learn = tuple(pair for pair in learn if pair.image not in kept)  # never learn from what chooses
    if not learn:
        raise NoInputError(named(roots), "no labelled image to learn from", "check --names and --val")
    learn, held = _with_channels(learn, channels), _with_channels(held, channels)
    roots_of = (root for root, dataset in found for _ in dataset.pairs)  # in the order of what was merged
    sources = dict(zip((pair.key for pair in merged.pairs), roots_of, strict=True))
    return Selection("learn", merged.layout, learn, sources), Selection("validate", merged.layout, held)


def _with_channels(pairs: tuple[Pair, ...], channels: str | None) -> tuple[Pair, ...]:
    chosen = read_options(None, channels, None).channels
    return pairs if chosen is None else tuple(dataclasses.replace(pair, channels=chosen) for pair in pairs)


def _hold_back(learn: tuple[Pair, ...], val: str, seed: int) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    try:
        fraction = float(val)
    except ValueError:
        raise UsageError("--val", f"'{val}' is no file, folder or fraction", "e.g. val.txt, DIR, or 0.1") from None
    kept, _ = split([pair.image for pair in learn], fraction, seed)
    chosen = set(kept)
    return (
        tuple(pair for pair in learn if pair.image in chosen),
        tuple(pair for pair in learn if pair.image not in chosen),
    )


def _warn_of_unpaired(found: Sequence[tuple[str, Dataset]]) -> None:
    for root, dataset in found:
        for kind, files in (("labels", dataset.unpaired_images), ("image", dataset.unpaired_labels)):
            for name in files[:LISTED]:
                log.warning("%s: no %s for %s", root, kind, name)
            if len(files) > LISTED:
                log.warning("%s: no %s for %d more", root, kind, len(files) - LISTED)


def show_datasets(output: str, *selections: Selection) -> None:
    """Print layout and images of each part; nothing is trained."""
    for selection in selections:
        layout = f"\t{selection.layout}" if selection.pairs else ""
        sys.stdout.write(f"{selection.name}\t{len(selection.pairs)} images{layout}\n")
        for pair in selection.pairs:
            sys.stdout.write(f"{selection.name}\t{pair.key}\t{pair.image}\t{pair.labels.name}\n")
    sys.stdout.write(f"-> {output}\n")


def checkpoint_path(output: str, *, resume: bool, on_exists: OnExists) -> Path:
    """Where the checkpoint goes; ``--resume`` insists that there is something to go on with.

    Raises:
        UsageError: the output cannot be meant or written, exists, or there is nothing to resume.
    """
    path = Path(output)
    if path.suffix != ".ckpt":
        raise UsageError(output, "a checkpoint is wanted", "name it FILE.ckpt")
    if on_exists == "error" and path.exists():
        raise UsageError(output, "exists already", "add --on-exists skip or overwrite, or choose another -o")
    if resume and not (path.exists() or TrainingFiles(output=path).last.exists()):
        raise UsageError("--resume", f"there is nothing to resume at {path}", "leave --resume out to begin")
    try:
        check_writable(path)
    except OutputError as error:
        raise UsageError(error.subject, error.problem, error.repair) from error
    return path


def run(
    learn: Selection,
    held: Selection,
    chosen: LabelledRecipe,
    device: tuple[str, str],
    output: str,
    *,
    resume: bool,
    on_exists: OnExists,
    quiet: bool,
) -> None:
    """Train and write; errors of the output as :func:`checkpoint_path`."""
    path = checkpoint_path(output, resume=resume, on_exists=on_exists)
    log.info("%d images to learn from, %d to validate: %s", len(learn.pairs), len(held.pairs), learn.layout)
    opened, overwrite = running.open_device(*device), on_exists == "overwrite"
    if isinstance(chosen, DetectionRecipe):
        result = pretrain_detection(learn.pairs, held.pairs, chosen, opened, path, overwrite=overwrite, quiet=quiet)
    else:
        chosen = dataclasses.replace(chosen, sources=learn.sources)
        result = pretrain(learn.pairs, held.pairs, chosen, opened, path, overwrite=overwrite, quiet=quiet)
    say_how_it_ended(path, result)


def say_how_it_ended(path: Path, result: FitResult | None) -> None:
    """The closing line of a run; None: there was nothing to do."""
    if not distributed.is_main():
        return
    if result is None:
        reporting.notice(f"{path} is up to date")
        return
    score = "" if result.best_score is None else f", best score {result.best_score:.4f}"
    reporting.notice(f"{path} {how_it_ended(result)}: {result.steps} steps{score}")


def how_it_ended(result: FitResult) -> str:
    """For the closing line."""
    if result.finished:
        return "is written"
    return "is not finished (the time was over); run the same command again to go on"
