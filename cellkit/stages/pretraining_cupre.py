"""pretrain --method cupre: labelled images of one kind and unlabelled ones of another -> a model to be fine-tuned.

Alternate multi-task pre-training (CUPre, section III): see ``methods.cupre``. The labelled images, COCO in the paper,
are divided into as many parts as there are rounds, by the seed, so that each part shows objects; every unlabelled image
is in every round. Everything about the labelled task, network and schedule included, is as if it were learned alone, by
``pretrain`` for maps or by ``pretrain --method detection``.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np
from torch import nn

from cellkit.config import JsonValue, NetworkSpec, Spec
from cellkit.data.detection import DetectionSet
from cellkit.data.layouts import Pair
from cellkit.data.moco_views import ViewSettings
from cellkit.data.training import TrainingSet
from cellkit.engine import Device, FitResult
from cellkit.engine.distributed import is_main, world_size
from cellkit.engine.method import Method
from cellkit.errors import NoInputError, UsageError
from cellkit.io.sources import Source
from cellkit.methods.cupre import Cupre, Tasks
from cellkit.methods.cupre_settings import CupreSettings
from cellkit.methods.detection import Detection
from cellkit.methods.moco import MoCo
from cellkit.methods.moco_settings import MoCoSettings
from cellkit.methods.supervised import Supervised
from cellkit.networks.detector import Detector
from cellkit.stages.pretraining import Recipe, SupervisedRecipe, Task, named, train, training_set
from cellkit.stages.pretraining_detection import DetectionRecipe, detection_set
from cellkit.stages.pretraining_moco import view_set
from cellkit.stages.pretraining_unlabelled import named_source

LabelledImages: TypeAlias = TrainingSet | DetectionSet
Images = TypeVar("Images", TrainingSet, DetectionSet)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CupreRecipe(Recipe):
    """Settings of both tasks and their alternation; made by :meth:`of`.

    Attributes:
        labelled: network, images and schedule of the labelled task.
        views: what two views of an unlabelled crop differ in.
        moco: loss, queue and key encoder of the unlabelled task.
        cupre: rounds, rates and penalty.
    """

    labelled: SupervisedRecipe | DetectionRecipe
    views: ViewSettings = field(default_factory=ViewSettings)
    moco: MoCoSettings = field(default_factory=MoCoSettings)
    cupre: CupreSettings = field(default_factory=CupreSettings)

    @classmethod
    def of(
        cls,
        labelled: SupervisedRecipe | DetectionRecipe,
        views: ViewSettings | None = None,
        moco: MoCoSettings | None = None,
        cupre: CupreSettings | None = None,
    ) -> Self:
        """The recipe whose labelled task is this one.

        Raises:
            UsageError: too few steps for the rounds.
        """
        chosen = cupre or CupreSettings()
        chosen.plan(labelled.fit.steps)  # checks them
        return cls(
            model=labelled.model,
            preprocessing=labelled.preprocessing,
            fit=labelled.fit,
            decoding=labelled.decoding,
            labelled=labelled,
            views=views or ViewSettings(),
            moco=moco or MoCoSettings(),
            cupre=chosen,
        )

    @property
    def parts(self) -> tuple[Spec, ...]:
        """Those of the labelled task, views, loss, rounds."""
        return *self.labelled.parts, self.views, self.moco, self.cupre

    @property
    def network(self) -> NetworkSpec:
        """What is learned."""
        return self.labelled.network

    def initial(self) -> nn.Module:
        """The network with its first weights."""
        return self.labelled.initial()

    def fitting(self, pairs: Sequence[Pair]) -> Self:
        """With what the labelled images decide: of a detector, categories and anchors."""
        if isinstance(self.labelled, DetectionRecipe):
            return replace(self, labelled=self.labelled.fitting(pairs))
        return self


def parts_of(shows: Sequence[bool], rounds: int, seed: int) -> list[list[int]]:
    """Labelled images in as many parts as there are rounds, of equal size but for one image, by the seed.

    Each part has an image with an object, where any has: images with objects are dealt out first. Fewer of them than
    rounds are as many parts, which then come again.

    Args:
        shows: of each image, whether there is an object on it.
        rounds: that there are.
        seed: equal seeds give equal parts.

    Returns:
        The places in ``shows`` of the images of each part.
    """
    order = np.random.default_rng(seed).permutation(len(shows)).tolist()
    first = [index for index in order if shows[index]]
    dealt = first + [index for index in order if not shows[index]]
    count = min(rounds, len(first) or len(dealt))
    return [dealt[part::count] for part in range(count)]


def only(images: Images, places: Sequence[int]) -> Images:
    """Some of the labelled images, which are not read or kept a second time."""
    some = copy.copy(images)
    some.pairs = tuple(images.pairs[place] for place in places)
    some.kept = [images.kept[place] for place in places]
    some.scenes = [images.scenes[place] for place in places]
    return some


def pretrain_cupre(
    pairs: Sequence[Pair],
    sources: Sequence[Source],
    recipe: CupreRecipe,
    device: Device,
    output: Path,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> FitResult | None:
    """Train a network on labelled and unlabelled images in turn and write its checkpoint.

    Args:
        pairs: labelled images, of common objects.
        sources: images without labels, of cells.
        recipe: all settings; what the labelled images decide is set here.
        device: where to train.
        output: the checkpoint to write; state, last weights and metrics lie beside it.
        overwrite: start anew although files of another run are there.
        quiet: no progress.

    Returns:
        How training ended, or None: the output was there and up to date.

    Raises:
        UsageError: files of a run with other settings are there, nothing of the encoder is left to learn, or the
            processes cannot share a batch equally.
        NoInputError: there is no labelled image, none for a detector shows an object, or no other shows anything.
        InputError: an image or its labels cannot be read.
        ModelError: nothing of the base fits.
        InterruptedRunError: SIGINT or SIGTERM after a clean save.
        LockedError: another run makes this checkpoint.
    """
    if not pairs:
        raise NoInputError("--labelled", "there is no labelled image", "give a folder with images and labels")
    _check_batches(recipe)
    chosen = recipe.fitting(pairs)

    def task(network: nn.Module) -> Task:
        settings, seed = chosen.cupre, chosen.fit.seed
        views = view_set(sources, chosen.preprocessing, chosen.views, device)
        unlabelled = MoCo(network, views, chosen.moco, batch=settings.contrast_batch, seed=seed)
        labelled = _labelled(network, pairs, chosen, device)
        method = Cupre(Tasks(unlabelled=unlabelled, labelled=labelled), settings.plan(chosen.fit.steps), settings)
        return Task(method=method, card=_card(chosen.labelled))

    record = chosen.record([named_source(source) for source in sources], [])
    labelled = Recipe.record(chosen, [named(pair) for pair in pairs])
    more: dict[str, JsonValue] = {
        "method": "cupre",
        "labelled_images": len(pairs),
        "labelled_digest": labelled.input_digest,
    }
    record = replace(record, arguments=record.arguments | more | _card(chosen.labelled))
    return train(chosen, (record,), task, device, output, overwrite=overwrite, quiet=quiet)


def _check_batches(recipe: CupreRecipe) -> None:
    """Refuse at the start what would otherwise end a run when the task has its first turn."""
    batches = {"batch": recipe.model.batch, "contrast_batch": recipe.cupre.contrast_batch}
    for name, batch in batches.items():
        if batch % world_size():
            problem = f"{batch} crops cannot be shared by {world_size()} processes"
            raise UsageError(name, problem, f"give a multiple of {world_size()}")


def _labelled(network: nn.Module, pairs: Sequence[Pair], recipe: CupreRecipe, device: Device) -> list[Method[Any]]:
    """The labelled task on each part of its images, which are read once and share what may be kept of them."""
    task, seed = recipe.labelled, recipe.fit.seed
    if isinstance(task, SupervisedRecipe):
        data = training_set(pairs, task.preprocessing, task.representation, task.augmentation, device)
        return [
            Supervised(network, task.representation, only(data, part), batch=task.model.batch, seed=seed)
            for part in _parts(data, recipe)
        ]
    if not isinstance(network, Detector):
        raise TypeError(f"the recipe asks for a detector, not for {type(network).__name__}")
    try:
        objects = detection_set(pairs, task.preprocessing, task.augmentation, network, task.names, device)
    except NoInputError as error:
        raise NoInputError("--labelled", error.problem, error.repair) from error
    return [
        Detection(network, only(objects, part), task.detection, batch=task.model.batch, seed=seed)
        for part in _parts(objects, recipe)
    ]


def _parts(images: LabelledImages, recipe: CupreRecipe) -> list[list[int]]:
    """See :func:`parts_of`; says where rounds share a part."""
    shows = [len(scene.centres) > 0 for scene in images.scenes]
    parts = parts_of(shows, recipe.cupre.rounds, recipe.fit.seed)
    if len(parts) < recipe.cupre.rounds and is_main():
        words = "fewer labelled images show objects (%d) than there are rounds (%d): parts of them come again"
        log.warning(words, sum(shows), recipe.cupre.rounds)
    return parts


def _card(recipe: SupervisedRecipe | DetectionRecipe) -> dict[str, JsonValue]:
    return {"categories": list(recipe.names)} if isinstance(recipe, DetectionRecipe) else {}
