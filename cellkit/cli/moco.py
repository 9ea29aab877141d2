"""What ``cellkit pretrain --method moco`` does: its recipe, its images, the run and its closing words."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence

from cellkit.cli import reporting, running, training
from cellkit.cli.finetune_choices import Place
from cellkit.cli.inputs import STREAM, named, read_options
from cellkit.cli.listing import TRAIN_OPTIONS
from cellkit.cli.pretrain_detection import SEEN
from cellkit.cli.settings import apply, assignments
from cellkit.cli.training import Choices
from cellkit.config import WIDTHS, JsonValue, ModelSettings, NetworkName, Preprocessing, Settings, Spec
from cellkit.data.detection_categories import CELL
from cellkit.data.moco_views import V1, ViewSettings
from cellkit.errors import NoInputError, UsageError
from cellkit.io.checkpoints import Checkpoint, load_checkpoint, model_path
from cellkit.io.sources import Source, find_together
from cellkit.methods.moco_settings import MoCoSettings
from cellkit.networks.detector_spec import DetectorSpec
from cellkit.stages.detector_weights import categories_of
from cellkit.stages.pretraining_detection import DetectionPreprocessing, TrainedDetector
from cellkit.stages.pretraining_moco import MoCoFit, MoCoModel, MoCoRecipe, pretrain_moco, rate_for

DETECTOR: NetworkName = "detector"
KINDS: tuple[type[Spec], ...] = (
    MoCoModel,
    DetectionPreprocessing,
    TrainedDetector,
    ViewSettings,
    MoCoSettings,
    MoCoFit,
)
OPTIONS = TRAIN_OPTIONS | {"classes": "the categories of the base"}

log = logging.getLogger(__name__)


def begin(images: Sequence[Source], chosen: MoCoRecipe, place: Place) -> None:
    """Train, or show what would be learned from."""
    if place.dry_run:
        show(place.output, images)
    else:
        run(images, chosen, place)


def sources(method: str, inputs: Sequence[str], channels: str | None, **useless: str | None) -> list[Source]:
    """The images to learn from, without labels.

    Args:
        method: for messages.
        inputs: files and folders.
        channels: of the images that are used.
        useless: options that have no meaning for the method, by name.

    Raises:
        UsageError: one of those was given, or a stream, of which images could not be read again.
        NoInputError: there is no image.
    """
    for name, value in useless.items():
        if value is not None:
            raise UsageError(f"--{name}", f"the method {method} has no use for it", "leave it out")
    if STREAM in inputs:
        raise UsageError(STREAM, "a stream cannot be learned from", "name files or folders")
    try:
        return find_together(inputs, read_options(None, channels, None))
    except NoInputError as error:
        raise NoInputError(named([error.subject]), "no image to learn from", error.repair) from error


def view_settings(values: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The values, below them those of the views of the version that is chosen."""
    return (dict(V1) if values.get("version") == "v1" else {}) | dict(values)


def recipe(texts: Sequence[str] | None, choices: Choices, lr: float | None) -> MoCoRecipe:
    """All settings of a training from its options and ``--set`` texts; a base gives the defaults of its network.

    Raises:
        UsageError: a setting that cannot be meant.
        ModelError: there is no such base.
    """
    values = view_settings(assignments(texts, KINDS, OPTIONS))
    base = None if values.get("init") is None else load_checkpoint(model_path(str(values["init"])))
    network = choices.network or (DETECTOR if base is None else base.network.name)
    detects = network == DETECTOR
    if base is not None:
        values = of_base(base, detects=detects) | values
    if base is not None and choices.representation is None and not detects:
        choices = dataclasses.replace(choices, representation=base.representation.name)
    model = _model(values, network, choices)
    kind: type[Preprocessing] = DetectionPreprocessing if detects else Preprocessing
    rate = rate_for(model.batch) if lr is None else lr
    return MoCoRecipe(
        model=model,
        preprocessing=apply(kind, values, diameter=choices.diameter),
        fit=apply(MoCoFit, values, steps=choices.steps, learning_rate=rate, seed=choices.seed),
        decoding={} if base is None else base.representation.settings,
        detector=apply(TrainedDetector, values) if detects else None,
        names=(categories_of(base) if base is not None and detects else ()) or (CELL,),
        views=apply(ViewSettings, values),
        moco=apply(MoCoSettings, values),
    )


def _model(values: Mapping[str, JsonValue], network: NetworkName, choices: Choices) -> ModelSettings:
    detects = network == DETECTOR
    representation = choices.representation or ("boxes" if detects else "flow")
    widths: Settings = {"widths": [] if detects else list(WIDTHS[network])}
    return apply(MoCoModel, {**widths, **values}, network=network, representation=representation)


def of_base(base: Checkpoint, *, detects: bool) -> dict[str, JsonValue]:
    """What a base is made of, and how it sees images: a network that learns without labels stays what it is."""
    seen = base.preprocessing.to_dict()
    if not detects:
        return seen | {"widths": list(base.network.widths), "affine": base.network.affine}
    values = {name: seen[name] for name in SEEN}
    if base.network.name == DETECTOR:
        values |= {field.name: base.network.settings[field.name] for field in dataclasses.fields(DetectorSpec)}
        values["anchor_set"] = "own"
    return values


def show(output: str, images: Sequence[Source]) -> None:
    """Print the images; nothing is trained."""
    sys.stdout.write(f"unlabelled\t{reporting.counted_images(len(images))}\n")
    for source in images:
        sys.stdout.write(f"unlabelled\t{source.key}\t{source.path}\n")
    sys.stdout.write(f"-> {output}\n")


def run(images: Sequence[Source], chosen: MoCoRecipe, place: Place) -> None:
    """Train, write, and say how it ended."""
    path = training.checkpoint_path(place.output, resume=place.resume, on_exists=place.on_exists)
    log.info("%s to learn from", reporting.counted_images(len(images)))
    device, overwrite = running.open_device(*place.device), place.on_exists == "overwrite"
    result = pretrain_moco(images, chosen, device, path, overwrite=overwrite, quiet=place.quiet)
    training.say_how_it_ended(path, result)
