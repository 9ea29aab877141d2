"""The shared engine: device, precision, the one training loop, tiled inference.

It knows nothing of networks, representations, methods, data or metrics: it is given them. Names are imported when
they are first used, so that ``engine.settings`` can be read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellkit.engine.device import Device, open_device, prepare
    from cellkit.engine.inference import Tiling, infer
    from cellkit.engine.memory import MemoryLadder
    from cellkit.engine.method import Method
    from cellkit.engine.optimisers import Optimisers
    from cellkit.engine.progress import Progress
    from cellkit.engine.randomness import set_seed
    from cellkit.engine.settings import FitSettings
    from cellkit.engine.training import FitResult, RunFiles, fit

__all__ = [
    "Device",
    "FitResult",
    "FitSettings",
    "MemoryLadder",
    "Method",
    "Optimisers",
    "Progress",
    "RunFiles",
    "Tiling",
    "fit",
    "infer",
    "open_device",
    "prepare",
    "set_seed",
]

_HOMES = {
    "Device": "device",
    "FitResult": "training",
    "FitSettings": "settings",
    "MemoryLadder": "memory",
    "Method": "method",
    "Optimisers": "optimisers",
    "Progress": "progress",
    "RunFiles": "training",
    "Tiling": "inference",
    "fit": "training",
    "infer": "inference",
    "open_device": "device",
    "prepare": "device",
    "set_seed": "randomness",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
