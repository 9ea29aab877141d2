"""The model that command lines run with: the bundled one, else random weights of the same shape."""

from __future__ import annotations

from pathlib import Path

import torch

from cellkit.config import NetworkSpec, Preprocessing, RepresentationSpec
from cellkit.errors import ModelError
from cellkit.io.checkpoints import Checkpoint, model_path, save_checkpoint
from cellkit.networks import build

BUNDLED = "nuclei"


def model(folder: Path) -> tuple[str, str]:
    """Name or path of a model, and what it is."""
    try:
        model_path(BUNDLED)
    except ModelError:
        return str(_random_model(folder / "random.ckpt")), "random weights"
    return BUNDLED, f"model {BUNDLED}"


def _random_model(path: Path) -> Path:
    torch.manual_seed(0)
    spec = NetworkSpec(channels=2)
    checkpoint = Checkpoint(
        network=spec,
        representation=RepresentationSpec(),
        preprocessing=Preprocessing(channels=2),
        weights=build(spec).state_dict(),
        history=(),
        card={},
        training=None,
    )
    save_checkpoint(path, checkpoint)
    return path
