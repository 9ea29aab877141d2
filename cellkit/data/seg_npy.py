"""Cellpose's NAME_seg.npy: a pickled dictionary, read without executing anything.

The unpickler knows NumPy arrays and scalars, dictionaries, lists and strings; whatever else is named in the file is
refused. Written from the format's description in the NumPy and pickle documentation.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy._core import multiarray
from numpy._core.numeric import _frombuffer  # type: ignore[attr-defined]
from numpy.lib import format as npy

from cellkit.data.truth import Truth, as_labels, check_shape
from cellkit.errors import InputError

REPAIR = "save it anew in Cellpose, or export the masks as TIFF"


@dataclass(frozen=True)
class SegFile:
    """The masks in a NAME_seg.npy of Cellpose."""

    name: str

    def read(self, shape: tuple[int, int] | None = None) -> Truth:
        """Read it; see :class:`cellkit.data.truth.LabelRef`.

        Raises:
            InputError: no such file, no dictionary with ``masks``, something in it that would run code, or not 2-D.
        """
        try:
            with open(self.name, "rb") as stream:
                content = _load(stream)
        except FileNotFoundError as error:
            raise InputError(self.name, "the file is not there", "check its path") from error
        except pickle.UnpicklingError as error:
            raise InputError(self.name, str(error), REPAIR) from error
        except Exception as error:  # a damaged pickle fails in any way it likes
            raise InputError(self.name, "the file is no readable _seg.npy", REPAIR) from error
        masks = content.get("masks") if isinstance(content, dict) else None
        if not isinstance(masks, np.ndarray):
            raise InputError(self.name, "there is no label image 'masks' in it", REPAIR)
        if masks.ndim != 2:
            raise InputError(self.name, f"'masks' has {masks.ndim} dimensions", "only 2-D images are segmented")
        check_shape(self.name, masks.shape, shape)
        return Truth(labels=as_labels(masks, self.name))


def _load(stream: BinaryIO) -> Any:  # noqa: ANN401 - what a pickle holds is not known
    version = npy.read_magic(stream)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if not dtype.hasobject or shape != ():
        raise pickle.UnpicklingError("it holds an array, not Cellpose's dictionary")
    loaded = _Unpickler(stream).load()
    return loaded.item() if isinstance(loaded, np.ndarray) and loaded.shape == () else loaded


def _text(*parts: object) -> str:
    """Paths become plain text."""
    return "/".join(str(part) for part in parts)


def _latin(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes; other encodings are not admitted."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it names the encoding {encoding!r}, which is not admitted")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    admitted: dict[tuple[str, str], object] = {  # noqa: RUF012 - a constant table
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin,
        ("pathlib", "PosixPath"): _text,
        ("pathlib", "WindowsPath"): _text,
        ("pathlib._local", "PosixPath"): _text,
        ("pathlib._local", "WindowsPath"): _text,
        **{
            (f"numpy.{core}.{module}", name): function
            for core in ("core", "_core")
            for module, name, function in (
                ("multiarray", "_reconstruct", multiarray._reconstruct),
                ("multiarray", "scalar", multiarray.scalar),
                ("numeric", "_frombuffer", _frombuffer),
            )
        },
    }

    def find_class(self, module: str, name: str) -> object:
        known = self.admitted.get((module, name))
        return known if known is not None else _refuse(f"{module}.{name}")

    def persistent_load(self, identity: object) -> NoReturn:
        _refuse(f"persistent object {identity!r}")


def _refuse(name: str) -> NoReturn:
    raise pickle.UnpicklingError(f"it names {name}, which is not admitted: it could run code")
