"""Checkpoints: one file that ``predict`` needs, written whole, loaded without executing anything.

A checkpoint is what ``torch.save`` writes (a zip file) of one dictionary of plain values and tensors: ``format`` =
``cellkit checkpoint``, ``format_version`` = 1, the specifications ``network``, ``representation`` and
``preprocessing`` as dictionaries, ``weights`` by name, ``history`` as JSON text, ``card`` (the model card),
``training`` (state for resuming, or None), ``extra`` (what was trained beside the network) and ``contrast`` (crops of
the images that were learned from, by style); the last two may be missing.
"""

from __future__ import annotations

import difflib
import io
import os
import pickle
import types
import typing
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from cellkit.config import JsonValue, NetworkSpec, Preprocessing, RepresentationSpec, Spec
from cellkit.errors import InputError, ModelError, OutputError
from cellkit.io.atomic import remove_leftovers, written_whole
from cellkit.io.grouped_hdf5 import first_bytes
from cellkit.provenance import History, from_json, to_json

FORMAT_NAME = "cellkit checkpoint"
FORMAT_VERSION = 1
SUFFIX = ".ckpt"
BUNDLED = Path(__file__).resolve().parent.parent / "weights"
MODELS_VARIABLE = "CELLKIT_MODELS"
ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"  # with a version after it, from protocol 2 on
GET_ANOTHER = "give a bundled model's name or a file that cellkit wrote"
COPY_AGAIN = "copy it again"

SpecT = TypeVar("SpecT", bound=Spec)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model, and if it was saved to go on training, the state of its training.

    Attributes:
        network: which network turns pixels into maps.
        representation: which representation turns maps into cells.
        preprocessing: what is done to an image before.
        weights: the network's state by name, float32 unless integer.
        history: the commands that made it.
        card: the model card: data, licence, recipe, scores, limits.
        training: plain values and tensors for resuming, or None.
        extra: what was trained beside the network and is not needed for prediction, e.g. alpha of contrastive tuning.
        contrast: a few crops of the images learned from, by style: (N, C, h, w) uint8, as ``data.style_crops`` packs
            them. Contrastive fine-tuning pushes away from them.
    """

    network: NetworkSpec
    representation: RepresentationSpec
    preprocessing: Preprocessing
    weights: dict[str, Tensor]
    history: History = ()
    card: dict[str, JsonValue] = field(default_factory=dict)
    training: dict[str, Any] | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    contrast: dict[str, Tensor] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, half: bool = False) -> None:
    """Write a checkpoint whole or not at all, and read it back before it gets its name.

    Args:
        path: the file.
        checkpoint: what is saved; tensors may be on any device.
        half: weights as float16, except those that float16 cannot hold.

    Raises:
        OutputError: it cannot be written, or does not read back.
    """
    content = {
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "network": checkpoint.network.to_dict(),
        "representation": checkpoint.representation.to_dict(),
        "preprocessing": checkpoint.preprocessing.to_dict(),
        "weights": {name: _stored(tensor, half) for name, tensor in checkpoint.weights.items()},
        "history": to_json(checkpoint.history),
        "card": checkpoint.card,
        "training": checkpoint.training,
        "extra": {name: _stored(tensor, half=False) for name, tensor in checkpoint.extra.items()},
        "contrast": {name: _stored(tensor, half=False) for name, tensor in checkpoint.contrast.items()},
    }
    memory = io.BytesIO()  # torch's own writer turns a full disk into an internal error
    torch.save(content, memory)
    remove_leftovers(path.parent, path.name)
    with written_whole(path) as part:
        part.write_bytes(memory.getbuffer())
        try:
            load_checkpoint(part)
        except ModelError as error:
            raise OutputError(path, f"does not read back as it was written: {error.problem}") from error


def _stored(tensor: Tensor, half: bool) -> Tensor:
    """On the CPU, in a storage of its own: of a view, torch would save all that it is a view of."""
    tensor = tensor.detach().to("cpu", copy=True).contiguous()
    if half and tensor.is_floating_point():
        smaller = tensor.half()
        return smaller if bool(torch.isfinite(smaller).all()) else tensor.float()
    return tensor


def load_checkpoint(path: Path, *, training: bool = False) -> Checkpoint:
    """Load a checkpoint; whatever the file holds, no code of it runs.

    Args:
        path: the file.
        training: with the state for resuming.

    Raises:
        ModelError: missing, empty, truncated, damaged, no checkpoint of cellkit, of a newer format, with code, or
            without state for resuming.
    """
    _check_zip(path)
    content = _content(path)
    version = content.get("format_version")
    if content.get("format") != FORMAT_NAME or not isinstance(version, int):
        raise ModelError(path, "is no cellkit checkpoint", GET_ANOTHER)
    if version > FORMAT_VERSION:
        problem = f"is of format {version}; this cellkit reads up to {FORMAT_VERSION}"
        raise ModelError(path, problem, "upgrade cellkit")
    state = content.get("training") if training else None
    if training and not isinstance(state, dict):
        raise ModelError(path, "holds no state of training to resume from", "start anew with these weights")
    return Checkpoint(
        network=_spec(path, content, "network", NetworkSpec),
        representation=_spec(path, content, "representation", RepresentationSpec),
        preprocessing=_spec(path, content, "preprocessing", Preprocessing),
        weights=_weights(path, content),
        history=_history(path, content),
        card=_dictionary(path, content, "card"),
        training=state,
        extra=_tensors(path, content, "extra"),
        contrast=_tensors(path, content, "contrast"),
    )


def _check_zip(path: Path) -> None:
    """Tell what is no zip file, a truncated and a damaged one, before torch opens it."""
    try:
        start = first_bytes(path, str(path))
    except InputError as error:
        raise ModelError(path, error.problem, GET_ANOTHER) from error
    if start.startswith(PICKLE_MAGIC):
        problem = "is a Python pickle, which could run code, and no cellkit checkpoint; it was not opened"
        raise ModelError(path, problem, GET_ANOTHER)
    if not start.startswith(ZIP_MAGIC):
        raise ModelError(path, "is no cellkit checkpoint", GET_ANOTHER)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
    except (zipfile.BadZipFile, EOFError) as error:
        raise ModelError(path, "is truncated", COPY_AGAIN) from error
    except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelError(path, "is damaged", COPY_AGAIN) from error
    if damaged:
        raise ModelError(path, "is damaged: a checksum is wrong", COPY_AGAIN)
    if not any(name.endswith("/data.pkl") for name in names):
        raise ModelError(path, "is no cellkit checkpoint", GET_ANOTHER)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        problem = "holds Python objects that could run code, and no cellkit checkpoint; they were not loaded"
        raise ModelError(path, problem, GET_ANOTHER) from error
    except Exception as error:  # a damaged pickle makes the reader raise anything
        raise ModelError(path, "is no cellkit checkpoint, or damaged", GET_ANOTHER) from error
    if not isinstance(content, dict):
        raise ModelError(path, "is no cellkit checkpoint", GET_ANOTHER)
    return content


def _dictionary(path: Path, content: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ModelError(path, f"has no valid {name!r}", GET_ANOTHER)
    return value


def _tensors(path: Path, content: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Tensors by name; none where an older version left the part out."""
    tensors = _dictionary(path, content, name) if name in content else {}
    if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ModelError(path, f"has no valid {name!r}", GET_ANOTHER)
    return tensors


