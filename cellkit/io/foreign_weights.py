"""Weights that others saved: .pth and .pt of torch, pickles of NumPy arrays (.pkl), read without executing anything.

A pickle can name any function of any module and have it called. Here a pickle may name what arrays of numbers are made
of, and nothing else: any other name ends the reading before anything is called.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cellkit.errors import InputError, ModelError
from cellkit.io.checkpoints import FORMAT_NAME, PICKLE_MAGIC, ZIP_MAGIC
from cellkit.io.grouped_hdf5 import first_bytes

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # what files of torch began with before they were zip files
SUFFIXES = (".pth", ".pt", ".pkl")
KINDS = "give a .pth or .pt of torch, or a .pkl of NumPy arrays"
WEIGHTS_ALONE = "save its weights alone, with torch.save(model.state_dict(), FILE)"


class _Latin:
    """Bytes as pickles of protocol 2 hold them: as text, of which each letter is a byte."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"bytes as {encoding}")
        return text.encode("latin1")


class _NoBytes:
    """Empty bytes as pickles of protocol 2 hold them: ``bytes()``."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


CORES = ("numpy.core", "numpy._core")  # where NumPy's own functions are, before version 2 and since
ARRAYS: Mapping[tuple[str, str], Any] = {
    **{(f"{core}.multiarray", "_reconstruct"): np.zeros(1).__reduce__()[0] for core in CORES},
    **{(f"{core}.multiarray", "scalar"): np.float64(0).__reduce__()[0] for core in CORES},
    **{(f"{core}.numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0] for core in CORES},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _Latin(),
    ("__builtin__", "bytes"): _NoBytes(),
}
"""All that a pickle may name; containers and numbers need no name."""


class _Unpickler(pickle.Unpickler):
    """Reads containers, numbers, texts and arrays."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - a class or function
        """What a pickle names, if it may."""
        try:
            return ARRAYS[module, name]
        except KeyError:
            raise _NamedError(f"{module}.{name}") from None


class _NamedError(pickle.UnpicklingError):
    """A pickle names what it may not."""


def load_foreign(path: Path) -> dict[str, Any]:
    """What a file of weights holds; whatever that is, no code of it runs.

    Args:
        path: the file; how it begins decides what it is, not its name.

    Returns:
        the weights, or what has them beside other things, by name.

    Raises:
        ModelError: missing, empty, truncated, damaged; with objects that could run code; already a model of cellkit.
    """
    try:
        start = first_bytes(path, str(path))
    except InputError as error:
        raise ModelError(path, error.problem, KINDS) from error
    if start.startswith(ZIP_MAGIC):
        content = _torch(path)
    elif start.startswith(PICKLE_MAGIC):
        content = _pickle(path)
    else:
        raise ModelError(path, "holds no weights", KINDS)
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ModelError(path, "holds no weights by name", KINDS)
    if content.get("format") == FORMAT_NAME:
        raise ModelError(path, "is a model of cellkit already", "use it as it is")
    return dict(content)


def _torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        problem = "holds Python objects beside weights, which could run code; they were not loaded"
        raise ModelError(path, problem, WEIGHTS_ALONE) from error
    except Exception as error:  # a damaged file makes the reader raise anything
        raise ModelError(path, "is truncated or damaged", "copy it again") from error


def _pickle(path: Path) -> object:
    """A pickle of arrays; or, where its first object says so, an old file of torch."""
    data = path.read_bytes()
    try:
        content: object = _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except _NamedError as error:
        problem = f"names {error}, which could run code; nothing was loaded"
        raise ModelError(path, problem, "give a .pkl of NumPy arrays alone") from error
    except Exception as error:  # a damaged pickle makes the reader raise anything
        raise ModelError(path, "is truncated or damaged", "copy it again") from error
    return _torch(path) if content == TORCH_MAGIC else content
