"""Specifications stored in checkpoints, and the names of choices as Literals (no torch: help stays fast)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Self, TypeAlias

from cellkit.errors import UsageError

NetworkName: TypeAlias = Literal[
    "unet", "style-unet", "mini-unet", "fcrn", "light-unet", "batch-unet", "batch-unet-transposed", "detector"
]
RepresentationName: TypeAlias = Literal["flow", "mask", "border", "hover", "embedding", "star", "boxes"]
PretrainMethodName: TypeAlias = Literal["supervised", "oce", "detection", "moco", "cupre"]
ShotMethodName: TypeAlias = Literal["classic", "contrastive", "l2sp"]
FinetuneMethodName: TypeAlias = Literal["classic", "contrastive", "l2sp", "supported"]
MetaMethodName: TypeAlias = Literal["reptile", "fomaml", "anil"]
AdaptMethodName: TypeAlias = Literal[
    "culpico", "mean-teacher", "mcd", "cbst", "dual-teacher", "cross-region", "source-only", "target-only"
]
TrainedPartName: TypeAlias = Literal["all", "decoder", "head"]
NormalisationName: TypeAlias = Literal["percentile", "minmax", "range", "none"]
PrecisionName: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]
ColourName: TypeAlias = Literal["as-is", "rgb", "grey"]
SamplingName: TypeAlias = Literal["pooled", "balanced"]
CropsName: TypeAlias = Literal["random", "grid"]
WhetherName: TypeAlias = Literal["auto", "true", "false"]
BatchStatisticsName: TypeAlias = Literal["auto", "shots", "query", "running"]
OptimiserName: TypeAlias = Literal["adamw", "adam", "sgd"]
ScheduleName: TypeAlias = Literal["cosine", "flat-decay", "halving", "tenths", "late-tenths", "constant"]
OnExists: TypeAlias = Literal["skip", "overwrite", "error"]

JsonValue: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None
Settings: TypeAlias = Mapping[str, JsonValue]
NO_SETTINGS: Settings = MappingProxyType({})
WIDTHS: Mapping[NetworkName, tuple[int, ...]] = MappingProxyType(
    {
        "unet": (32, 64, 128, 256),
        "style-unet": (32, 64, 128, 256),
        "mini-unet": (24, 72),
        "fcrn": (32, 64, 128, 512),
        "light-unet": (32, 64, 128),
        "batch-unet": (64, 128, 256, 512, 512),
        "batch-unet-transposed": (64, 128, 256, 512, 1024),
    }
)  # feature channels per level where nobody chose others


class Spec:
    """Base of the frozen dataclasses that travel in checkpoints as plain dictionaries.

    Attributes:
        younger: settings that were added later, with what was done before there was a choice.
    """

    younger = NO_SETTINGS

    def to_dict(self) -> dict[str, JsonValue]:
        """The specification as JSON values; tuples become lists."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    def recorded(self) -> dict[str, JsonValue]:
        """As :meth:`to_dict`, for the history: younger settings only where they change something.

        So a run that was begun before a setting was added is still known as the same run, and goes on.
        """
        values = self.to_dict()
        return {name: v for name, v in values.items() if name not in self.younger or v != self.younger[name]}

    @classmethod
    def from_dict(cls, values: Settings) -> Self:
        """Rebuild from :meth:`to_dict`; unknown names raise ``TypeError``, lists become tuples."""
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def _plain(value: object) -> JsonValue:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    return value  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(Spec):
    """Which network turns pixels into maps.

    Attributes:
        name: a key of ``networks.NETWORKS``.
        channels: channels of the input image.
        outputs: channels of the output maps.
        widths: feature channels per level, shallowest first.
        affine: batch normalisation has a scale and a shift that are learned.
        members: networks of this kind whose blended maps are the model's, as ``networks.Ensemble``; 1: one alone.
        settings: what a network of many parts needs beside: of ``detector`` the fields of its ``DetectorSpec``, whose
            ``channels`` are the same.
    """

    name: NetworkName = "unet"
    channels: int = 2
    outputs: int = 3
    widths: tuple[int, ...] = (32, 64, 128, 256)
    affine: bool = True
    members: int = 1
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RepresentationSpec(Spec):
    """Which representation turns maps into cells, with the settings of its decoding.

    Attributes:
        name: a key of ``representations.REPRESENTATIONS``.
        settings: fields of that representation's ``Settings`` dataclass.
    """

    name: RepresentationName = "flow"
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DetectSettings(Spec):
    """How the outputs of a detector become objects.

    Attributes:
        before_nms: proposals of each level that are compared, best first.
        proposals: that are left of an image, and looked at by the heads.
        proposal_overlap: intersection over union above which the lesser of two proposals of a level is dropped.
        least_score: objects below it are dropped.
        overlap: intersection over union above which the lesser of two objects of a category is dropped.
        most: objects of a tile at most, best first.
        mask_threshold: probability from which a pixel belongs to an object.
    """

    before_nms: int = 1000
    proposals: int = 1000
    proposal_overlap: float = 0.7
    least_score: float = 0.05
    overlap: float = 0.5
    most: int = 3000
    mask_threshold: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Spec):
    """What is done to an image before the network sees it.

    Attributes:
        channels: channels the network wants.
        colour: ``rgb``: grey images are repeated over three channels and RGB is taken as it is;
            ``as-is``: the channel count must match (a single grey channel is padded with zeros up to it);
            ``grey``: RGB becomes one channel, its luminance, and then the same.
        normalisation: per channel; see ``data.normalise``.
        percentiles: low and high percentile that become 0 and 1.
        diameter: working diameter in pixels to which images are rescaled, or None: any size as it is.
        typical: diameter in pixels of the cells of the images that a fine-tuned model is for, or None; it takes the
            place of the diameter that a user does not give.
        estimated: the diameter is estimated from each image, for collections whose images differ in magnification;
            ``typical`` counts where an image does not tell, and a diameter that a user gives counts for all.
        noise_copies: noisy copies of an image that are predicted for each value of the grains; mean and spread of
            their maps are the prediction. 0: the maps of the image itself.
        noise_values: of the grains, where the percentiles of the image are 0 and 1: salt and pepper.
        noise_fraction: of the pixels of a copy that become a grain.
        noise_seed: of the places of the grains.
    """

    channels: int = 2
    colour: ColourName = "as-is"
    normalisation: NormalisationName = "percentile"
    percentiles: tuple[float, float] = (1.0, 99.0)
    diameter: float | None = None
    typical: float | None = None
    estimated: bool = False
    noise_copies: int = 0
    noise_values: tuple[float, ...] = (1.0, 0.0)
    noise_fraction: float = 0.01
    noise_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Spec):
    """What is trained.

    Attributes:
        network: a name of the networks.
        representation: a name of the representations.
        widths: feature channels per level, shallowest first.
        kaiming: Kaiming-normal initial weights, else torch's own.
        init: a model whose weights, of the same network, are the initial ones.
        batch: crops per step.
        half: the final checkpoint stores 16-bit weights.
        styles: kinds of images of which a few crops travel in the checkpoint, for contrastive fine-tuning; 0: none.
        affine: batch norm has a scale and a shift that are learned.
    """

    younger = MappingProxyType({"affine": True})

    network: NetworkName = "unet"
    representation: RepresentationName = "flow"
    widths: tuple[int, ...] = (32, 64, 128, 256)
    kaiming: bool = True
    init: str | None = None
    batch: int = 8
    half: bool = False
    styles: int = 7
    affine: bool = True


