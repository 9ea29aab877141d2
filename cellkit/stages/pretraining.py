"""pretrain: labelled images -> a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from cellkit.config import ModelSettings, NetworkSpec, Preprocessing, RepresentationSpec, Settings
from cellkit.data.augment import Augmentation
from cellkit.data.examples import Targets
from cellkit.data.layouts import Pair
from cellkit.data.training import Loading, TrainingSet
from cellkit.engine import Device, FitResult, FitSettings, distributed, fit, prepare, set_seed
from cellkit.errors import ModelError
from cellkit.io.checkpoints import Checkpoint, load_checkpoint, model_path, save_checkpoint
from cellkit.methods import Supervised
from cellkit.networks import build, initialise
from cellkit.provenance import History, Record, digest_of
from cellkit.representations import REPRESENTATIONS, Representation
from cellkit.stages.model import decode_settings
from cellkit.stages.styles import contrast_crops
from cellkit.stages.training_files import TrainingFiles, Writer
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
    history: History = (recipe.record([_named(pair) for pair in pairs], [_named(pair) for pair in held]),)
    if not overwrite and files.is_done(history):
        return None
    resume = None if overwrite else files.state(history)
    set_seed(recipe.fit.seed)
    spec = _network_spec(recipe)
    network = prepare(_initial(spec, recipe.model), device).train()
    representation = REPRESENTATIONS[recipe.model.representation]
    data = training_set(pairs, recipe.preprocessing, representation, recipe.augmentation, device)
    validate = _validation(held, recipe, device) if held else None
    result = fit(
        Supervised(network, representation, data, batch=recipe.model.batch, seed=recipe.fit.seed),
        recipe.fit,
        device,
        files=files.run,
        save=Writer(model=_untrained(spec, recipe, history), half=recipe.model.half).save,
        resume=resume,
        validate=validate,
        score="ap_dsb" if held else None,
        quiet=quiet,
    )
    if result.finished and distributed.is_main():
        best = load_checkpoint(files.finished())
        network.load_state_dict(best.weights)
        contrast = contrast_crops(network, data, device, styles=recipe.model.styles, seed=recipe.fit.seed)
        save_checkpoint(output, replace(best, contrast=contrast), half=recipe.model.half)
        files.best.unlink()
    return result


def _named(pair: Pair) -> str:
    """The key of an image, with the channels that were chosen of it."""
    return pair.key if pair.channels is None else f"{pair.key} {pair.channels}"


def training_set(
    pairs: Sequence[Pair],
    preprocessing: Preprocessing,
    representation: Representation,
    augmentation: Augmentation,
    device: Device,
) -> TrainingSet:
    """Labelled images on the device, with the targets that a representation wants."""
    return TrainingSet(
        pairs,
        preprocessing,
        Targets(compute=representation.targets, vectors=representation.vectors),
        augmentation,
        Loading(device=device.torch_device, workers=len(os.sched_getaffinity(0))),
    )


def _network_spec(recipe: Recipe) -> NetworkSpec:
    return NetworkSpec(
        name=recipe.model.network,
        channels=recipe.preprocessing.channels,
        outputs=REPRESENTATIONS[recipe.model.representation].channels,
        widths=recipe.model.widths,
    )


def _untrained(spec: NetworkSpec, recipe: Recipe, history: History) -> Checkpoint:
    """What is the same in every checkpoint of the run."""
    return Checkpoint(
        network=spec,
        representation=RepresentationSpec(name=recipe.model.representation, settings=recipe.decoding),
        preprocessing=recipe.preprocessing,
        weights={},
        history=history,
    )


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
