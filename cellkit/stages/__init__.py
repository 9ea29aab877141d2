"""predict, postprocess, segment and evaluate as generators over images: what the verbs and Python users call."""

from cellkit.stages.model import Model, load_model
from cellkit.stages.outcomes import Failure, Skipped
from cellkit.stages.postprocessing import postprocess
from cellkit.stages.prediction import PredictSettings, predict
from cellkit.stages.scoring import evaluate
from cellkit.stages.segmentation import segment

__all__ = [
    "Failure",
    "Model",
    "PredictSettings",
    "Skipped",
    "evaluate",
    "load_model",
    "postprocess",
    "predict",
    "segment",
]
