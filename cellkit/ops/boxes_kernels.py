"""The compiled kernels of torchvision, where it is installed and fits torch."""

from __future__ import annotations

import functools
import importlib
import warnings
from types import ModuleType


@functools.cache
def kernels() -> ModuleType | None:
    """``torchvision.ops``, or None where torchvision is missing or was built for another torch.

    It is asked for once a process. Nothing depends on it: what it does is written here as well, and slower.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of image codecs that it does not find: none is used
        try:
            return importlib.import_module("torchvision.ops")
        except (ImportError, RuntimeError, AttributeError):  # its operators fail to register beside a foreign torch
            return None
