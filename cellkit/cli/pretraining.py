"""What ``cellkit pretrain`` does by each of its methods, which have images of different kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cellkit.cli import training
from cellkit.cli.finetune_choices import Place
from cellkit.cli.training import Choices
from cellkit.config import PretrainMethodName


@dataclass(frozen=True)
class Images:
    """Which images there are; as the options of the same names."""

    data: Sequence[str]
    labelled: Sequence[str] | None
    channels: str | None
    names: str | None
    val: str | None
    pairs: str | None


def begin(
    method: PretrainMethodName,
    images: Images,
    choices: Choices,
    lr: float | None,
    object_size: str | None,
    settings: Sequence[str] | None,
    place: Place,
) -> None:
    """Train, or show what would be learned from.

    Args:
        method: of learning.
        images: that there are.
        choices: how is learned.
        lr: the learning rate, None where nobody chose one.
        object_size: as the option, for oce.
        settings: texts of ``--set``.
        place: where, and what is written.

    Raises:
        UsageError: options that cannot be meant, together or at all.
        NoInputError: there is no image of a kind that is needed.
    """
    if method == "oce":
        return _without_labels(images, choices, object_size, settings, place)
    training.refuse_object_size(object_size, method)
    if method in ("moco", "cupre"):
        from cellkit.cli import cupre

        return cupre.begin(method, images, choices, lr, settings, place)
    return _with_labels(method, images, choices, lr, settings, place)


def _without_labels(
    images: Images, choices: Choices, object_size: str | None, settings: Sequence[str] | None, place: Place
) -> None:
    from cellkit.cli import unlabelled

    bare = unlabelled.recipe(settings, choices, object_size)
    useless = {"names": images.names, "val": images.val, "pairs": images.pairs}
    found = unlabelled.sources(images.data, images.channels, **useless)
    if place.dry_run:
        return unlabelled.show(place.output, found)
    path = training.checkpoint_path(place.output, resume=place.resume, on_exists=place.on_exists)
    whole = unlabelled.sized(bare, found)
    overwrite = place.on_exists == "overwrite"
    return unlabelled.run(found, whole, place.device, path, overwrite=overwrite, quiet=place.quiet)


def _with_labels(
    method: PretrainMethodName,
    images: Images,
    choices: Choices,
    lr: float | None,
    settings: Sequence[str] | None,
    place: Place,
) -> None:
    if method == "detection":
        from cellkit.cli import pretrain_detection

        recipe: training.LabelledRecipe = pretrain_detection.recipe(settings, choices, lr)
    else:
        recipe = training.recipe(settings, choices)
    of_images = {"names": images.names, "val": images.val, "pairs": images.pairs, "channels": images.channels}
    learn, held = training.datasets(images.data, **of_images, seed=choices.seed)
    if place.dry_run:
        return training.show_datasets(place.output, learn, held)
    ways = {"resume": place.resume, "quiet": place.quiet}
    return training.run(learn, held, recipe, place.device, place.output, on_exists=place.on_exists, **ways)
