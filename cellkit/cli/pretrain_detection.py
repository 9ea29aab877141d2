"""What ``cellkit pretrain --method detection`` makes of its options: the recipe of a detector."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from cellkit.cli.listing import TRAIN_OPTIONS
from cellkit.cli.settings import apply, assignments, names_of
from cellkit.cli.training import Choices
from cellkit.config import JsonValue, Settings, Spec
from cellkit.data.detection import DetectionAugmentation
from cellkit.io.checkpoints import load_checkpoint, model_path
from cellkit.methods.detection_settings import DetectionSettings
from cellkit.representations.boxes import BoxesSettings
from cellkit.stages.pretraining_detection import (
    DetectionFit,
    DetectionModel,
    DetectionPreprocessing,
    DetectionRecipe,
    TrainedDetector,
    rate_for,
)

KINDS: tuple[type[Spec], ...] = (
    DetectionModel,
    DetectionPreprocessing,
    TrainedDetector,
    DetectionAugmentation,
    DetectionSettings,
    DetectionFit,
    BoxesSettings,
)
OPTIONS = TRAIN_OPTIONS | {"classes": "the categories of the annotations, or --set categories=one"}
ANCHORS = ("anchor_sizes", "anchor_ratios", "anchor_levels")
OF_THE_IMAGES = frozenset({"classes", "channels", *ANCHORS})  # what is not taken over from a base
SEEN = ("channels", "colour", "normalisation", "percentiles")  # how a base sees images


def decoding_names() -> set[str]:
    """Settings of decoding that are none of learning; those of the same name are, here, of learning."""
    return names_of(BoxesSettings) - names_of(DetectionSettings)


def recipe(texts: Sequence[str] | None, choices: Choices, lr: float | None) -> DetectionRecipe:
    """All settings of a training from its options and ``--set`` texts; a base gives the defaults of its network.

    Raises:
        UsageError: a setting that cannot be meant.
        ModelError: there is no such base.
    """
    values: dict[str, JsonValue] = assignments(texts, KINDS, OPTIONS)
    base = values.get("init")
    if base is not None:
        values = of_base(str(base)) | values
    if any(name in values for name in ANCHORS):
        values.setdefault("anchor_set", "own")
    model = apply(DetectionModel, values, network=choices.network, representation=choices.representation)
    rate = rate_for(model.batch) if lr is None else lr
    return DetectionRecipe(
        model=model,
        preprocessing=apply(DetectionPreprocessing, values, diameter=choices.diameter),
        fit=apply(DetectionFit, values, steps=choices.steps, learning_rate=rate, seed=choices.seed),
        decoding={name: value for name, value in values.items() if name in decoding_names()},
        detector=apply(TrainedDetector, values),
        augmentation=apply(DetectionAugmentation, values),
        detection=apply(DetectionSettings, values),
    )


def of_base(name: str) -> dict[str, JsonValue]:
    """What a detector that training begins with is made of, and how it sees images; nothing of another model."""
    base = load_checkpoint(model_path(name))
    if base.network.name != "detector":
        return {}
    own: Settings = {key: value for key, value in base.network.settings.items() if key not in OF_THE_IMAGES}
    known = {field.name for field in dataclasses.fields(TrainedDetector)}
    seen = base.preprocessing.to_dict()
    return {key: value for key, value in own.items() if key in known} | {key: seen[key] for key in SEEN}
