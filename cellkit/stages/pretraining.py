"""pretrain: labelled images -> a checkpoint; and what every way of pre-training shares."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cellkit.config import (
    JsonValue,
    ModelSettings,
    NetworkSpec,
    Preprocessing,
    RepresentationSpec,
    Settings,
    Spec,
    SupervisedSettings,
)
from cellkit.data.augment import Augmentation
from cellkit.data.examples import Targets
from cellkit.data.layouts import Pair
from cellkit.data.loading import Loading
from cellkit.data.training import TrainingSet
from cellkit.engine import Device, FitResult, FitSettings, distributed, fit, prepare, set_seed
from cellkit.engine.method import Method
from cellkit.engine.training import Validate
from cellkit.errors import ModelError, UsageError
from cellkit.io.checkpoints import Checkpoint, load_checkpoint, model_path, save_checkpoint
from cellkit.methods import Supervised
from cellkit.methods.meta_losses import CELL_LOGITS, balanced_cross_entropy
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
    """Settings that every way of pre-training has.

    Attributes:
        model: what is trained.
        preprocessing: of the images.
        fit: of the training loop.
        decoding: settings of the representation that are not the default.
    """

    model: ModelSettings
    preprocessing: Preprocessing
    fit: FitSettings
    decoding: Settings = field(default_factory=dict)

    @property
    def parts(self) -> tuple[Spec, ...]:
        """All that enters the history, beside the settings of decoding."""
        return self.model, self.preprocessing, self.fit

    @property
    def outputs(self) -> int:
        """Maps that the network puts out."""
        return REPRESENTATIONS[self.model.representation].channels

    @property
    def network(self) -> NetworkSpec:
        """What is learned."""
        return NetworkSpec(
            name=self.model.network,
            channels=self.preprocessing.channels,
            outputs=self.outputs,
            widths=self.model.widths,
            affine=self.model.affine,
        )

    def initial(self) -> nn.Module:
        """The network with its first weights.

        Raises:
            ModelError: those of a base, which is another network.
        """
        return _initial(self.network, self.model)

    def record(self, learn: Sequence[str], held: Sequence[str] = ()) -> Record:
        """What the history says: the settings that shape the result, and a digest of the names of the images.

        Args:
            learn: names of the images to learn from.
            held: names of those that choose the best weights.
        """
        arguments = {
            name: value for part in self.parts for name, value in part.recorded().items() if name not in SHAPELESS
        }
        arguments |= self.decoding
        arguments |= {"images": len(learn), "validation_images": len(held)}
        names = digest_of("\n".join((*learn, "", *held)).encode())
        return Record(verb="pretrain", arguments=arguments, input_digest=names)


@dataclass(frozen=True, kw_only=True)
class SupervisedRecipe(Recipe):
    """Settings of learning from labels.

    Attributes:
        augmentation: of the crops.
        supervised: how several sources share the crops, and how pixels are weighed.
        sources: of images, by their keys, for balanced sampling; images without are of one.

    Raises:
        UsageError: noisy copies, of which the maps of such a model have no use; weighed cells without masks.
    """

    augmentation: Augmentation
    supervised: SupervisedSettings = field(default_factory=SupervisedSettings)
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """See the class."""
        if self.preprocessing.noise_copies:
            problem = "noisy copies are for models that learn without labels"
            raise UsageError("noise_copies", problem, "leave it out, or use --method oce")
        _ = self.representation

    @property
    def parts(self) -> tuple[Spec, ...]:
        """As of every recipe, the augmentation, and what labels of several sources need."""
        return *super().parts, self.augmentation, self.supervised

    @property
    def representation(self) -> Representation:
        """Targets and loss."""
        return weighed(REPRESENTATIONS[self.model.representation], weigh_cells=self.supervised.weigh_cells)


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is trained, made when it is known that there is something to do.

    Attributes:
        method: of learning.
        validate: chooses the best weights; None: the last ones are taken.
        score: that chooses.
        contrast: crops of the images that travel in the checkpoint, from the trained network.
        card: what the checkpoint tells of itself.
    """

    method: Method[Any]
    validate: Validate | None = None
    score: str = "ap_dsb"
    contrast: Callable[[nn.Module], dict[str, Tensor]] = lambda _: {}
    card: Mapping[str, JsonValue] = field(default_factory=dict)


