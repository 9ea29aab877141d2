"""A detector and annotated images -> a detector of their own: classic, or with its trunk held near the base (L2-SP).

CUPre fine-tunes by the recipe of its baselines, whose schedule it does not tell; here it is that of pre-training (see
``stages.pretraining_detection``): SGD, 0.02 x batch / 16, a tenth after 8/9 and a hundredth after 17/18 of the run.
Images keep their size, unless the base has a working diameter or one is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, TypeAlias

from torch import nn

from cellkit.config import JsonValue, TuningSettings
from cellkit.data.detection import DetectionAugmentation, DetectionSet
from cellkit.data.detection_categories import CELL, category_names
from cellkit.data.layouts import Pair
from cellkit.engine import FitResult, fit, prepare, set_seed
from cellkit.errors import UsageError
from cellkit.io.checkpoints import Checkpoint, load_checkpoint
from cellkit.methods.detection import Detection
from cellkit.methods.detection_settings import DetectionSettings
from cellkit.methods.l2sp_detector import DetectionL2SP
from cellkit.networks.detector import Detector
from cellkit.networks.detector_spec import FREEZABLE, DetectorSpec
from cellkit.provenance import History
from cellkit.representations.boxes import BOXES, BoxesSettings
from cellkit.stages.adapt_validation import ORDER
from cellkit.stages.detection_validation import CHOICE, DetectionValidation
from cellkit.stages.detector_weights import adopt, categories_of
from cellkit.stages.model import decode_settings, network_of
from cellkit.stages.pretraining_detection import (
    AnchorSetName,
    CategoriesName,
    DetectionFit,
    TrainedDetector,
    detection_set,
)
from cellkit.stages.training_files import TrainingFiles, Writer
from cellkit.stages.tuning import Tuner, TuningRecipe

AnchorsOfBase: TypeAlias = Literal["base", "coco", "livecell", "data"]

OF_NO_USE = ("train", "weigh_cells", "affine", "batch_statistics")  # settings of tuning that a detector has no use for


@dataclass(frozen=True, kw_only=True)
class DetectorTuning(TuningSettings):
    """How a detector is fine-tuned.

    Attributes:
        batch: crops per step.
        freeze_at: how much of the trunk is not trained: 0 nothing, 1 the stem, 2 also res2, ... 5 all of it; None: as
            much as of the base.
        categories: ``kept``: those of the base, or where the images have others, theirs; ``one``: all are cells.
        anchor_set: of the ``base``; of ``coco`` or ``livecell``; or by the sizes of the objects (``data``).
    """

    batch: int = 4
    freeze_at: int | None = None
    categories: CategoriesName = "kept"
    anchor_set: AnchorsOfBase = "base"

    def __post_init__(self) -> None:
        """Refuse what a detector has no use for.

        Raises:
            UsageError: it is asked for.
        """
        super().__post_init__()
        if self.method == "contrastive":
            raise UsageError("--method", "contrastive compares styles, which a detector has not", "classic or l2sp")
        if self.train != "all":
            problem = f"a detector has no part '{self.train}'"
            raise UsageError("--train", problem, f"use --set freeze_at=N, 0 to {FREEZABLE}")
        for name in OF_NO_USE:
            if getattr(self, name) != getattr(TuningSettings(), name):
                raise UsageError(name, "a detector has no use for it", "leave it out")
        if self.freeze_at is not None and not 0 <= self.freeze_at <= FREEZABLE:
            problem = f"{self.freeze_at} is no part of a trunk"
            raise UsageError("freeze_at", problem, f"0 (nothing) to {FREEZABLE} (the whole trunk)")


@dataclass(frozen=True, kw_only=True)
class DetectorFit(DetectionFit):
    """How a detector is fine-tuned: as it is pre-trained, with a shorter warm-up."""

    steps: int = 100
    warmup: int = 20


class Course:
    """Scores of a detector on held images while it learns; they choose nothing: the newest weights are the best.

    So what held images say before and after is not what the weights were chosen by.

    Args:
        validate: scores of a detector.
        done: validations of the run that this one goes on from.
    """

    def __init__(self, validate: DetectionValidation, done: int = 0) -> None:
        self.validate, self.done = validate, done

    def __call__(self, network: nn.Module) -> dict[str, float]:
        """The number of the validation as ``validation``, and the scores."""
        self.done += 1
        return {ORDER: float(self.done)} | self.validate(network)


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe(TuningRecipe):
    """All settings of one fine-tuning of a detector, as they enter the history.

    Attributes:
        tuning: method, freezing, categories, anchors, batch.
        augmentation: of the crops.
        detection: anchors and regions that a step looks at.
    """

    tuning: DetectorTuning = field(default_factory=DetectorTuning)
    augmentation: DetectionAugmentation = field(default_factory=DetectionAugmentation)
    detection: DetectionSettings = field(default_factory=DetectionSettings)

    def arguments(self) -> dict[str, JsonValue]:
        """What shapes the result, by name."""
        return super().arguments() | self.detection.recorded()


class DetectorTuner(Tuner):
    """One recipe on one set of images, for a base that is a detector; see :class:`cellkit.stages.tuning.Tuner`."""

    recipe: DetectorRecipe

    def check(self) -> None:
        """As of every base; and crops of a grid, which detectors have not.

        Raises:
            UsageError: a setting of decoding that boxes have not, or crops of a grid.
        """
        decode_settings(BOXES, self.base.representation.settings, self.recipe.decoding)
        if self.recipe.crops.crops != "random":
            raise UsageError("crops", "a detector learns from random crops alone", "leave it out")

    @property
    def rescales(self) -> bool:
        """Whether images are brought to a working diameter: where the base has one, or one is asked for."""
        if self.base.preprocessing.diameter is not None or self.recipe.typical is not None:
            return True
        return self.recipe.tuning.rescale == "true"

    @property
    def choice(self) -> str:
        """COCO's mean over IoU .50:.95, of masks."""
        return CHOICE

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the categories that are learned."""
        if self.recipe.tuning.categories == "one":
            return (CELL,)
        theirs = categories_of(self.base)
        own = category_names((*self.material.shots, *self.material.held))
        return theirs if set(own) <= set(theirs) else own

    def card_of(self, *, base: bool) -> dict[str, JsonValue]:
        """Names of the categories that the weights tell apart."""
        return {"categories": list(categories_of(self.base) if base else self.names)}

    def spec(self, shots: Sequence[Pair]) -> DetectorSpec:
        """What is tuned: the base with the classes, the anchors and the frozen parts that are asked for."""
        base, tuning = DetectorSpec.from_dict(self.base.network.settings), self.recipe.tuning
        freeze_at = base.freeze_at if tuning.freeze_at is None else tuning.freeze_at
        chosen: AnchorSetName = "own" if tuning.anchor_set == "base" else tuning.anchor_set
        own = TrainedDetector.from_dict(base.to_dict() | {"freeze_at": freeze_at, "anchor_set": chosen})
        return own.fitting(shots, self.preprocessing(shots), self.names).plain

    def train(self, shots: Sequence[Pair], files: TrainingFiles, history: History, *, overwrite: bool) -> FitResult:
        """Train on shots, or go on with it; errors as :func:`cellkit.engine.training.fit`."""
        recipe, preprocessing = self.recipe, self.preprocessing(shots)
        resume = None if overwrite else files.state(history)
        set_seed(recipe.fit.seed)
        detector = Detector(self.spec(shots))
        adopt(detector, self.base, self.name, self.names)
        prepare(detector, self.device).train()
        data = detection_set(shots, preprocessing, recipe.augmentation, detector, self.names, self.device)
        settings, epochs = recipe.fit, recipe.tuning.epochs
        if epochs is not None:
            settings = replace(settings, steps=epochs * data.steps_per_epoch(recipe.tuning.batch))
        model = replace(self._untrained(detector.spec), preprocessing=preprocessing, history=history)
        save = Writer(model=model, half=recipe.tuning.half).save
        course = self._course(shots, model, done=int((resume or {}).get("best") or 0))
        return fit(
            self._method_of(detector, data),
            settings,
            self.device,
            files=files.run,
            save=save,
            resume=resume,
            validate=course,
            score=None if course is None else ORDER,
            quiet=self.quiet,
        )

    def _course(self, shots: Sequence[Pair], model: Checkpoint, done: int) -> Course | None:
        """Scores of held images while all shots are learned from; none where shots themselves are left out."""
        held = self.material.held
        if not held or len(shots) < len(self.material.shots):
            return None
        return Course(DetectionValidation(held, model.preprocessing, self._boxes(model), self.names, self.device), done)

    def _method_of(self, detector: Detector, data: DetectionSet) -> Detection:
        recipe, batch, seed = self.recipe, self.recipe.tuning.batch, self.recipe.fit.seed
        if recipe.tuning.method == "l2sp":
            return DetectionL2SP(detector, data, recipe.detection, batch=batch, seed=seed, penalty=recipe.l2sp)
        return Detection(detector, data, recipe.detection, batch=batch, seed=seed)

    def _untrained(self, spec: DetectorSpec) -> Checkpoint:
        """The base with another network."""
        settings = dict(self.base.representation.settings) | dict(self.recipe.decoding)
        return replace(
            self.base,
            network=replace(self.base.network, settings=spec.to_dict()),
            representation=replace(self.base.representation, settings=settings),
            card=self.card_of(base=False),
        )

    def tuned(self, shots: Sequence[Pair], files: TrainingFiles) -> Checkpoint:
        """The trained model."""
        return load_checkpoint(files.finished())

    def scores(self, model: Checkpoint, pairs: Sequence[Pair]) -> dict[str, float]:
        """COCO scores of a detector on annotated images; where it has other categories than they, all are one."""
        same, settings = categories_of(model) == self.names, self._boxes(model)
        validate = DetectionValidation(pairs, model.preprocessing, settings, self.names, self.device, categories=same)
        return validate(prepare(network_of(model, self.name).eval(), self.device))

    def _boxes(self, model: Checkpoint) -> BoxesSettings:
        settings = decode_settings(BOXES, model.representation.settings)
        if not isinstance(settings, BoxesSettings):
            raise TypeError("boxes have settings of their own")
        return settings
