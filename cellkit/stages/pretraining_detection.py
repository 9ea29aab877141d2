"""pretrain --method detection: annotated images -> a detector that tells cells, and where they have any their kinds.

The schedule is that of detectron2-ResNeSt's cascades: SGD with momentum 0.9 and weight decay 1e-4, none on
normalisations, the rate a tenth after 8/9 and a hundredth after 17/18 of the run. Theirs is 0.02 with 16 images a step:
by the linear rule (Goyal et al. 2017) it is 0.02 x batch / 16 where nobody chose another. They warm up over 1,000 of
270,000 steps; here it is 100, for runs of some thousand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, TypeAlias

from torch import nn

from cellkit.config import (
    ColourName,
    ModelSettings,
    NetworkName,
    NetworkSpec,
    OptimiserName,
    Preprocessing,
    RepresentationName,
    ScheduleName,
    Spec,
)
from cellkit.data.detection import DetectionAugmentation, DetectionSet
from cellkit.data.detection_anchors import AnchorsName, anchors_for, object_sides
from cellkit.data.detection_categories import CELL, category_names
from cellkit.data.layouts import Pair
from cellkit.engine import Device, FitResult, FitSettings
from cellkit.errors import UsageError
from cellkit.io.checkpoints import load_checkpoint, model_path
from cellkit.methods.detection import Detection
from cellkit.methods.detection_settings import DetectionSettings
from cellkit.networks import build
from cellkit.networks.detector import Detector
from cellkit.networks.detector_spec import DetectorSpec, TrunkName
from cellkit.representations.boxes import BOXES, BoxesSettings
from cellkit.stages.detection_validation import CHOICE, DetectionValidation
from cellkit.stages.detector_weights import adopt, categories_of
from cellkit.stages.model import decode_settings
from cellkit.stages.pretraining import Recipe, Task, loading_of, named, train

CategoriesName: TypeAlias = Literal["kept", "one"]
AnchorSetName: TypeAlias = Literal[AnchorsName, "own"]

NETWORK: NetworkName = "detector"
REPRESENTATION: RepresentationName = "boxes"
RATE, RATE_BATCH = 0.02, 16  # detectron2's learning rate, and the images of a step that it is for
OF_NO_USE: Mapping[str, object] = {"widths": (), "kaiming": True, "styles": 0, "affine": True}
"""Settings of models that mean nothing for a detector, with their values."""


@dataclass(frozen=True, kw_only=True)
class DetectionModel(ModelSettings):
    """What is trained: a detector.

    Attributes:
        init: a detector or a trunk, whose weights that fit are the initial ones.
        batch: crops per step.
    """

    network: NetworkName = NETWORK
    representation: RepresentationName = REPRESENTATION
    widths: tuple[int, ...] = ()
    batch: int = 4
    styles: int = 0


@dataclass(frozen=True, kw_only=True)
class DetectionPreprocessing(Preprocessing):
    """Three channels, over which grey images are repeated: photographs and cells fit one detector."""

    channels: int = 3
    colour: ColourName = "rgb"


@dataclass(frozen=True, kw_only=True)
class TrainedDetector(DetectorSpec):
    """What a detector is made of, with what the images decide about it.

    Attributes:
        categories: ``kept``: those of the annotations are told apart, where they have some; ``one``: all are cells.
        anchor_set: sizes and ratios of anchors: of ``coco`` or ``livecell``; by the sizes of the objects (``data``);
            or your ``own``, by anchor_sizes, anchor_ratios and anchor_levels.
    """

    trunk: TrunkName = "resnest-50"
    freeze_at: int = 0
    mask_convs: int = 4
    classes: int = 1
    categories: CategoriesName = "kept"
    anchor_set: AnchorSetName = "data"

    @property
    def plain(self) -> DetectorSpec:
        """The specification alone."""
        return DetectorSpec(**{one.name: getattr(self, one.name) for one in fields(DetectorSpec)})

    def fitting(self, pairs: Sequence[Pair], preprocessing: Preprocessing, names: Sequence[str]) -> TrainedDetector:
        """With as many classes as there are names, and the anchors that are chosen."""
        known = replace(self, classes=len(names), channels=preprocessing.channels)
        if self.anchor_set == "own":
            return known
        sides = object_sides(pairs if self.anchor_set == "data" else (), preprocessing)
        anchors = anchors_for(self.anchor_set, sides)
        return replace(
            known,
            anchor_sizes=tuple(size for (size,) in anchors.sizes),
            anchor_ratios=anchors.ratios,
            anchor_levels=anchors.levels,
        )


@dataclass(frozen=True, kw_only=True)
class DetectionFit(FitSettings):
    """How a detector learns: SGD; see the head of this module.

    Attributes:
        learning_rate: the highest of the schedule; 0.02 for 16 crops a step, and in proportion for others.
    """

    learning_rate: float = RATE
    optimiser: OptimiserName = "sgd"
    weight_decay: float = 1e-4
    schedule: ScheduleName = "late-tenths"
    warmup: int = 100


def rate_for(batch: int) -> float:
    """The learning rate for a batch, by the linear rule (Goyal et al. 2017): 0.02 for 16 crops."""
    return RATE * batch / RATE_BATCH


@dataclass(frozen=True, kw_only=True)
class DetectionRecipe(Recipe):
    """Settings of learning to detect.

    Attributes:
        detector: what is trained, in detail.
        augmentation: of the crops.
        detection: anchors and regions that a step looks at.
        names: of the categories; known when the images are.

    Raises:
        UsageError: a setting that a detector has no use for, or one of decoding that cannot be meant.
    """

    detector: TrainedDetector = field(default_factory=TrainedDetector)
    augmentation: DetectionAugmentation = field(default_factory=DetectionAugmentation)
    detection: DetectionSettings = field(default_factory=DetectionSettings)
    names: tuple[str, ...] = (CELL,)

    def __post_init__(self) -> None:
        """See the class."""
        for option, value, wanted in (
            ("--network", self.model.network, NETWORK),
            ("--representation", self.model.representation, REPRESENTATION),
        ):
            if value != wanted:
                raise UsageError(option, f"the method detection trains '{wanted}' alone", f"use {option} {wanted}")
        for name, default in OF_NO_USE.items():
            if getattr(self.model, name) != default:
                raise UsageError(name, "the method detection has no use for it", "leave it out")
        if self.preprocessing.noise_copies:
            problem = "noisy copies are for models that learn without labels"
            raise UsageError("noise_copies", problem, "leave it out, or use --method oce")
        decode_settings(BOXES, {}, self.decoding)  # checks them

    @property
    def parts(self) -> tuple[Spec, ...]:
        """As of every recipe, the detector, what happens to crops, and what a step looks at."""
        return *super().parts, self.detector, self.augmentation, self.detection

    @property
    def network(self) -> NetworkSpec:
        """What is learned."""
        settings = self.detector.plain.to_dict()
        return NetworkSpec(name=NETWORK, channels=self.preprocessing.channels, outputs=0, widths=(), settings=settings)

    def initial(self) -> nn.Module:
        """The detector with its first weights; those of a base where they fit."""
        detector, base = build(self.network), self.model.init
        if base is not None:
            adopt(detector, load_checkpoint(model_path(base)), base, self.names)
        return detector

    def fitting(self, pairs: Sequence[Pair], held: Sequence[Pair] = ()) -> DetectionRecipe:
        """With the categories and the anchors of the images.

        Categories that a base tells apart, too, keep its order, which says what its layers have learned.

        Raises:
            InputError: an annotation cannot be read.
            NoInputError: the objects shall tell the anchors, and there is none.
            ModelError: there is no such base, or it cannot be read.
        """
        names = (CELL,) if self.detector.categories == "one" else category_names((*pairs, *held))
        if self.model.init is not None:
            theirs = categories_of(load_checkpoint(model_path(self.model.init)))
            names = theirs if sorted(theirs) == sorted(names) else names
        return replace(self, names=names, detector=self.detector.fitting(pairs, self.preprocessing, names))


def pretrain_detection(
    pairs: Sequence[Pair],
    held: Sequence[Pair],
    recipe: DetectionRecipe,
    device: Device,
    output: Path,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> FitResult | None:
    """Train a detector on annotated images and write its checkpoint.

    Args:
        pairs: annotated images to learn from.
        held: annotated images that choose the best weights, by ``coco/segm/AP``; none: the last weights are taken.
        recipe: all settings; categories and anchors that the images decide are set here.
        device: where to train.
        output: the checkpoint to write; state, best weights and metrics lie beside it.
        overwrite: start anew although files of another run are there.
        quiet: no progress.

    Returns:
        How training ended, or None: the output was there and up to date.

    Raises:
        NoInputError: no image shows an object.
        UsageError: files of a run with other settings are there.
        InputError: an image or its annotation cannot be read.
        ModelError: nothing of the base fits.
        InterruptedRunError: SIGINT or SIGTERM after a clean save.
        LockedError: another run makes this checkpoint.
    """
    chosen = recipe.fitting(pairs, held)

    def task(network: nn.Module) -> Task:
        if not isinstance(network, Detector):
            raise TypeError(f"the recipe asks for a detector, not for {type(network).__name__}")
        data = detection_set(pairs, chosen.preprocessing, chosen.augmentation, network, chosen.names, device)
        return Task(
            method=Detection(network, data, chosen.detection, batch=chosen.model.batch, seed=chosen.fit.seed),
            validate=_validation(held, chosen, device) if held else None,
            score=CHOICE,
            card={"categories": list(chosen.names)},
        )

    record = chosen.record([named(pair) for pair in pairs], [named(pair) for pair in held])
    record = replace(record, arguments=record.arguments | {"method": "detection", "category_names": list(chosen.names)})
    return train(chosen, (record,), task, device, output, overwrite=overwrite, quiet=quiet)


def detection_set(
    pairs: Sequence[Pair],
    preprocessing: Preprocessing,
    augmentation: DetectionAugmentation,
    network: Detector,
    names: Sequence[str],
    device: Device,
) -> DetectionSet:
    """Annotated images on the device, as a detector learns from them."""
    ground = network.ground.flatten().tolist()
    return DetectionSet(pairs, preprocessing, augmentation, loading_of(device), names, ground)


def _validation(held: Sequence[Pair], recipe: DetectionRecipe, device: Device) -> DetectionValidation:
    settings = decode_settings(BOXES, recipe.decoding)
    if not isinstance(settings, BoxesSettings):
        raise TypeError("boxes have settings of their own")
    return DetectionValidation(held, recipe.preprocessing, settings, recipe.names, device)
