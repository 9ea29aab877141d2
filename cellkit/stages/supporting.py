"""finetune --method supported: images with sparse and with pseudo labels -> a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from torch import nn

from cellkit.config import (
    WIDTHS,
    JsonValue,
    ModelSettings,
    NetworkName,
    OptimiserName,
    Preprocessing,
    RepresentationName,
    ScheduleName,
    Settings,
    Spec,
)
from cellkit.data.augment import Augmentation
from cellkit.data.layouts import Pair
from cellkit.data.scale import REFERENCE_DIAMETER, scale_of
from cellkit.data.supported import Halves
from cellkit.data.training import TrainingSet
from cellkit.engine import Device, FitResult, FitSettings
from cellkit.errors import ModelError, NoInputError, UsageError
from cellkit.io.checkpoints import Checkpoint, load_checkpoint, model_path
from cellkit.methods import Supported
from cellkit.methods.settings import SupportedSettings
from cellkit.provenance import Record, digest_of
from cellkit.representations import REPRESENTATIONS, Representation
from cellkit.stages.model import decode_settings
from cellkit.stages.pretraining import Recipe, Task, train, training_set
from cellkit.stages.validation import Validation

NETWORK: NetworkName = "mini-unet"
REPRESENTATION: RepresentationName = "star"
WIDE: Mapping[NetworkName, tuple[int, ...]] = MappingProxyType({"mini-unet": (24, 48, 96, 192)})
"""Widths that see a whole cell: mini U-Nets of two, three and four levels see 18, 44 and 100 px, and a cell of 30 px
is to be told from the one beside it. Twice the features per level cost about the same on each; with three times as
many, as in the paper, the deepest costs most."""
SEEK = 1000  # draws of a crop before one without a labelled cell is taken: a few cells in a large image are found
OF_NO_USE: Settings = MappingProxyType({"styles": 0, "noise_copies": 0})
"""Settings of models that would be ignored here, or that set prediction apart from training, with their values."""


@dataclass(frozen=True, kw_only=True)
class SupportedModel(ModelSettings):
    """What is trained: a mini U-Net that sees whole cells, for stars (Cellulus, appendix B)."""

    network: NetworkName = NETWORK
    representation: RepresentationName = REPRESENTATION
    widths: tuple[int, ...] = WIDE[NETWORK]
    styles: int = 0


@dataclass(frozen=True, kw_only=True)
class SupportedPreprocessing(Preprocessing):
    """One channel, cells of 30 px."""

    channels: int = 1
    diameter: float | None = REFERENCE_DIAMETER


@dataclass(frozen=True, kw_only=True)
class SupportedFit(FitSettings):
    """How sparse and pseudo labels are learned from: Adam without decay, the rate in steps (Cellulus, appendix B)."""

    steps: int = 100
    optimiser: OptimiserName = "adam"
    weight_decay: float = 0.0
    schedule: ScheduleName = "tenths"


@dataclass(frozen=True, kw_only=True)
class SupportedRecipe(Recipe):
    """Settings of supported supervision.

    Attributes:
        augmentation: of the crops; their scale is relative to that of prediction.
        supported: alpha, and the background that is known.

    Raises:
        UsageError: a setting that other ways of learning have, or that cannot be meant.
    """

    augmentation: Augmentation = field(default_factory=Augmentation)
    supported: SupportedSettings = field(default_factory=SupportedSettings)

    def __post_init__(self) -> None:
        """See the class."""
        values = self.model.to_dict() | self.preprocessing.to_dict()
        for name, value in OF_NO_USE.items():
            if values[name] != value:
                raise UsageError(name, "the method supported has no use for it", "leave it out")
        if self.augmentation.diameters is not None:
            problem = "the method supported has one scale for all images, that of prediction"
            raise UsageError("diameters", problem, "use scale")
        decode_settings(REPRESENTATIONS[self.model.representation], {}, self.decoding)  # checks them
        _ = self.scale

    @property
    def parts(self) -> tuple[Spec, ...]:
        """As of every recipe, what happens to crops, and how halves are weighed."""
        return *super().parts, self.augmentation, self.supported

    @property
    def scale(self) -> float:
        """Working pixels per pixel of the images."""
        return scale_of(self.preprocessing, None)

    def sized(self, diameter: float | None) -> SupportedRecipe:
        """With the diameter of the cells in pixels, where the user has given none.

        Raises:
            NoInputError: there is no cell to tell it.
        """
        if self.preprocessing.typical is not None:
            return self
        if diameter is None:
            raise NoInputError(
                "labels", "no image shows a cell", "give labels with cells, or the --diameter of the cells"
            )
        return replace(self, preprocessing=replace(self.preprocessing, typical=diameter))


def fresh_widths(network: NetworkName) -> tuple[int, ...]:
    """Feature channels per level of a network that begins to learn, where nobody chose others."""
    return WIDE.get(network, WIDTHS[network])


def base_parts(base: str, decoding: Settings) -> tuple[ModelSettings, Preprocessing, Settings]:
    """What a base fixes: network and representation, preprocessing, and settings of decoding under those given.

    Args:
        base: a bundled model's name or a checkpoint.
        decoding: settings that win over those of the base.

    Raises:
        ModelError: no such base, or it has learned without labels.
    """
    found = load_checkpoint(model_path(base))
    if found.preprocessing.noise_copies:
        problem = "has learned without labels: its network has no map of where cells are, to be learned from some"
        raise ModelError(base, problem, "take a model that has learned from labels, or a fresh one by --network")
    model = SupportedModel(
        network=found.network.name,
        representation=found.representation.name,
        widths=found.network.widths,
        affine=found.network.affine,
        init=base,
    )
    working = found.preprocessing.diameter or REFERENCE_DIAMETER
    preprocessing = replace(found.preprocessing, diameter=working, typical=None, estimated=False)
    return model, preprocessing, dict(found.representation.settings) | dict(decoding)


def support(
    halves: Halves,
    held: Sequence[Pair],
    recipe: SupportedRecipe,
    device: Device,
    output: Path,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> FitResult | None:
    """Train a network on sparse and pseudo labels and write its checkpoint.

    Args:
        halves: images with their labels.
        held: images with all cells labelled that choose the best weights; none: the last weights are taken.
        recipe: all settings, with the diameter of the cells.
        device: where to train.
        output: the checkpoint to write; state, best weights and metrics lie beside it.
        overwrite: start anew although files of another run are there.
        quiet: no progress.

    Returns:
        How training ended, or None: the output was there and up to date.

    Raises:
        NoInputError: a half that has a weight has no image.
        UsageError: files of a run with other settings are there, or the batch cannot be halved.
        InputError: an image or its labels cannot be read or do not fit.
        InterruptedRunError: SIGINT or SIGTERM after a clean save.
        LockedError: another run makes this checkpoint.
    """
    base = None if recipe.model.init is None else load_checkpoint(model_path(recipe.model.init))

    def task(network: nn.Module) -> Task:
        return _task(network, halves, held, recipe, device, base)

    history = (*(() if base is None else base.history), _record(halves, held, recipe))
    return train(recipe, history, task, device, output, overwrite=overwrite, quiet=quiet)


def _task(
    network: nn.Module,
    halves: Halves,
    held: Sequence[Pair],
    recipe: SupportedRecipe,
    device: Device,
    base: Checkpoint | None,
) -> Task:
    representation, alpha = REPRESENTATIONS[recipe.model.representation], recipe.supported.alpha
    method = Supported(
        network,
        representation,
        sparse=_set(halves.sparse, recipe, representation, device, seek=SEEK) if alpha < 1 else None,
        pseudo=_set(halves.pseudo, recipe, representation, device) if alpha > 0 else None,
        settings=recipe.supported,
        batch=recipe.model.batch,
        seed=recipe.fit.seed,
    )
    settings = decode_settings(representation, recipe.decoding)
    validate = Validation(held, recipe.preprocessing, representation, settings, device) if held else None
    crops = {} if base is None else dict(base.contrast)
    return Task(method=method, validate=validate, contrast=lambda _: crops)


def _set(
    pairs: Sequence[Pair], recipe: SupportedRecipe, representation: Representation, device: Device, *, seek: int = 0
) -> TrainingSet:
    """Images of one half; all of them at the scale of prediction, whatever the few labels of one say."""
    augmentation = replace(recipe.augmentation, foreground=max(recipe.augmentation.foreground, seek))
    preprocessing = recipe.preprocessing
    if not preprocessing.estimated:
        low, high = augmentation.scale
        augmentation = replace(augmentation, scale=(low * recipe.scale, high * recipe.scale))
        preprocessing = replace(preprocessing, diameter=None, typical=None)
    return training_set(pairs, preprocessing, representation, augmentation, device)


def _record(halves: Halves, held: Sequence[Pair], recipe: SupportedRecipe) -> Record:
    """What the history says: all settings, the base, and a digest of images and labels."""
    base = recipe.model.init
    names = (pair.key for pair in (*halves.sparse, *halves.pseudo))
    record = recipe.record(list(dict.fromkeys(names)), [pair.key for pair in held])
    arguments: dict[str, JsonValue] = {name: value for name, value in record.arguments.items() if name != "init"}
    if not math.isfinite(recipe.supported.background):
        arguments["background"] = str(recipe.supported.background)  # JSON has no infinity
    arguments |= {"method": "supported", "sparse_images": len(halves.sparse), "pseudo_images": len(halves.pseudo)}
    return replace(
        record,
        verb="finetune",
        arguments=arguments,
        model=base,
        model_digest=None if base is None else digest_of(model_path(base)),
        input_digest=digest_of("\n".join([record.input_digest or "", *halves.digests]).encode()),
    )
