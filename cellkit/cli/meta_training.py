"""What ``cellkit meta-train`` does: its recipe, its sources, the run and its closing words."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cellkit.cli import reporting, running, training
from cellkit.cli.listing import DECODING, META_OPTIONS
from cellkit.cli.settings import apply, assignments, names_of
from cellkit.config import (
    NO_SETTINGS,
    WIDTHS,
    JsonValue,
    MetaMethodName,
    NetworkName,
    RepresentationName,
    Settings,
    Spec,
)
from cellkit.data.episodes_crops import TaskAugmentation
from cellkit.data.layouts import find_pairs
from cellkit.engine import distributed
from cellkit.errors import UsageError
from cellkit.methods.meta_settings import MetaSettings
from cellkit.representations import REPRESENTATIONS
from cellkit.stages.meta_training import (
    MetaFit,
    MetaModel,
    MetaPreprocessing,
    MetaRecipe,
    MetaSource,
    meta_train,
    shared_images,
)
from cellkit.stages.model import decode_settings

log = logging.getLogger(__name__)

KINDS: tuple[type[Spec], ...] = (MetaModel, MetaPreprocessing, TaskAugmentation, MetaSettings, MetaFit, *DECODING)
USELESS = ("styles", "clip")  # settings of other ways of training
GRADIENT: Settings = {"optimiser": "adam"}  # of methods whose meta-update is a gradient, where nobody chose another
GRADIENT_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Choices:
    """Settings of meta-training that are options of their own."""

    network: NetworkName
    representation: RepresentationName
    method: MetaMethodName
    shots: int
    episodes: int
    lr: float | None
    diameter: float | None
    seed: int


def recipe(texts: Sequence[str] | None, choices: Choices) -> MetaRecipe:
    """All settings of a meta-training from its options and ``--set`` texts.

    Raises:
        UsageError: a setting that cannot be meant.
    """
    training.refuse_detector(choices.network, choices.representation, choices.method, "choose another")
    values = assignments(texts, KINDS, META_OPTIONS)
    for name in USELESS:
        if name in values:
            raise UsageError("--set", f"'{name}' means nothing in meta-training", "leave it out")
    decoding = {name: value for name, value in values.items() if name in names_of(*DECODING)}
    decode_settings(REPRESENTATIONS[choices.representation], NO_SETTINGS, decoding)  # checks them
    widths: dict[str, JsonValue] = {"widths": list(WIDTHS[choices.network])}
    gradient = choices.method != "reptile"
    rate = GRADIENT_RATE if choices.lr is None and gradient else choices.lr
    fit = dict(GRADIENT if gradient else NO_SETTINGS) | values
    return MetaRecipe(
        model=apply(MetaModel, widths | values, network=choices.network, representation=choices.representation),
        preprocessing=apply(MetaPreprocessing, values, diameter=choices.diameter),
        fit=apply(MetaFit, fit, steps=choices.episodes, learning_rate=rate, seed=choices.seed),
        decoding=decoding,
        method=choices.method,
        shots=choices.shots,
        meta=apply(MetaSettings, values),
        augmentation=apply(TaskAugmentation, values),
    )


def find_sources(roots: Sequence[str], *, val: float | None, channels: str | None, seed: int) -> list[MetaSource]:
    """The images of each source, those held out apart.

    Raises:
        UsageError: a source is named twice, or has too few images to hold some out.
        NoInputError: no layout is recognised, or no image has an annotation.
    """
    twice = next((root for root, count in Counter(roots).items() if count > 1), None)
    if twice is not None:
        raise UsageError(twice, "is named twice", "name each source once")
    last = Counter(Path(root).name for root in roots)
    held = None if not val else str(val)
    sources = []
    for root in roots:
        name = Path(root).name if last[Path(root).name] == 1 else root
        try:
            learn, kept = training.datasets([root], names=None, val=held, pairs=None, channels=channels, seed=seed)
        except UsageError as error:
            raise UsageError(f"{name}, --val", error.problem, error.repair) from error
        sources.append(MetaSource(name=name, pairs=learn.pairs, held=kept.pairs))
    return sources


def warn_of_targets(targets: Sequence[str] | None, sources: Sequence[MetaSource]) -> None:
    """Say it where images that the model is for are images that it learns from."""
    for target in targets or ():
        for name, count in shared_images(find_pairs(target).pairs, sources).items():
            words = "%s: %s of it in the source %s: what is scored on them says nothing about new images"
            log.warning(words, target, reporting.counted_images(count), name)


def show(output: str, sources: Sequence[MetaSource]) -> None:
    """Print the images of each source; nothing is trained."""
    for source in sources:
        for part, pairs in (("learn", source.pairs), ("validate", source.held)):
            sys.stdout.write(f"{source.name}\t{part}\t{reporting.counted_images(len(pairs))}\n")
            for pair in pairs:
                sys.stdout.write(f"{source.name}\t{part}\t{pair.key}\t{pair.image}\t{pair.labels.name}\n")
    sys.stdout.write(f"-> {output}\n")


def run(
    sources: Sequence[MetaSource],
    chosen: MetaRecipe,
    device: tuple[str, str],
    path: Path,
    *,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Train, write, and say how it ended."""
    for source in sources:
        learn, held = reporting.counted_images(len(source.pairs)), len(source.held)
        log.info("%s: %s to learn from, %d held out", source.name, learn, held)
    result = meta_train(sources, chosen, running.open_device(*device), path, overwrite=overwrite, quiet=quiet)
    if not distributed.is_main():
        return
    if result is None:
        reporting.notice(f"{path} is up to date")
        return
    loss = "" if result.best_score is None else f", loss after tuning to held-out images {-result.best_score:.4f}"
    reporting.notice(f"{path} {training.how_it_ended(result)}: {result.steps} episodes{loss}")
