"""What ``cellkit finetune`` makes of its options where the base is a detector."""

from __future__ import annotations

from cellkit.cli.finetune_choices import Choices
from cellkit.cli.finetune_options import DEFAULT_BASE
from cellkit.cli.listing import TUNE_OPTIONS
from cellkit.cli.pretrain_detection import decoding_names
from cellkit.cli.settings import apply, assignments
from cellkit.config import Spec
from cellkit.data.detection import DetectionAugmentation
from cellkit.io.checkpoints import load_checkpoint, model_path
from cellkit.methods.detection_settings import DetectionSettings
from cellkit.methods.settings import L2SPSettings
from cellkit.representations.boxes import BoxesSettings
from cellkit.stages.pretraining_detection import rate_for
from cellkit.stages.tuning_detector import DetectorFit, DetectorRecipe, DetectorTuning

KINDS: tuple[type[Spec], ...] = (
    DetectorTuning,
    DetectionAugmentation,
    DetectionSettings,
    DetectorFit,
    L2SPSettings,
    BoxesSettings,
)


def is_detector(base: str) -> bool:
    """Whether a base finds objects one by one.

    Raises:
        ModelError: there is no such base, or it cannot be read.
    """
    return load_checkpoint(model_path(base)).network.name == "detector"


def recipe(choices: Choices) -> DetectorRecipe:
    """All settings of a fine-tuning from its options and ``--set`` texts.

    Raises:
        UsageError: a setting that cannot be meant.
    """
    values = assignments(choices.settings, KINDS, TUNE_OPTIONS)
    tuning = apply(DetectorTuning, values, method=choices.method, train=choices.train)
    rate = rate_for(tuning.batch) if choices.lr is None else choices.lr
    return DetectorRecipe(
        base=choices.model or DEFAULT_BASE,
        tuning=tuning,
        augmentation=apply(DetectionAugmentation, values),
        fit=apply(DetectorFit, values, steps=choices.steps, learning_rate=rate, seed=choices.seed),
        detection=apply(DetectionSettings, values),
        l2sp=apply(L2SPSettings, values),
        typical=choices.diameter,
        decoding={name: value for name, value in values.items() if name in decoding_names()},
    )
