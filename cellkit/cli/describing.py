"""The facts that ``cellkit info`` prints."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cellkit import __version__
from cellkit.errors import InputError
from cellkit.provenance import History

Facts = dict[str, Any]

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")  # of batch normalisation: counted, not learned


def installation() -> Facts:
    """Versions, devices, bundled models."""
    import numpy as np
    import torch

    from cellkit.engine.device import open_device
    from cellkit.io.checkpoints import known_models

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "cellkit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": open_device("auto").description,
        "cuda": [torch.cuda.get_device_name(i) for i in range(count)],
        "models": {name: str(path) for name, path in known_models().items()},
    }


def subject(name: str) -> Facts:
    """Whatever the name means: a bundled model, a checkpoint, an output, an image."""
    path = Path(name.partition("::")[0])
    if not path.exists() or path.suffix == ".ckpt":
        return checkpoint(name)
    history = _history(path)
    keys = _keys(path)
    reading = {} if "instances" in keys else _reading(name)  # no image, whatever its datasets look like
    if not history and not reading:
        raise InputError(
            name, "neither an image nor an output of cellkit", "give an image, a prediction, labels or a checkpoint"
        )
    return {"file": name, **reading, **keys, "history": [dataclasses.asdict(record) for record in history]}


def checkpoint(name: str) -> Facts:
    """Specification, card and history of a model."""
    from cellkit.io.checkpoints import load_checkpoint, model_path
    from cellkit.provenance import digest_of

    path = model_path(name)
    loaded = load_checkpoint(path)
    return {
        "model": name,
        "file": str(path),
        "digest": digest_of(path),
        "parameters": sum(w.numel() for key, w in loaded.weights.items() if not key.endswith(BUFFERS)),
        "network": loaded.network.to_dict(),
        "representation": loaded.representation.to_dict(),
        "preprocessing": loaded.preprocessing.to_dict(),
        "card": loaded.card,
        "history": [dataclasses.asdict(record) for record in loaded.history],
    }


def _history(path: Path) -> History:
    from cellkit.io.labels import read_history

    try:
        return read_history(path)
    except InputError:
        return ()


def _keys(path: Path) -> Facts:
    """Which images an HDF5 file of ours holds."""
    from cellkit.io.histories import read_histories

    for kind in ("maps", "labels"):
        with contextlib.suppress(InputError):
            return {kind: list(read_histories(path, kind))}
    with contextlib.suppress(InputError):
        return _objects(path)
    return {}


def _objects(path: Path) -> Facts:
    """Of each image of a prediction file of a detector how many objects there are, and how many of each category."""
    from cellkit.io.detections import read_objects

    facts: Facts = {}
    for found in read_objects(path, str(path)):
        counts = [int((found.categories == number).sum()) for number in range(len(found.names))]
        facts[found.key] = {"objects": found.count} | dict(zip(found.names, counts, strict=True))
    return {"instances": facts}


def _reading(name: str) -> Facts:
    from cellkit.io.images import ReadOptions, describe

    try:
        return dataclasses.asdict(describe(name, ReadOptions()))
    except InputError:
        return {}


def write(facts: Facts, *, as_json: bool) -> None:
    """To stdout: JSON, or indented lines."""
    if as_json:
        sys.stdout.write(json.dumps(facts, ensure_ascii=False, indent=2, default=str) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(facts, "")))


def _lines(facts: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            lines.append(f"{indent}{name}:")
            for number, item in enumerate(value, 1):
                lines += [f"{indent}  {number}.", *_lines(item, indent + "    ")]
        elif value not in (None, "", [], (), {}):
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            lines.append(f"{indent}{name}: {text}")
    return lines
