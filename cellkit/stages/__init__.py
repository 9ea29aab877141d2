"""predict, postprocess, segment and evaluate as generators over images: what the verbs and Python users call.

Each is imported when it is first asked for: scoring labels must not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_HOMES = {
    "Failure": "outcomes",
    "Model": "model",
    "PredictSettings": "prediction",
    "Skipped": "outcomes",
    "evaluate": "scoring",
    "load_model": "model",
    "postprocess": "postprocessing",
    "predict": "prediction",
    "segment": "segmentation",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
