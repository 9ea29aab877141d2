"""pretrain without labels: images alone -> a checkpoint whose maps are embeddings and their spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cellkit.config import NO_SETTINGS, OptimiserName, Preprocessing, ScheduleName, Settings, Spec
from cellkit.data.scale import REFERENCE_DIAMETER, scale_of
from cellkit.data.unlabelled import Deformation, UnlabelledSet
from cellkit.engine import Device, FitResult, FitSettings
from cellkit.errors import InputError, UsageError
from cellkit.io.sources import Source
from cellkit.methods import ObjectCentric
from cellkit.methods.oce_settings import OceSettings
from cellkit.networks.mini_unet import MiniUNet
from cellkit.ops.object_size import ObjectSize, typical_size
from cellkit.representations.embedding import EMBEDDING, EmbeddingSettings
from cellkit.stages.model import decode_settings
from cellkit.stages.passes import copies_of
from cellkit.stages.pretraining import Recipe, Task, loading_of, train
from cellkit.stages.styles import unlabelled_crops

KAPPA = 1 / 3  # of the size of an object: the paper's 10 px, where the authors' code takes objects of 30 px
LOOKED_AT = 48  # images that tell the size of objects


@dataclass(frozen=True, kw_only=True)
class OceFit(FitSettings):
    """How embeddings are learned: Adam without decay.

    The rate falls as a cosine from 1e-3: a thousand steps of eight crops of 128 then learn what the paper takes 50
    epochs for at 4e-5, divided by ten after 20 and after 30 (``schedule=tenths``).
    """

    optimiser: OptimiserName = "adam"
    weight_decay: float = 0.0
    schedule: ScheduleName = "cosine"


@dataclass(frozen=True, kw_only=True)
class OcePreprocessing(Preprocessing):
    """One channel between percentiles 1 and 99.8, objects of 30 px, 16 copies each of salt and pepper (Wolf et al.)."""

    channels: int = 1
    percentiles: tuple[float, float] = (1.0, 99.8)
    diameter: float | None = REFERENCE_DIAMETER
    noise_copies: int = 16


@dataclass(frozen=True, kw_only=True)
class UnlabelledRecipe(Recipe):
    """Settings of learning without labels; the size of objects sets scale, kappa and bandwidth together.

    Attributes:
        deformation: of the crops.
        oce: of pairs and loss.

    Raises:
        UsageError: network, representation, noise, size of objects or a setting of decoding that cannot be meant.
    """

    deformation: Deformation = field(default_factory=Deformation)
    oce: OceSettings = field(default_factory=OceSettings)

    def __post_init__(self) -> None:
        """See the class."""
        for option, value, wanted in (
            ("--network", self.model.network, "mini-unet"),
            ("--representation", self.model.representation, "embedding"),
        ):
            if value != wanted:
                raise UsageError(option, f"the method oce trains '{wanted}' alone", f"use {option} {wanted}")
        copies_of(self.preprocessing)
        try:
            scale_of(self.preprocessing, self.preprocessing.typical)
        except UsageError as error:
            raise UsageError("--object-size", error.problem, error.repair) from error

    @property
    def parts(self) -> tuple[Spec, ...]:
        """As of every recipe, what happens to crops, and the loss."""
        return *super().parts, self.deformation, self.oce

    @property
    def scale(self) -> float:
        """Working pixels per pixel of the images."""
        return scale_of(self.preprocessing, None)

    @property
    def outputs(self) -> int:
        """Maps of the network: all of a prediction but their spread over noisy copies."""
        return super().outputs - 1


def decoding_for(working: float, chosen: Settings) -> Settings:
    """Settings of decoding for objects of a diameter in pixels at the working scale; those that are chosen win.

    Raises:
        UsageError: a setting has a value that cannot be meant.
    """
    fitting = EmbeddingSettings.for_object(working)
    following = ("bandwidth", "min_area", "threshold")
    settings: Settings = {name: getattr(fitting, name) for name in following} | dict(chosen)
    decode_settings(EMBEDDING, NO_SETTINGS, settings)  # checks them
    return settings


def estimated_size(sources: Sequence[Source]) -> ObjectSize:
    """The typical diameter of objects in images, from some of them evenly taken.

    Raises:
        UsageError: the images do not tell.
        InputError: an image cannot be read.
    """
    found = typical_size(_some(sources))
    if found is None:
        problem = "the images do not tell how large their objects are"
        raise UsageError("--object-size", problem, "give their diameter in pixels")
    return found


def _some(sources: Sequence[Source]) -> Iterator[NDArray[Any]]:
    """Pixels (C, H, W), lazy where an image is large; of time series the first frames."""
    chosen = [sources[i] for i in np.unique(np.linspace(0, len(sources) - 1, LOOKED_AT).round().astype(int))]
    for source in chosen:
        for image in islice(source.images(), -(-LOOKED_AT // len(chosen))):
            yield image.pixels


def pretrain_unlabelled(
    sources: Sequence[Source],
    recipe: UnlabelledRecipe,
    device: Device,
    output: Path,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> FitResult | None:
    """Train a network on images without labels and write its checkpoint.

    Args:
        sources: images to learn from.
        recipe: all settings.
        device: where to train.
        output: the checkpoint to write; state, last weights and metrics lie beside it.
        overwrite: start anew although files of another run are there.
        quiet: no progress.

    Returns:
        How training ended, or None: the output was there and up to date.

    Raises:
        UsageError: files of a run with other settings are there, or crops leave no room for pairs.
        NoInputError: no image shows anything.
        InputError: an image cannot be read.
        InterruptedRunError: SIGINT or SIGTERM after a clean save.
        LockedError: another run makes this checkpoint.
    """

    def task(network: nn.Module) -> Task:
        if not isinstance(network, MiniUNet):
            raise TypeError(f"the recipe asks for a mini U-Net, not for {type(network).__name__}")
        data = UnlabelledSet(
            sources,
            recipe.preprocessing,
            recipe.deformation,
            loading_of(device),
        )
        _check_size(recipe, network, data)
        method = ObjectCentric(network, data, recipe.oce, batch=recipe.model.batch, seed=recipe.fit.seed)
        return Task(
            method=method,
            contrast=partial(
                unlabelled_crops, data=data, device=device, styles=recipe.model.styles, seed=recipe.fit.seed
            ),
        )

    record = recipe.record([named_source(source) for source in sources])
    return train(recipe, (record,), task, device, output, overwrite=overwrite, quiet=quiet)


def named_source(source: Source) -> str:
    """The key of an image, with the channels that were chosen of it."""
    return source.key if source.options.channels is None else f"{source.key} {source.options.channels}"


def _check_size(recipe: UnlabelledRecipe, network: MiniUNet, data: UnlabelledSet) -> None:
    """Refuse images of which none is larger than an object, or than what the network sees at once."""
    size = recipe.preprocessing.typical
    if any(kept.pixels is None for kept in data.kept):  # there is no room in memory for so large images
        return
    shapes = [kept.pixels.shape[1:] for kept in data.kept if kept.pixels is not None]
    side = max(min(shape) for shape in shapes)
    if side < network.field_of_view:
        problem = f"the largest has {side} pixels a side at the working scale, the network sees {network.field_of_view}"
        raise InputError("images", problem, "give larger images, or a smaller --object-size")
    if size is not None and side <= (recipe.preprocessing.diameter or 0):
        problem = f"{size:g} px is as large as the images"
        raise UsageError("--object-size", problem, "give the diameter of one object in pixels")
