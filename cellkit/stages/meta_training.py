"""meta-train: labelled images of several sources -> a checkpoint from which a few shots lead far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from cellkit.config import (
    ColourName,
    JsonValue,
    MetaMethodName,
    ModelSettings,
    OptimiserName,
    Preprocessing,
    ScheduleName,
    Spec,
)
from cellkit.data.episodes import Domain, load_domains
from cellkit.data.episodes_crops import TaskAugmentation
from cellkit.data.layouts import Pair
from cellkit.engine import Device, FitResult, FitSettings
from cellkit.errors import UsageError
from cellkit.io.images import digest_of_source
from cellkit.methods import META, Meta
from cellkit.methods.meta_settings import MetaSettings
from cellkit.methods.reptile import Reptile
from cellkit.provenance import Record
from cellkit.representations import REPRESENTATIONS, Representation
from cellkit.stages.meta_validation import HELD, HeldEpisodes
from cellkit.stages.pretraining import Recipe, Task, loading_of, targets_of, train


@dataclass(frozen=True, kw_only=True)
class MetaFit(FitSettings):
    """How meta weights move: all the way to the mean over sources (epsilon 1), whatever the step (Dawoud et al.).

    Raises:
        UsageError: clipping of gradients, which the meta-update has not.
    """

    steps: int = 300
    learning_rate: float = 1.0
    optimiser: OptimiserName = "sgd"
    weight_decay: float = 0.0
    momentum: float = 0.0
    schedule: ScheduleName = "constant"
    validate_every: int = 20
    save_every: int = 20
    log_every: int = 1

    def __post_init__(self) -> None:
        """See the class."""
        if self.clip is not None:
            raise UsageError("clip", "the meta-update is not clipped", "leave it out")


@dataclass(frozen=True, kw_only=True)
class MetaModel(ModelSettings):
    """Batch norms without scale and shift, which the paper leaves to fine-tuning (Dawoud et al., section 4.1)."""

    affine: bool = False


@dataclass(frozen=True, kw_only=True)
class MetaPreprocessing(Preprocessing):
    """One grey channel, at the size that images have (Dawoud et al., section 4.2)."""

    channels: int = 1
    colour: ColourName = "grey"


@dataclass(frozen=True, kw_only=True)
class MetaRecipe(Recipe):
    """Settings of meta-training.

    Attributes:
        model: what is trained.
        method: of learning to be tuned.
        shots: crops per task (K).
        meta: of tasks and loss.
        augmentation: of the crops.

    Raises:
        UsageError: noisy copies, of which the maps of such a model have no use.
    """

    model: MetaModel
    method: MetaMethodName = "reptile"
    shots: int = 5
    meta: MetaSettings = field(default_factory=MetaSettings)
    augmentation: TaskAugmentation = field(default_factory=TaskAugmentation)

    def __post_init__(self) -> None:
        """See the class."""
        if self.preprocessing.noise_copies:
            problem = "noisy copies are for models that learn without labels"
            raise UsageError("noise_copies", problem, "leave it out")

    @property
    def parts(self) -> tuple[Spec, ...]:
        """As of every recipe, what happens to crops, and the tasks."""
        return *super().parts, self.augmentation, self.meta

    @property
    def representation(self) -> Representation:
        """Targets and loss."""
        return REPRESENTATIONS[self.model.representation]


@dataclass(frozen=True, kw_only=True)
class MetaSource:
    """Labelled images of one kind.

    Attributes:
        name: as the user gave it.
        pairs: to learn from.
        held: that choose the best weights.
    """

    name: str
    pairs: Sequence[Pair]
    held: Sequence[Pair] = ()


def meta_train(
    sources: Sequence[MetaSource],
    recipe: MetaRecipe,
    device: Device,
    output: Path,
    *,
    overwrite: bool = False,
    quiet: bool = False,
) -> FitResult | None:
    """Meta-train a network on labelled images of several sources and write its checkpoint.

    Args:
        sources: two or more; held images of all or of none.
        recipe: all settings.
        device: where to train.
        output: the checkpoint to write; state, best weights and metrics lie beside it.
        overwrite: start anew although files of another run are there.
        quiet: no progress.

    Returns:
        How training ended, its best score minus a loss; or None: the output was there and up to date.

    Raises:
        UsageError: one source alone, fewer images than shots, other channels, or files of a run with other settings.
        NoInputError: a source without cells.
        ModelError: the network has not what the method asks of it.
        InterruptedRunError: SIGINT or SIGTERM after a clean save.
        LockedError: another run makes this checkpoint.
    """
    if device.precision == "fp16":
        raise UsageError("--precision", "fp16 is too coarse for steps without scaled losses", "use bf16 or fp32")

    def task(network: nn.Module) -> Task:
        method = _method(network, sources, recipe, device)
        card: dict[str, JsonValue] = {
            "sources": {source.name: len(source.pairs) for source in sources},
            "shots": recipe.shots,
        }
        return Task(method=method, validate=_validation(sources, recipe, device), score=HELD, card=card)

    return train(recipe, (_record(sources, recipe),), task, device, output, overwrite=overwrite, quiet=quiet)


def _method(network: nn.Module, sources: Sequence[MetaSource], recipe: MetaRecipe, device: Device) -> Reptile:
    """The network on its device, with the tasks that it learns from."""
    meta = Meta(
        network=network,
        representation=recipe.representation,
        sources=domains({source.name: source.pairs for source in sources}, recipe, device, shots=recipe.shots),
        settings=recipe.meta,
        shots=recipe.shots,
        seed=recipe.fit.seed,
    )
    return META[recipe.method](meta)


def domains(sources: dict[str, Sequence[Pair]], recipe: MetaRecipe, device: Device, *, shots: int) -> list[Domain]:
    """The images of all sources on the device, each source with as many as a task has shots."""
    return load_domains(
        sources,
        recipe.preprocessing,
        targets_of(recipe.representation),
        recipe.augmentation,
        shots=shots,
        loading=loading_of(device),
    )


def shared_images(target: Sequence[Pair], sources: Sequence[MetaSource]) -> dict[str, int]:
    """How many images of a target each source has too, by their bytes whatever they are called.

    Raises:
        InputError: an image cannot be read.
    """
    wanted = {digest_of_source(pair.image) for pair in target}
    counts = {
        source.name: len(wanted & {digest_of_source(pair.image) for pair in (*source.pairs, *source.held)})
        for source in sources
    }
    return {name: count for name, count in counts.items() if count}


def _record(sources: Sequence[MetaSource], recipe: MetaRecipe) -> Record:
    """What the history says: settings that shape the result, the sources, and a digest of the names of their images."""
    learn = [f"{source.name}: {pair.key} {pair.channels}" for source in sources for pair in source.pairs]
    held = [f"{source.name}: {pair.key} {pair.channels}" for source in sources for pair in source.held]
    record = recipe.record(learn, held)
    own: dict[str, JsonValue] = {
        "method": recipe.method,
        "shots": recipe.shots,
        "sources": [source.name for source in sources],
    }
    return replace(record, verb="meta-train", arguments=record.arguments | own)


def _validation(sources: Sequence[MetaSource], recipe: MetaRecipe, device: Device) -> HeldEpisodes | None:
    """Held-out tasks, of as few images as there are; None without any."""
    held = {f"{source.name} (held out)": source.held for source in sources if source.held}
    if not held:
        return None
    return HeldEpisodes(
        domains(held, recipe, device, shots=1),
        recipe.representation,
        recipe.meta,
        shots=recipe.shots,
        seed=recipe.fit.seed,
        device=device,
    )
