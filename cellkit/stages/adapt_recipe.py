"""Settings of an adaptation, and what a model brings along that one begins with."""

from __future__ import annotations

from dataclasses import dataclass, field

from cellkit.config import (
    NO_SETTINGS,
    WIDTHS,
    AdaptMethodName,
    ColourName,
    ModelSettings,
    NetworkName,
    NormalisationName,
    OptimiserName,
    Preprocessing,
    RepresentationName,
    ScheduleName,
    Settings,
    Spec,
)
from cellkit.data.augment import Augmentation
from cellkit.data.scale import scale_of
from cellkit.data.unlabelled import Deformation
from cellkit.engine import FitSettings
from cellkit.errors import ModelError, UsageError
from cellkit.io.checkpoints import load_checkpoint, model_path
from cellkit.methods.adapt_settings import AdaptSettings
from cellkit.methods.adaptation import check_probability
from cellkit.representations import REPRESENTATIONS, Representation
from cellkit.stages.model import decode_settings
from cellkit.stages.pretraining import Recipe

NETWORK: NetworkName = "batch-unet"
REPRESENTATION: RepresentationName = "mask"
OF_NO_USE: Settings = {"styles": 0, "noise_copies": 0}
"""Settings of models that would be ignored here, or that set prediction apart from training, with their values."""


@dataclass(frozen=True, kw_only=True)
class AdaptModel(ModelSettings):
    """What is trained: the paper's U-Net for masks (CULPICO, Methods)."""

    network: NetworkName = NETWORK
    representation: RepresentationName = REPRESENTATION
    widths: tuple[int, ...] = WIDTHS[NETWORK]
    styles: int = 0


@dataclass(frozen=True, kw_only=True)
class AdaptPreprocessing(Preprocessing):
    """One grey channel between its least and its greatest value, at the size that images have (CULPICO, Methods)."""

    channels: int = 1
    colour: ColourName = "grey"
    normalisation: NormalisationName = "minmax"


@dataclass(frozen=True, kw_only=True)
class AdaptAugmentation(Augmentation):
    """Flips and random crops (CULPICO, Methods); size, scale, turning and flips are those of the target, too."""

    crop: int = 256
    scale: tuple[float, float] = (1.0, 1.0)
    rotate: bool = False
    flip_rows: bool = True
    foreground: int = 0
    probability: float = 0.0


@dataclass(frozen=True, kw_only=True)
class AdaptFit(FitSettings):
    """How weights are learned: Adam at 1e-3 throughout, without decay (the authors' code)."""

    optimiser: OptimiserName = "adam"
    weight_decay: float = 0.0
    schedule: ScheduleName = "constant"
    validate_every: int = 50


@dataclass(frozen=True, kw_only=True)
class AdaptRecipe(Recipe):
    """Settings of an adaptation.

    Attributes:
        method: how the target is learned from.
        augmentation: of the crops of the source; those of the target are cut alike.
        adapt: of the methods.

    Raises:
        UsageError: a setting that other ways of learning have, or a representation without a probability of a cell.
    """

    method: AdaptMethodName = "culpico"
    augmentation: Augmentation = field(default_factory=AdaptAugmentation)
    adapt: AdaptSettings = field(default_factory=AdaptSettings)

    def __post_init__(self) -> None:
        """See the class."""
        values = self.model.to_dict() | self.preprocessing.to_dict()
        for name, value in OF_NO_USE.items():
            if values[name] != value:
                raise UsageError(name, "adaptation has no use for it", "leave it out")
        if self.augmentation.diameters is not None:
            problem = "images without labels do not tell how large their cells are"
            raise UsageError("diameters", problem, "use scale, and --diameter")
        check_probability(self.representation)
        decode_settings(self.representation, NO_SETTINGS, self.decoding)  # checks them
        scale_of(self.preprocessing, None)

    @property
    def representation(self) -> Representation:
        """Targets and loss."""
        return REPRESENTATIONS[self.model.representation]

    @property
    def deformation(self) -> Deformation:
        """What happens to crops of the target: the same as to those of the source."""
        cut = self.augmentation
        return Deformation(
            crop=cut.crop, scale=cut.scale, rotate=cut.rotate, flip=cut.flip, flip_rows=cut.flip_rows, jitter=0.0
        )

    @property
    def parts(self) -> tuple[Spec, ...]:
        """As of every recipe, what happens to crops, and the methods."""
        return *super().parts, self.augmentation, self.adapt

    @property
    def idle(self) -> frozenset[str]:
        """Settings of other methods, which change nothing."""
        return frozenset(self.adapt.to_dict()) - AdaptSettings.names_of(self.method)


def base_parts(base: str, decoding: Settings = NO_SETTINGS) -> tuple[AdaptModel, Preprocessing, Settings]:
    """What a base fixes: network and representation, preprocessing, and settings of decoding under those given.

    Args:
        base: a bundled model's name or a checkpoint.
        decoding: settings that win over those of the base.

    Raises:
        ModelError: no such base, or it has learned without labels, or is an ensemble.
    """
    found = load_checkpoint(model_path(base))
    if found.preprocessing.noise_copies:
        problem = "has learned without labels: its network has no map of where cells are"
        raise ModelError(base, problem, "take a model that has learned from labels, or leave --model out")
    if found.network.members > 1:
        problem = f"is an ensemble of {found.network.members} networks, and adaptation begins with one"
        raise ModelError(base, problem, "take the model that it was adapted from, or leave --model out")
    model = AdaptModel(
        network=found.network.name,
        representation=found.representation.name,
        widths=found.network.widths,
        affine=found.network.affine,
        init=base,
    )
    return model, found.preprocessing, dict(found.representation.settings) | dict(decoding)