def _weights(path: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    weights = _tensors(path, content, "weights")
    if not weights:
        raise ModelError(path, "has no valid 'weights'", GET_ANOTHER)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def _history(path: Path, content: Mapping[str, Any]) -> History:
    try:
        return from_json(str(content.get("history")))
    except ValueError as error:
        raise ModelError(path, "has no valid 'history'", GET_ANOTHER) from error


def _spec(path: Path, content: Mapping[str, Any], name: str, kind: type[SpecT]) -> SpecT:
    """A specification, with every field of the type that its dataclass names."""
    values = _dictionary(path, content, name)
    try:
        spec = kind.from_dict(values)
    except (TypeError, ValueError) as error:
        problem = f"has a {name!r} that this cellkit does not know: {error}"
        raise ModelError(path, problem, "upgrade cellkit") from error
    for field_name, hint in typing.get_type_hints(kind).items():
        value = getattr(spec, field_name)
        if not _fits(value, hint):
            choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
            known = f"; it knows {', '.join(choices)}" if choices else ""
            problem = f"has the {name} {field_name} {value!r}, unknown to this cellkit{known}"
            raise ModelError(path, problem, "upgrade cellkit")
    return spec


def _fits(value: object, hint: Any) -> bool:  # noqa: ANN401 - a type hint has no type
    """Whether a value has the type of a hint: Literal, union, tuple, mapping or a plain type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        expected = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return len(value) == len(expected) and all(map(_fits, value, expected))
    if origin is not None:
        return isinstance(value, origin)
    if isinstance(value, bool) and hint is not bool:
        return False
    return isinstance(value, (int, float) if hint is float else hint)


def model_path(name_or_path: str) -> Path:
    """The file of a model: a path that exists, or a name in $CELLKIT_MODELS or among the bundled models.

    Raises:
        ModelError: there is none; the message names near names, or all.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.name != name_or_path or path.suffix == SUFFIX:
        problem = "is a folder, not a model" if path.is_dir() else "there is no such file"
        raise ModelError(name_or_path, problem, GET_ANOTHER)
    models = known_models()
    if name_or_path in models:
        return models[name_or_path]
    near = difflib.get_close_matches(name_or_path, models, n=3)
    choices = f"did you mean {' or '.join(near)}?" if near else f"models: {', '.join(models) or 'none installed'}"
    raise ModelError(name_or_path, "there is no model or file of this name", choices)


def known_models() -> dict[str, Path]:
    """Models by name: those of the folder $CELLKIT_MODELS, and the bundled ones that it does not hide."""
    own = os.environ.get(MODELS_VARIABLE)
    found: dict[str, Path] = {}
    for folder in (*([Path(own)] if own else []), BUNDLED):
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            found.setdefault(path.stem, path)
    return found
