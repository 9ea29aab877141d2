"""pretrain --method moco: images alone -> a model whose encoder has learned to tell them apart (Cells-MoCo of CUPre).

SGD with momentum 0.9 and weight decay 1e-4, the rate falling as a cosine, as MoCo v2. Theirs is 0.03 with 256 images a
step: by the linear rule (Goyal et al. 2017) it is 0.03 x batch / 256 where nobody chose another; a run of some hundred
steps wants more. Heads and decoders are written as they were: at random, or those of a base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from cellkit.config import ModelSettings, NetworkSpec, OptimiserName, Preprocessing, ScheduleName, Spec
from cellkit.data.detection_categories import CELL
from cellkit.data.moco_views import ViewSet, ViewSettings
from cellkit.data.unlabelled import Deformation, UnlabelledSet
from cellkit.engine import Device, FitResult, FitSettings
from cellkit.errors import UsageError
from cellkit.io.sources import Source
from cellkit.methods.moco import MoCo
from cellkit.methods.moco_settings import MoCoSettings
from cellkit.stages.pretraining import Recipe, Task, loading_of, train
from cellkit.stages.pretraining_detection import DetectionRecipe, TrainedDetector
from cellkit.stages.pretraining_unlabelled import named_source

RATE, RATE_BATCH = 0.03, 256  # MoCo's learning rate, and the images of a step that it is for


@dataclass(frozen=True, kw_only=True)
class MoCoModel(ModelSettings):
    """What is trained: of a detector its trunk, of a dense network its encoder.

    Attributes:
        init: a model of the same kind, whose weights are the initial ones.
        batch: crops per step, of each of which there are two views.
    """

    batch: int = 32
    styles: int = 0


@dataclass(frozen=True, kw_only=True)
class MoCoFit(FitSettings):
    """How an encoder learns without labels: SGD; see the head of this module.

    Attributes:
        learning_rate: the highest of the schedule; 0.03 for 256 crops a step, and in proportion for others.
    """

    learning_rate: float = RATE
    optimiser: OptimiserName = "sgd"
    weight_decay: float = 1e-4
    schedule: ScheduleName = "cosine"


@dataclass(frozen=True, kw_only=True)
class MoCoRecipe(Recipe):
    """Settings of learning to tell images apart.

    Attributes:
        detector: what a detector is made of; None: the network is a dense one. No label tells its anchors: where the
            images should (``anchor_set=data``), they are LIVECell's.
        names: of its categories; those of a base.
        views: what two views of a crop differ in.
        moco: loss, queue and key encoder.

    Raises:
        UsageError: noisy copies, which have no meaning here; or settings that no detector has.
    """

    detector: TrainedDetector | None = None
    names: tuple[str, ...] = (CELL,)
    views: ViewSettings = field(default_factory=ViewSettings)
    moco: MoCoSettings = field(default_factory=MoCoSettings)

    def __post_init__(self) -> None:
        """See the class."""
        if self.preprocessing.noise_copies:
            raise UsageError("noise_copies", "noisy copies are for --method oce", "leave it out")
        if self.detector is not None:
            _ = self._detecting

    @property
    def parts(self) -> tuple[Spec, ...]:
        """As of every recipe, the detector, what views differ in, and the loss."""
        own = () if self.detector is None else (self.detector,)
        return *super().parts, *own, self.views, self.moco

    @property
    def network(self) -> NetworkSpec:
        """What is learned."""
        return super().network if self.detector is None else self._detecting.network

    def initial(self) -> nn.Module:
        """The network with its first weights."""
        return super().initial() if self.detector is None else self._detecting.initial()

    @property
    def _detecting(self) -> DetectionRecipe:
        """That of the same detector with labels."""
        detector = self.detector or TrainedDetector()
        if detector.anchor_set == "data":
            detector = replace(detector, anchor_set="livecell")
        return DetectionRecipe(
            model=self.model,
            preprocessing=self.preprocessing,
            fit=self.fit,
            decoding=self.decoding,
            detector=detector.fitting((), self.preprocessing, self.names),
            names=self.names,
        )


def rate_for(batch: int) -> float:
    """The learning rate for a batch, by the linear rule (Goyal et al. 2017): 0.03 for 256 crops."""
    return RATE * batch / RATE_BATCH


def view_set(
    sources: Sequence[Source], preprocessing: Preprocessing, settings: ViewSettings, device: Device
) -> ViewSet:
    """Unlabelled images, read once, of which pairs of views are drawn on the device.

    Raises:
        NoInputError: no image shows anything.
        InputError: an image cannot be read.
    """
    return ViewSet(UnlabelledSet(sources, preprocessing, Deformation(), loading_of(device)), settings)


def pretrain_moco(
    sources: Sequence[Source],
    recipe: MoCoRecipe,
    device: Device,
    output: Path,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> FitResult | None:
    """Train the encoder of a network on images without labels and write its checkpoint.

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
        UsageError: files of a run with other settings are there, or nothing of the encoder is left to learn.
        NoInputError: no image shows anything.
        InputError: an image cannot be read.
        ModelError: nothing of the base fits.
        InterruptedRunError: SIGINT or SIGTERM after a clean save.
        LockedError: another run makes this checkpoint.
    """

    def task(network: nn.Module) -> Task:
        data = view_set(sources, recipe.preprocessing, recipe.views, device)
        method = MoCo(network, data, recipe.moco, batch=recipe.model.batch, seed=recipe.fit.seed)
        return Task(method=method, card={} if recipe.detector is None else {"categories": list(recipe.names)})

    record = recipe.record([named_source(source) for source in sources])
    record = replace(record, arguments=record.arguments | {"method": "moco"})
    return train(recipe, (record,), task, device, output, overwrite=overwrite, quiet=quiet)
