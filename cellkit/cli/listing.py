"""Which settings each verb has, for ``--settings``."""

from __future__ import annotations

import sys

from cellkit.cli.settings import describe
from cellkit.config import Preprocessing, Spec
from cellkit.data.augment import Augmentation
from cellkit.engine import FitSettings
from cellkit.representations import REPRESENTATIONS
from cellkit.stages import PredictSettings
from cellkit.stages.pretraining import ModelSettings

DECODING: tuple[type[Spec], ...] = tuple(representation.settings for representation in REPRESENTATIONS.values())
TRAINING: tuple[type[Spec], ...] = (
    ModelSettings,
    Preprocessing,
    Augmentation,
    FitSettings,
    *DECODING,
)

SETTINGS: dict[str, tuple[type[Spec], ...]] = {
    "predict": (PredictSettings,),
    "postprocess": DECODING,
    "segment": (PredictSettings, *DECODING),
    "pretrain": TRAINING,
}


def list_settings(verb: str) -> None:
    """Print names, defaults and meanings of the settings of a verb."""
    sys.stdout.write(describe(SETTINGS[verb]))