@dataclass(frozen=True, kw_only=True)
class SupervisedSettings(Spec):
    """How labelled images of several sources are learned from.

    Attributes:
        sampling: of crops: ``pooled``: every image as often; ``balanced``: every source as often, however many images
            it has, and within it every image.
        weigh_cells: of masks: pixels of cells are weighed by the ratio of background to cells of their crop, as in
            meta-training (Dawoud et al., eq. 3).
    """

    younger = MappingProxyType({"sampling": "pooled", "weigh_cells": False})

    sampling: SamplingName = "pooled"
    weigh_cells: bool = False


@dataclass(frozen=True, kw_only=True)
class TuningSettings(Spec):
    """How a model is fine-tuned.

    Attributes:
        method: how weights are learned.
        train: which part of the network learns; the others keep weights and statistics.
        batch: crops per step.
        half: the final checkpoint stores 16-bit weights.
        search: thresholds of decoding are searched on the shots, for representations that ask for it.
        rounds: most shots that are left out, one after the other, to check what tuning does.
        epochs: how often each crop of a grid, or each shot, is seen, in place of a number of steps; or None.
        weigh_cells: of masks: pixels of cells are weighed by the ratio of background to cells of their crop, as in
            meta-training (Dawoud et al., eq. 3).
        affine: batch norms of a base that has them without scale and shift get them, to be learned from the shots;
            ``auto``: those of FCRN.
        affine_scale: where a scale that is given begins; the authors of few-shot meta-learning have 0.1.
        batch_statistics: of batch norm, that prediction uses: ``shots``: measured on the shots when all is learned;
            ``running``: as they follow the training; ``query``: measured on the images of --query, without their
            labels: where these are the images to be predicted, the model is transductive; ``auto``: of FCRN and the
            light U-Net those of the shots.
        rescale: images are brought to a working diameter although the base has learned without one; ``auto``: not
            for FCRN and the light U-Net, unless a diameter is given.

    Raises:
        UsageError: no epoch, or statistics of shots or query for a network of which a part is to stay as it is.
    """

    younger = MappingProxyType(
        {
            "epochs": None,
            "weigh_cells": False,
            "affine": "auto",
            "affine_scale": 1.0,
            "batch_statistics": "auto",
            "rescale": "auto",
        }
    )

    method: ShotMethodName = "classic"
    train: TrainedPartName = "all"
    batch: int = 8
    half: bool = False
    search: bool = True
    rounds: int = 5
    epochs: int | None = None
    weigh_cells: bool = False
    affine: WhetherName = "auto"
    affine_scale: float = 1.0
    batch_statistics: BatchStatisticsName = "auto"
    rescale: WhetherName = "auto"

    def __post_init__(self) -> None:
        """See the class."""
        if self.epochs is not None and self.epochs < 1:
            raise UsageError("epochs", f"{self.epochs} is none", "give 1 or more, or leave it out for --steps")
        if self.batch_statistics in ("shots", "query") and self.train != "all":
            problem = f"'{self.batch_statistics}' would change what --train {self.train} leaves as it is"
            raise UsageError("batch_statistics", problem, "use --train all, or batch_statistics=running")


@dataclass(frozen=True, kw_only=True)
class ShotCrops(Spec):
    """How shots are cut into crops.

    Attributes:
        crops: ``random``: augmented crops from any place; ``grid``: all crops by a stride, as they are.
        strides: of a grid: pixels from crop to crop, down and to the right; Dawoud et al. have 26 to 50 by source.
        cell_pixels: of a grid: pixels of cells that a crop holds at least; it is dropped otherwise.
    """

    crops: CropsName = "random"
    strides: tuple[int, int] = (64, 64)
    cell_pixels: int = 360