def pretrain(
    pairs: Sequence[Pair],
    held: Sequence[Pair],
    recipe: SupervisedRecipe,
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
        LockedError: another run makes this checkpoint.
    """
    record = recipe.record([named(pair) for pair in pairs], [named(pair) for pair in held])
    weights = None
    if recipe.supervised.sampling == "balanced":
        counts = Counter(recipe.sources.get(pair.key) for pair in pairs)
        record = replace(record, arguments=record.arguments | {"source_images": list(counts.values())})
        weights = [1 / counts[recipe.sources.get(pair.key)] for pair in pairs]

    def task(network: nn.Module) -> Task:
        representation = recipe.representation
        data = training_set(pairs, recipe.preprocessing, representation, recipe.augmentation, device, weights)
        return Task(
            method=Supervised(network, representation, data, batch=recipe.model.batch, seed=recipe.fit.seed),
            validate=_validation(held, recipe, device) if held else None,
            contrast=partial(
                contrast_crops, data=data, device=device, styles=recipe.model.styles, seed=recipe.fit.seed
            ),
        )

    return train(recipe, (record,), task, device, output, overwrite=overwrite, quiet=quiet)


def train(
    recipe: Recipe,
    history: History,
    task: Callable[[nn.Module], Task],
    device: Device,
    output: Path,
    *,
    overwrite: bool,
    quiet: bool,
) -> FitResult | None:
    """Train a network by any method and write its checkpoint; a run that was interrupted goes on.

    Args:
        recipe: what every way of pre-training has.
        history: that of the model that training goes on from, if there is one, and of this run.
        task: the network on its device -> how it learns.
        device: where to train.
        output: the checkpoint to write; state, best weights and metrics lie beside it.
        overwrite: start anew although files of another run are there.
        quiet: no progress.

    Returns:
        See :func:`pretrain`; errors, too.
    """
    files = TrainingFiles(output=output)
    with files.claimed():
        if not overwrite and files.is_done(history):
            return None
        resume = None if overwrite else files.state(history)
        set_seed(recipe.fit.seed)
        spec = recipe.network
        network = prepare(recipe.initial(), device).train()
        made = task(network)
        result = fit(
            made.method,
            recipe.fit,
            device,
            files=files.run,
            save=Writer(model=_untrained(spec, recipe, history, made.card), half=recipe.model.half).save,
            resume=resume,
            validate=made.validate,
            score=made.score if made.validate else None,
            quiet=quiet,
        )
        if result.finished and distributed.is_main():
            best = load_checkpoint(files.finished())
            network.load_state_dict(best.weights)
            save_checkpoint(output, replace(best, contrast=made.contrast(network)), half=recipe.model.half)
            files.best.unlink()
        return result


def named(pair: Pair) -> str:
    """The key of an image, with the channels that were chosen of it."""
    return pair.key if pair.channels is None else f"{pair.key} {pair.channels}"


def training_set(
    pairs: Sequence[Pair],
    preprocessing: Preprocessing,
    representation: Representation,
    augmentation: Augmentation,
    device: Device,
    weights: Sequence[float] | None = None,
) -> TrainingSet:
    """Labelled images on the device, with the targets that a representation wants."""
    return TrainingSet(
        pairs, preprocessing, targets_of(representation), augmentation, loading_of(device), weights=weights
    )


def targets_of(representation: Representation) -> Targets:
    """What a representation is trained on."""
    return Targets(compute=representation.targets, vectors=representation.vectors)


def loading_of(device: Device) -> Loading:
    """Images are kept on the device, or as near as they fit."""
    return Loading(device=device.torch_device, workers=len(os.sched_getaffinity(0)))


def weighed(representation: Representation, *, weigh_cells: bool) -> Representation:
    """A representation whose loss weighs pixels of cells, as in meta-training; or the same as it is.

    Raises:
        UsageError: weighed cells of another representation than masks.
    """
    if not weigh_cells:
        return representation
    if representation.name != "mask":
        problem = f"the representation {representation.name} has a loss of its own"
        raise UsageError("weigh_cells", problem, "leave it out, or take masks")
    return replace(representation, loss=_weighed_loss)


def _weighed_loss(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
    return {"cell": balanced_cross_entropy(CELL_LOGITS["mask"](outputs), targets[:, 0], weights)}


def network_spec(recipe: Recipe) -> NetworkSpec:
    """What is learned."""
    return recipe.network


def _untrained(spec: NetworkSpec, recipe: Recipe, history: History, card: Mapping[str, JsonValue]) -> Checkpoint:
    """What is the same in every checkpoint of the run."""
    return Checkpoint(
        network=spec,
        representation=RepresentationSpec(name=recipe.model.representation, settings=recipe.decoding),
        preprocessing=recipe.preprocessing,
        weights={},
        history=history,
        card=dict(card),
    )


def _initial(spec: NetworkSpec, model: ModelSettings) -> nn.Module:
    network = build(spec)
    if model.init is None:
        return initialise(network) if model.kaiming else network
    base = load_checkpoint(model_path(model.init))
    if base.network != spec:
        norms = f"batch norms {'with' if spec.affine else 'without'} scale and shift"
        wanted = f"{spec.name} with channels={spec.channels}, widths={spec.widths} and {norms}"
        repair = "set network, channels, widths and affine as it has them"
        raise ModelError(model.init, f"is another network than {wanted}", repair)
    network.load_state_dict(base.weights)
    return network


def _validation(held: Sequence[Pair], recipe: Recipe, device: Device) -> Validation:
    representation = REPRESENTATIONS[recipe.model.representation]
    settings = decode_settings(representation, recipe.decoding)
    return Validation(held, recipe.preprocessing, representation, settings, device)
