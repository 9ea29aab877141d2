"""What ``cellkit pretrain --method oce`` does: its recipe, its images, the run and its closing words."""

from __future__ import annotations

import dataclasses
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from cellkit.cli import reporting, running, training
from cellkit.cli.inputs import STREAM, named, read_options
from cellkit.cli.listing import TRAIN_OPTIONS
from cellkit.cli.settings import apply, assignments, names_of
from cellkit.cli.training import Choices
from cellkit.config import WIDTHS, ModelSettings, NetworkName, Spec
from cellkit.data.unlabelled import Deformation
from cellkit.engine import distributed
from cellkit.errors import NoInputError, UsageError
from cellkit.io.sources import Source, find_together
from cellkit.methods.oce_settings import OceSettings
from cellkit.representations.embedding import EmbeddingSettings
from cellkit.stages.pretraining_unlabelled import (
    KAPPA,
    OceFit,
    OcePreprocessing,
    UnlabelledRecipe,
    decoding_for,
    estimated_size,
    pretrain_unlabelled,
)

KINDS: tuple[type[Spec], ...] = (ModelSettings, OcePreprocessing, Deformation, OceFit, OceSettings, EmbeddingSettings)
EACH = "each"  # image has its own size of objects
VARIED = 2.0  # a tenth of the images has objects so many times as large as those of another tenth: sizes differ
OPTIONS = TRAIN_OPTIONS | {"typical": "--object-size", "estimated": "--object-size each"}

log = logging.getLogger(__name__)


def sources(inputs: Sequence[str], channels: str | None, **useless: str | None) -> list[Source]:
    """The images to learn from.

    Args:
        inputs: files and folders.
        channels: of the images that are used.
        useless: options that have no meaning without labels, by name.

    Raises:
        UsageError: one of those was given, or a stream, of which images could not be read again.
        NoInputError: there is no image.
    """
    for name, value in useless.items():
        if value is not None:
            raise UsageError(f"--{name}", "the method oce has no use for it", "leave it out")
    if STREAM in inputs:
        raise UsageError(STREAM, "a stream cannot be learned from", "name files or folders")
    try:
        return find_together(inputs, read_options(None, channels, None))
    except NoInputError as error:
        raise NoInputError(named([error.subject]), "no image to learn from", error.repair) from error


def recipe(texts: Sequence[str] | None, choices: Choices, object_size: str | None) -> UnlabelledRecipe:
    """All settings of a training from its options and ``--set`` texts; without a size of objects, that is missing.

    Raises:
        UsageError: a setting that cannot be meant.
    """
    training.refuse_detector(choices.network, choices.representation, "oce")
    values = assignments(texts, KINDS, OPTIONS)
    network: NetworkName = choices.network or "mini-unet"
    each = object_size == EACH
    size = None if object_size is None or each else _pixels(object_size)
    preprocessing = apply(OcePreprocessing, values, diameter=choices.diameter, typical=size, estimated=each)
    working = preprocessing.diameter
    if working is None:
        raise UsageError("diameter", "none is no size", "give pixels, e.g. 30")
    decoding = {name: value for name, value in values.items() if name in names_of(EmbeddingSettings)}
    model = {"widths": list(WIDTHS[network])} | values
    return UnlabelledRecipe(
        model=apply(ModelSettings, model, network=network, representation=choices.representation or "embedding"),
        preprocessing=preprocessing,
        deformation=apply(Deformation, values),
        fit=apply(OceFit, values, steps=choices.steps, learning_rate=choices.lr, seed=choices.seed),
        oce=apply(OceSettings, {"kappa": KAPPA * working} | values),
        decoding=decoding_for(working, decoding),
    )


def _pixels(text: str) -> float:
    """A size of objects that is a number."""
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 1 <= size < math.inf:
        raise UsageError("--object-size", f"'{text}' is no size", f"give pixels, 1 or more, or '{EACH}'")
    return size


def sized(chosen: UnlabelledRecipe, images: Sequence[Source]) -> UnlabelledRecipe:
    """The recipe with the size of objects, which the images tell where the user does not; says what was found.

    Where they tell very different sizes, each image is brought to its own.
    """
    if chosen.preprocessing.typical is not None:
        return chosen
    found = estimated_size(images)
    size = round(found.diameter, 1)
    each = chosen.preprocessing.estimated or found.high > VARIED * found.low
    told = f"from {reporting.counted_images(found.images)}, most of them {found.low:.3g} to {found.high:.3g} px"
    assumed = "objects of each image are assumed to be as large as estimated from it, about {:g} px"
    if distributed.is_main():
        words = assumed if each else "objects of about {:g} px are assumed"
        reporting.notice(f"{words.format(size)} ({told}); --object-size sets it")
    preprocessing = dataclasses.replace(chosen.preprocessing, typical=size, estimated=each)
    return dataclasses.replace(chosen, preprocessing=preprocessing)


def show(output: str, images: Sequence[Source]) -> None:
    """Print the images; nothing is trained."""
    sys.stdout.write(f"learn\t{reporting.counted_images(len(images))}\n")
    for source in images:
        sys.stdout.write(f"learn\t{source.key}\t{source.path}\n")
    sys.stdout.write(f"-> {output}\n")


def run(
    images: Sequence[Source],
    chosen: UnlabelledRecipe,
    device: tuple[str, str],
    path: Path,
    *,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Train, write, and say how it ended."""
    scale = "to its own size of objects" if chosen.preprocessing.estimated else f"by {chosen.scale:.3g}"
    log.info("%s to learn from, scaled %s", reporting.counted_images(len(images)), scale)
    opened = running.open_device(*device)
    result = pretrain_unlabelled(images, chosen, opened, path, overwrite=overwrite, quiet=quiet)
    training.say_how_it_ended(path, result)
