"""Which settings each verb has, for ``--settings``."""

from __future__ import annotations

import importlib
import sys

from cellkit.cli.settings import describe
from cellkit.config import DetectSettings, ModelSettings, Preprocessing, Spec, SupervisedSettings
from cellkit.data.augment import Augmentation
from cellkit.engine import FitSettings
from cellkit.representations import OBJECTS, REPRESENTATIONS
from cellkit.representations.representation import DecodeSettings
from cellkit.stages import PredictSettings

DECODING: tuple[type[DecodeSettings], ...] = tuple(
    representation.settings for representation in (*REPRESENTATIONS.values(), *OBJECTS.values())
)
TRAINING: tuple[type[Spec], ...] = (
    ModelSettings,
    Preprocessing,
    Augmentation,
    SupervisedSettings,
    FitSettings,
    *DECODING,
)
PREDICT_OPTIONS = {"diameter": "--diameter", "tile": "--tile"}
TRAIN_OPTIONS = {
    "network": "--network",
    "representation": "--representation",
    "steps": "--steps",  # those of decoding are chosen when a model is used
    "learning_rate": "--lr",
    "seed": "--seed",
    "diameter": "--diameter",
}
TUNE_OPTIONS = {
    "method": "--method",
    "train": "--train",
    "steps": "--steps",
    "learning_rate": "--lr",
    "seed": "--seed",
}
SUPPORT_OPTIONS = {
    "network": "--network",
    "representation": "--representation",
    "init": "--model",
    "alpha": "--alpha",
    "steps": "--steps",
    "learning_rate": "--lr",
    "seed": "--seed",
    "typical": "--diameter",
}
META_OPTIONS = {
    "network": "--network",
    "representation": "--representation",
    "batch": "--shots",  # all crops of a task are in every step
    "steps": "--episodes",
    "learning_rate": "--lr",
    "seed": "--seed",
    "diameter": "--diameter",
}
ADAPT_OPTIONS = {
    "network": "--network",
    "representation": "--representation",
    "init": "--model",
    "steps": "--steps",
    "learning_rate": "--lr",
    "seed": "--seed",
    "typical": "--diameter",
}
OPTIONS: dict[str, dict[str, str]] = {  # settings that are options of their own
    "predict": PREDICT_OPTIONS,
    "postprocess": {},
    "segment": PREDICT_OPTIONS,
    "pretrain": TRAIN_OPTIONS,
    "meta-train": META_OPTIONS | {"styles": "cellkit pretrain", "clip": "cellkit pretrain"},  # these mean nothing there
    "adapt": ADAPT_OPTIONS,
    "finetune": TUNE_OPTIONS,
}
SETTINGS: dict[str, tuple[type[Spec], ...]] = {
    "predict": (PredictSettings, DetectSettings),
    "postprocess": DECODING,
    "segment": (PredictSettings, *DECODING),
    "pretrain": TRAINING,
}


LATE = {  # method, else verb -> module and name of its dataclasses: it imports more than other verbs want to wait for
    "oce": ("unlabelled", "KINDS"),
    "detection": ("pretrain_detection", "KINDS"),
    "moco": ("moco", "KINDS"),
    "cupre": ("cupre", "KINDS"),
    "supported": ("supported", "SUPPORTED"),
    "meta-train": ("meta_training", "KINDS"),
    "adapt": ("adapting", "KINDS"),
    "finetune": ("tuning", "LISTED"),
}


def kinds_of(verb: str, method: str | None = None) -> tuple[type[Spec], ...]:
    """The dataclasses whose fields ``--set`` of a verb takes, for a way of learning."""
    place = LATE.get(method or verb, LATE.get(verb))
    if place is None:
        return SETTINGS[verb]
    kinds: tuple[type[Spec], ...] = getattr(importlib.import_module(f"cellkit.cli.{place[0]}"), place[1])
    return kinds


def options_of(verb: str, method: str | None = None) -> dict[str, str]:
    """Settings that are options of their own of a verb, for a way of learning: field -> option."""
    if method in ("detection", "moco", "cupre"):
        from cellkit.cli.pretrain_detection import OPTIONS as DETECTION

        return DETECTION
    return SUPPORT_OPTIONS if method == "supported" else OPTIONS[verb]


def list_settings(verb: str, method: str | None = None) -> None:
    """Print names, defaults and meanings of the settings of a verb, for a way of learning."""
    sys.stdout.write(describe(kinds_of(verb, method), without=options_of(verb, method)))
