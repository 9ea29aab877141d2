"""pretrain: labelled images -> a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cellkit.config import ModelSettings, NetworkSpec, Preprocessing, RepresentationSpec, Settings
from cellkit.data.augment import Augmentation
from cellkit.data.examples import Targets
from cellkit.data.layouts import Pair
from cellkit.data.training import Loading, TrainingSet
from cellkit.engine import Device, FitResult, FitSettings, RunFiles, distributed, fit, prepare, set_seed
from cellkit.errors import ModelError, UsageError
from cellkit.io.checkpoints import Checkpoint, load_checkpoint, model_path, save_checkpoint
from cellkit.methods import Supervised
from cellkit.networks import build, initialise
from cellkit.provenance import History, Record, digest_of
from cellkit.representations import REPRESENTATIONS
from cellkit.stages.model import decode_settings
from cellkit.stages.validation import Validation

SHAPELESS = frozenset({"minutes", "save_every", "log_every"})  # settings that leave the result as it is


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of one pre-training, as they enter the history."""

    model: ModelSettings
    preprocessing: Preprocessing
    augmentation: Augmentation
    fit: FitSettings
    decoding: Settings = field(default_factory=dict)

    def record(self, learn: Sequence[str], held: Sequence[str] = ()) -> Record:
        """What the history says: the settings that shape the result, and a digest of the names of the images.

        Args:
            learn: names of the images to learn from.
            held: names of those that choose the best weights.
        """
        parts = (self.model, self.preprocessing, self.augmentation, self.fit)
        arguments = {name: value for part in parts for name, value in part.to_dict().items() if name not in SHAPELESS}
        arguments |= self.decoding
        arguments |= {"images": len(learn), "validation_images": len(held)}
        names = digest_of("\n".join((*learn, "", *held)).encode())
        return Record(verb="pretrain", arguments=arguments, input_digest=names)


@dataclass(frozen=True, kw_only=True)
class TrainingFiles:
    """Where a training run keeps what it makes: all beside the checkpoint that it is for."""

    output: Path

    @property
    def last(self) -> Path:
        """The state to resume from."""
        return self.output.with_name(self.output.stem + ".last.ckpt")

    @property
    def best(self) -> Path:
        """The best weights so far; becomes the output at the end."""
        return self.output.with_name(self.output.stem + ".best.ckpt")

    @property
    def metrics(self) -> Path:
        """Losses and scores by step."""
        return self.output.with_name(self.output.stem + ".metrics.csv")


def pretrain(
    pairs: Sequence[Pair],
    held: Sequence[Pair],
    recipe: Recipe,
    device: Device,
    output: Path,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> FitResult | None:
    """Train a network on labelled images and write its checkpoint.

    Args:
        pairs: labelled images to learn from.
        held: labelled images that choose the best weights; none: the last weights are taken.
        recipe: all settings.
        device: where to train.
        output: the checkpoint to write; state, best weights and metrics lie beside it.
        overwrite: start anew although files of another run are there.
        quiet: no progress.

    Returns:
        How training ended, or None: the output was there and up to date.

    Raises:
        UsageError: files of a run with other settings are there.
        InterruptedRunError: SIGINT or SIGTERM after a clean save.
    """
    files = TrainingFiles(output=output)
    history: History = (recipe.record([pair.key for pair in pairs], [pair.key for pair in held]),)
    if not overwrite and _is_done(output, history):
        return None
    resume = None if overwrite else _state(files.last, history)
    set_seed(recipe.fit.seed)
    method, spec = _method(pairs, recipe, device)
    validate = _validation(held, recipe, device) if held else None
    writer = _Writer(spec, recipe, history)
    result = fit(
        method,
        recipe.fit,
        device,
        files=RunFiles(last=files.last, best=files.best, metrics=files.metrics),
        save=writer.save,
        resume=resume,
        validate=validate,
        score="ap_dsb" if held else None,
        quiet=quiet,
    )
    if result.finished and distributed.is_main():
        _finish(files)
    return result


class _Writer:
    """Writes checkpoints of one run: specifications and history are the same in all."""

    def __init__(self, network: NetworkSpec, recipe: Recipe, history: History) -> None:
        self.network = network
        self.recipe = recipe
        self.history = history

    def save(self, path: Path, weights: dict[str, Tensor], training: dict[str, Any] | None) -> None:
        """Whole or not at all; 16-bit weights only where nothing is resumed from them."""
        checkpoint = Checkpoint(
            network=self.network,
            representation=RepresentationSpec(name=self.recipe.model.representation, settings=self.recipe.decoding),
            preprocessing=self.recipe.preprocessing,
            weights=weights,
            history=self.history,
            card={},
            training=training,
        )
        save_checkpoint(path, checkpoint, half=self.recipe.model.half and training is None)


def _method(pairs: Sequence[Pair], recipe: Recipe, device: Device) -> tuple[Supervised, NetworkSpec]:
    model = recipe.model
    representation = REPRESENTATIONS[model.representation]
    spec = NetworkSpec(
        name=model.network,
        channels=recipe.preprocessing.channels,
        outputs=representation.channels,
        widths=model.widths,
    )
    network = prepare(_initial(spec, model), device).train()
    data = TrainingSet(
        pairs,
        recipe.preprocessing,
        Targets(compute=representation.targets, vectors=representation.vectors),
        recipe.augmentation,
        Loading(device=device.torch_device, workers=len(os.sched_getaffinity(0))),
    )
    return Supervised(network, representation, data, batch=model.batch, seed=recipe.fit.seed), spec


def _initial(spec: NetworkSpec, model: ModelSettings) -> nn.Module:
    network = build(spec)
    if model.init is None:
        return initialise(network) if model.kaiming else network
    base = load_checkpoint(model_path(model.init))
    if base.network != spec:
        wanted = f"{spec.name} with {spec.channels} channels and widths {spec.widths}"
        raise ModelError(
            model.init, f"is another network than {wanted}", "set network, channels and widths as it has them"
        )
    network.load_state_dict(base.weights)
    return network


def _validation(held: Sequence[Pair], recipe: Recipe, device: Device) -> Validation:
    representation = REPRESENTATIONS[recipe.model.representation]
    settings = decode_settings(representation, recipe.decoding)
    return Validation(held, recipe.preprocessing, representation, settings, device)


def _is_done(output: Path, history: History) -> bool:
    if not output.exists():
        return False
    if load_checkpoint(output).history == history:
        return True
    raise UsageError(output, "exists and was made by other settings", "use --on-exists overwrite, or another -o")


def _state(last: Path, history: History) -> dict[str, Any] | None:
    """The state to resume from, if a run with the same settings left one."""
    if not last.exists():
        return None
    checkpoint = load_checkpoint(last, training=True)
    if [_without_steps(record) for record in checkpoint.history] != [_without_steps(record) for record in history]:
        raise UsageError(last, "belongs to a run with other settings", "use --on-exists overwrite, or another -o")
    return checkpoint.training


def _without_steps(record: Record) -> Record:
    """A run may be made longer, so the number of steps does not tell runs apart."""
    return replace(record, arguments={name: v for name, v in record.arguments.items() if name != "steps"})


def _finish(files: TrainingFiles) -> None:
    """The best weights (without validation: the last) become the output."""
    if not files.best.exists():  # they became the output of a finished run, which was removed
        raise UsageError(files.last, "is of a finished run, whose weights are gone", "use --on-exists overwrite")
    os.replace(files.best, files.output)
