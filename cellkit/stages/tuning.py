"""A base, a recipe and shots -> tuned weights, thresholds and scores: what ``finetune`` does, once or several times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from cellkit.config import (
    BatchStatisticsName,
    JsonValue,
    NetworkName,
    OptimiserName,
    Preprocessing,
    RepresentationSpec,
    ScheduleName,
    Settings,
    ShotCrops,
    Spec,
    TuningSettings,
)
from cellkit.data.augment import Augmentation
from cellkit.data.diameter import diameter_of
from cellkit.data.episodes_crops import Cutting, GridCrops
from cellkit.data.layouts import Pair
from cellkit.data.scale import REFERENCE_DIAMETER, scale_of
from cellkit.data.style_crops import StyleCrops
from cellkit.data.style_images import contrast_styles, query_style, stored_styles
from cellkit.data.training import TrainingSet
from cellkit.engine import Device, FitResult, FitSettings, fit, prepare, set_seed
from cellkit.errors import ModelError, NoInputError
from cellkit.io.checkpoints import Checkpoint, load_checkpoint, model_path
from cellkit.io.images import digest_of_source
from cellkit.io.sources import Source
from cellkit.methods import FINETUNE, Tuning, TuningMethod
from cellkit.methods.batch_statistics import settle
from cellkit.methods.settings import ContrastSettings, L2SPSettings
from cellkit.networks import Styled, set_affine, stride_of
from cellkit.provenance import History, Record, digest_of
from cellkit.representations import REPRESENTATIONS, Representation
from cellkit.stages.model import decode_settings, network_of
from cellkit.stages.prediction import resize, scaled_shape
from cellkit.stages.pretraining import SHAPELESS, loading_of, targets_of, training_set, weighed
from cellkit.stages.thresholds import search
from cellkit.stages.training_files import TrainingFiles, Writer
from cellkit.stages.validation import Validation

NAMED = 3  # shots in a message
CHOICE = "ap_dsb"
QUERY, CONTRAST = 1, 2  # streams of crops of one seed
FEW_SHOT: frozenset[NetworkName] = frozenset({"fcrn", "light-unet"})  # tuned as by Dawoud et al. where nobody chose
AFFINE: frozenset[NetworkName] = frozenset({"fcrn"})  # of these the ones that get scale and shift (section 4.1)
RESOLVED = frozenset({"affine", "affine_scale", "batch_statistics", "rescale"})  # settings that hang on the base
SETTLING = 8  # batches of random crops at least that statistics are measured on: few do not show all of a shot


@dataclass(frozen=True, kw_only=True)
class TuningFit(FitSettings):
    """How fine-tuning goes: Adam, 100 steps, the rate halved after each quarter (Scellseg, Methods).

    Dawoud et al. (section 4.2) have Adam at 1e-4 all the time, a weight decay of 5e-4, and 20 epochs of the crops of a
    grid, 64 at a time: ``--lr 1e-4 --set weight_decay=5e-4 --set schedule=constant --set epochs=20 --set batch=64
    --set crops=grid --set crop=256 --set weigh_cells=true``.
    """

    steps: int = 100
    optimiser: OptimiserName = "adam"
    weight_decay: float = 0.0
    schedule: ScheduleName = "halving"


@dataclass(frozen=True, kw_only=True)
class TuningRecipe:
    """All settings of one fine-tuning, as they enter the history.

    Attributes:
        base: the model to start from: a bundled model's name or a checkpoint.
        tuning: method, trained part, batch.
        augmentation: of the shots.
        fit: of the training loop.
        contrast: of the method ``contrastive``.
        l2sp: of the method ``l2sp``.
        crops: of the shots.
        typical: diameter of the cells in pixels; None: that of the shots.
        decoding: settings that win over those of the base.
    """

    base: str
    tuning: TuningSettings
    augmentation: Augmentation
    fit: FitSettings
    contrast: ContrastSettings = field(default_factory=ContrastSettings)
    l2sp: L2SPSettings = field(default_factory=L2SPSettings)
    crops: ShotCrops = field(default_factory=ShotCrops)
    typical: float | None = None
    decoding: Settings = field(default_factory=dict)

    def arguments(self) -> dict[str, JsonValue]:
        """What shapes the result, by name; but what the base decides, see :meth:`Tuner.history`."""
        own: tuple[Spec, ...] = {"contrastive": (self.contrast,), "l2sp": (self.l2sp,)}.get(self.tuning.method, ())
        grid = () if self.crops.crops == "random" else (self.crops,)
        left_out = SHAPELESS | RESOLVED | ({"steps"} if self.tuning.epochs else set())
        parts = (self.tuning, self.augmentation, self.fit, *own, *grid)
        values = {name: value for part in parts for name, value in part.recorded().items() if name not in left_out}
        return values | {"typical": self.typical} | dict(self.decoding)


@dataclass(frozen=True, kw_only=True)
class Material:
    """The images of one fine-tuning.

    Attributes:
        shots: labelled images to learn from.
        held: labelled images to judge by; never learned from.
        query: images without labels of the same experiment, for contrastive tuning or statistics of batch norm.
        contrast: folder with a folder of images per style, or None: the crops that the base carries.
        draw: how the shots were drawn from the labelled images, for the history; empty: they are all.
    """

    shots: Sequence[Pair]
    held: Sequence[Pair] = ()
    query: Sequence[Source] = ()
    contrast: str | None = None
    draw: Mapping[str, JsonValue] = field(default_factory=dict)

    def digest(self) -> str:
        """Of images and labels, not of names alone: a corrected outline makes another result."""
        pairs = [
            f"{pair.key} {pair.plane} {digest_of_source(pair.image)} {digest_of(pair.labels.read().labels.tobytes())}"
            for part in (self.shots, self.held)
            for pair in (*part, None)
            if pair is not None
        ]
        others = [*(source.digest() for source in self.query), self.contrast or ""]
        return digest_of("\n".join([str(len(self.shots)), *pairs, *others]).encode())


class Tuner:
    """One recipe on one set of images: trained on all shots, and where that is checked, on all but one.

    Args:
        material: its images.
        recipe: all settings.
        device: where to train.
        quiet: no progress.

    Raises:
        ModelError: there is no such base, or it cannot be read, or it has learned without labels.
        InputError: the labels of a shot cannot be read.
        UsageError: the representation of the base has no such setting of decoding, or none that weighs cells.
    """

    def __init__(self, material: Material, recipe: TuningRecipe, device: Device, *, quiet: bool) -> None:
        path = model_path(recipe.base)
        self.name, self.digest = recipe.base, digest_of(path)
        self.base = load_checkpoint(path)
        if self.base.preprocessing.noise_copies:
            problem = "has learned without labels: its network has no map of where cells are, to be learned from shots"
            raise ModelError(self.name, problem, "take a model that has learned from labels")
        self.material, self.recipe, self.device, self.quiet = material, recipe, device, quiet
        self.check()
        self.diameters = {pair.key: diameter_of(pair.labels.read().labels) for pair in material.shots}

    def check(self) -> None:
        """Settings that the base has no use for.

        Raises:
            UsageError: one is there.
        """
        decode_settings(self.representation, self.base.representation.settings, self.recipe.decoding)
        weighed(self.representation, weigh_cells=self.recipe.tuning.weigh_cells)

    def card_of(self, *, base: bool) -> dict[str, JsonValue]:
        """What a card tells of the weights, beside base, shots and scores.

        Args:
            base: the weights are those of the base, not the tuned ones.
        """
        return {}

    @property
    def choice(self) -> str:
        """The score that says whether tuning helped: a mean over IoU .50:.95."""
        return CHOICE

    @property
    def representation(self) -> Representation:
        """Turns maps into cells."""
        return REPRESENTATIONS[self.base.representation.name]

    @property
    def gives_affine(self) -> bool:
        """Whether batch norms without scale and shift get them."""
        chosen, network = self.recipe.tuning.affine, self.base.network
        return not network.affine and (chosen == "true" or (chosen == "auto" and network.name in AFFINE))

    @property
    def statistics(self) -> BatchStatisticsName:
        """On what statistics of batch norm are measured at the end; ``running``: not at all."""
        tuning = self.recipe.tuning
        if tuning.batch_statistics != "auto":
            return tuning.batch_statistics
        return "shots" if self.base.network.name in FEW_SHOT and tuning.train == "all" else "running"

    @property
    def rescales(self) -> bool:
        """Whether images are brought to a working diameter."""
        if self.base.preprocessing.diameter is not None or self.recipe.typical is not None:
            return True
        chosen = self.recipe.tuning.rescale
        return chosen == "true" or (chosen == "auto" and self.base.network.name not in FEW_SHOT)

    def _resolved(self) -> dict[str, JsonValue]:
        """What settings that hang on the base come to, where it is not what tuning always did."""
        values: dict[str, JsonValue] = {}
        if self.gives_affine:
            values |= {"affine": True, "affine_scale": self.recipe.tuning.affine_scale}
        if self.statistics != "running":
            values["batch_statistics"] = self.statistics
        return values if self.rescales else values | {"rescale": False}

    def history(self, **checks: JsonValue) -> History:
        """That of the base, and this command."""
        shots = self.material.shots
        chosen = shots[0].channels
        channels = {} if chosen is None else {"channels": ",".join(map(str, chosen))}
        record = Record(
            verb="finetune",
            arguments=self.recipe.arguments()
            | self._resolved()
            | {"shots": len(shots)}
            | dict(self.material.draw)
            | channels
            | checks,
            model=self.name,
            model_digest=self.digest,
            input_digest=self.material.digest(),
        )
        return (*self.base.history, record)

    def preprocessing(self, shots: Sequence[Pair]) -> Preprocessing:
        """That of the base, with the diameter of the shots' cells; a base of any size may get a working diameter.

        Raises:
            NoInputError: no shot holds a cell.
        """
        found = [diameter for pair in shots if (diameter := self.diameters[pair.key]) is not None]
        if not found:
            names = ", ".join(pair.labels.name for pair in shots[:NAMED])
            raise NoInputError(names, "no shot holds a labelled cell", "outline some cells first")
        if not self.rescales:
            return replace(self.base.preprocessing, typical=None, estimated=False)
        typical = self.recipe.typical or float(np.median(found))
        working = self.base.preprocessing.diameter or REFERENCE_DIAMETER
        return replace(self.base.preprocessing, diameter=working, typical=typical, estimated=False)

    def untuned(self) -> Checkpoint:
        """The base at the diameter of the shots."""
        return replace(self.base, preprocessing=self.preprocessing(self.material.shots))

    def train(self, shots: Sequence[Pair], files: TrainingFiles, history: History, *, overwrite: bool) -> FitResult:
        """Train on shots, or go on with it; errors as :func:`cellkit.engine.training.fit`."""
        recipe, preprocessing = self.recipe, self.preprocessing(shots)
        resume = None if overwrite else files.state(history)
        set_seed(recipe.fit.seed)
        crops = self._shot_crops(shots, preprocessing)
        method = self._method(crops, shots, preprocessing)
        spec = replace(self.base.network, affine=self.base.network.affine or self.gives_affine)
        writer = Writer(
            model=replace(self.base, network=spec, preprocessing=preprocessing, history=history, card={}),
            half=recipe.tuning.half,
            split=method.split,
        )
        settings, epochs = recipe.fit, recipe.tuning.epochs
        if epochs is not None:
            settings = replace(settings, steps=epochs * crops.steps_per_epoch(self._batch(crops)))
        return fit(method, settings, self.device, files=files.run, save=writer.save, resume=resume, quiet=self.quiet)

    def _shot_crops(self, shots: Sequence[Pair], preprocessing: Preprocessing) -> TrainingSet:
        """What batches are drawn from."""
        chosen, augmentation = self.recipe.crops, self.recipe.augmentation
        if chosen.crops == "random":
            return training_set(shots, preprocessing, self.representation, augmentation, self.device)
        cutting = Cutting(crop=augmentation.crop, strides=chosen.strides, cell_pixels=chosen.cell_pixels)
        return GridCrops(shots, preprocessing, targets_of(self.representation), cutting, loading_of(self.device))

    def _batch(self, crops: TrainingSet) -> int:
        """Crops per step; of a grid, whose crops are not augmented, none comes twice in a step."""
        batch = self.recipe.tuning.batch
        return batch if self.recipe.crops.crops == "random" else min(batch, len(crops))

    def _method(self, crops: TrainingSet, shots: Sequence[Pair], preprocessing: Preprocessing) -> TuningMethod:
        recipe = self.recipe
        network = network_of(self.base, self.name)
        if self.gives_affine:
            set_affine(network, affine=True, gamma=recipe.tuning.affine_scale)
        network = prepare(network, self.device)
        contrastive = recipe.tuning.method == "contrastive" and isinstance(network, Styled)
        query, contrast = self._style_crops(shots, preprocessing) if contrastive else (None, None)
        tuning = Tuning(
            network=network,
            representation=weighed(self.representation, weigh_cells=recipe.tuning.weigh_cells),
            shots=crops,
            batch=self._batch(crops),
            seed=recipe.fit.seed,
            part=recipe.tuning.train,
            base=self.name,
            query=query,
            contrast=contrast,
            contrast_settings=recipe.contrast,
            l2sp_settings=recipe.l2sp,
        )
        return FINETUNE[recipe.tuning.method](tuning)

    def _style_crops(self, shots: Sequence[Pair], preprocessing: Preprocessing) -> tuple[StyleCrops, StyleCrops]:
        """Crops of query and contrast images, for ever."""
        material, seed = self.material, self.recipe.fit.seed
        near = [query_style(material.query, preprocessing, shots=shots, seed=seed)]
        if material.contrast is None:
            far = stored_styles(self.base.contrast, preprocessing, base=self.name)
        else:
            far = contrast_styles(material.contrast, preprocessing, seed=seed)
        query, contrast = (
            StyleCrops(
                styles,
                self.recipe.augmentation,
                preprocessing.channels,
                seed=seed,
                stream=stream,
                device=self.device.torch_device,
            )
            for styles, stream in ((near, QUERY), (far, CONTRAST))
        )
        return query, contrast

    def tuned(self, shots: Sequence[Pair], files: TrainingFiles) -> Checkpoint:
        """The trained model, with statistics of the shots and the thresholds of decoding that suit them best."""
        model = self._settled(load_checkpoint(files.finished()), shots)
        settings = decode_settings(self.representation, model.representation.settings, self.recipe.decoding)
        if self.recipe.tuning.search and self.representation.searched:
            network = prepare(network_of(model, files.best).eval(), self.device)
            settings = search(
                network,
                shots,
                model.preprocessing,
                self.representation,
                settings,
                self.device,
                fixed=set(self.recipe.decoding),
            )
        spec = RepresentationSpec(name=model.representation.name, settings=settings.to_dict())
        return replace(model, representation=spec)

    def _settled(self, model: Checkpoint, shots: Sequence[Pair]) -> Checkpoint:
        """With statistics of batch norm of shots or query, where asked."""
        if self.statistics == "running":
            return model
        network = prepare(network_of(model, self.name).eval(), self.device)
        if self.statistics == "shots":
            batches = self._shown_shots(shots, model.preprocessing)
        else:
            batches = self._shown_query(shots, model.preprocessing, stride_of(network))
        with self.device.autocast():
            settle(network, batches)
        return replace(model, weights={name: tensor.cpu() for name, tensor in network.state_dict().items()})

    def _shown_shots(self, shots: Sequence[Pair], preprocessing: Preprocessing) -> Iterator[Tensor]:
        """Batches of crops: each of a grid, or many random ones."""
        crops = self._shot_crops(shots, preprocessing)
        batch = self._batch(crops)
        count = max(crops.steps_per_epoch(batch), SETTLING if self.recipe.crops.crops == "random" else 1)
        for each in islice(crops.batches(batch=batch, seed=self.recipe.fit.seed), count):
            yield each.images

    def _shown_query(self, shots: Sequence[Pair], preprocessing: Preprocessing, stride: int) -> Iterator[Tensor]:
        """The query images one by one, at the scale of prediction, all but what exceeds the network's grid."""
        style = query_style(self.material.query, preprocessing, shots=shots, seed=self.recipe.fit.seed)
        for image in style.images:
            shape = scaled_shape(image.scene.shape, scale_of(preprocessing, image.scene.diameter))
            pixels = torch.from_numpy(resize(image.pixels.float().numpy(), shape))
            height, width = (max(stride, n - n % stride) for n in shape)
            whole = pixels[:, :height, :width].expand(preprocessing.channels, -1, -1)
            yield whole[None].to(self.device.torch_device)  # (1, C, H, W)

    def scores(self, model: Checkpoint, pairs: Sequence[Pair]) -> dict[str, float]:
        """Mean scores of a model on labelled images."""
        settings = decode_settings(self.representation, model.representation.settings)
        validate = Validation(pairs, model.preprocessing, self.representation, settings, self.device)
        return validate(prepare(network_of(model, self.name).eval(), self.device))
