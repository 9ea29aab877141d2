"""adapt: labelled images of a source and images of a target without labels -> a checkpoint for the target.

As the paper (CULPICO, Methods): images between their least and greatest value, crops that are flipped and not turned,
the weights with the smallest loss on images of the source that were held out, one in four; Adam at 1e-3 throughout, as
the authors' code. The paper has 400 epochs of 16 crops of 272x352; here a number of steps, 8 crops of 256x256 and a
validation every 50 steps, all of them settings. Beyond its border an image is mirrored: no crop shows the constant
frame of those that the authors' code turns.

Left open by the paper, and our choice: which images of the target are learned from (all that are given, none of them
with its labels); how large the cells of the target are (as they are, unless their diameter is given).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cellkit.config import JsonValue, RepresentationSpec
from cellkit.data.augment import Augmentation
from cellkit.data.layouts import Pair
from cellkit.data.loading import Share
from cellkit.data.training import TrainingSet
from cellkit.data.unlabelled import UnlabelledSet
from cellkit.engine import Device, FitResult, distributed, fit, set_seed
from cellkit.errors import NoInputError, UsageError
from cellkit.io.checkpoints import Checkpoint, load_checkpoint, model_path, save_checkpoint
from cellkit.io.images import ReadOptions
from cellkit.io.sources import Source
from cellkit.methods import ADAPT
from cellkit.methods.adaptation import Adaptation, AdaptMethod
from cellkit.provenance import History, Record, digest_of
from cellkit.stages.adapt_monitor import Monitor, labelled_images, unlabelled_images
from cellkit.stages.adapt_networks import Beginning, Deployed
from cellkit.stages.adapt_pictures import Pictures
from cellkit.stages.adapt_recipe import AdaptRecipe
from cellkit.stages.adapt_validation import AdaptValidation, HeldLoss, held_batches
from cellkit.stages.model import decode_settings
from cellkit.stages.pretraining import loading_of, network_spec, training_set
from cellkit.stages.training_files import TrainingFiles, Writer


@dataclass(frozen=True, kw_only=True)
class Domains:
    """The images of one adaptation.

    Attributes:
        source: as the user named it.
        pairs: labelled images of the source to learn from.
        held: labelled images of the source that choose the best weights; none: the last weights are taken.
        target: as the user named it; for ``target-only`` its labelled images are the source.
        images: of the target, of which no label is read; there may be none for a method that learns nothing of them.
    """

    source: str
    pairs: Sequence[Pair]
    held: Sequence[Pair] = ()
    target: str = ""
    images: Sequence[Source] = ()


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is watched and changes nothing.

    Attributes:
        pairs: labelled images of the target that are scored at each validation.
        pictures: folder for pictures of some of them, or of images of the target; None: no pictures.
    """

    pairs: Sequence[Pair] = ()
    pictures: Path | None = None


NOTHING = Watch()


def adapt(
    domains: Domains,
    recipe: AdaptRecipe,
    device: Device,
    output: Path,
    *,
    watch: Watch = NOTHING,
    overwrite: bool = False,
    quiet: bool = False,
) -> FitResult | None:
    """Adapt a network to images without labels and write its checkpoint; a run that was interrupted goes on.

    Args:
        domains: the images.
        recipe: all settings.
        device: where to train.
        output: the checkpoint to write; state, best weights and metrics lie beside it.
        watch: what is logged and drawn beside.
        overwrite: start anew although files of another run are there.
        quiet: no progress.

    Returns:
        How training ended, its best score minus the loss on held-out images; or None: the output was there and up to
        date.

    Raises:
        NoInputError: no image of the target, or none that shows anything; no labelled cell in the source.
        UsageError: files of a run with other settings are there; the batch cannot be shared by the processes.
        InputError: an image or its labels cannot be read.
        ModelError: the base cannot be used.
        InterruptedRunError: SIGINT or SIGTERM after a clean save.
        LockedError: another run makes this checkpoint.
    """
    Share(recipe.model.batch, distributed.rank(), distributed.world_size())  # refused before anything is read
    init = recipe.model.init
    base = None if init is None else load_checkpoint(model_path(init))
    history = (*(() if base is None else base.history), _record(domains, recipe))
    files = TrainingFiles(output=output)
    with files.claimed():
        if not overwrite and files.is_done(history):
            return None
        resume = None if overwrite else files.state(history)
        set_seed(recipe.fit.seed)
        run = _Run(domains, recipe, device, base)
        validate = run.validation(watch, resume)
        result = fit(
            run.method,
            recipe.fit,
            device,
            files=files.run,
            save=Writer(model=run.checkpoint(history), half=recipe.model.half, split=run.method.split).save,
            resume=resume,
            validate=validate,
            score=None if validate is None else validate.score,
            quiet=quiet,
        )
        if result.finished and distributed.is_main():
            save_checkpoint(output, load_checkpoint(files.finished()), half=recipe.model.half)
            files.best.unlink()
        return result if domains.held else replace(result, best_score=None)


class _Run:
    """One recipe on one pair of domains, its images read and its networks made.

    Attributes:
        method: what is trained.
    """

    def __init__(self, domains: Domains, recipe: AdaptRecipe, device: Device, base: Checkpoint | None) -> None:
        self.domains, self.recipe, self.device, self.base = domains, recipe, device, base
        self.spec = network_spec(recipe)
        self.settings = decode_settings(recipe.representation, recipe.decoding)
        self.source = self._labelled(domains.pairs)
        if not any(len(scene.centres) for scene in self.source.scenes):
            raise NoInputError(domains.source, "no image shows a labelled cell", "outline some cells first")
        self.target = self._unlabelled()
        beginning = Beginning(
            spec=self.spec,
            device=device,
            seed=recipe.fit.seed,
            kaiming=recipe.model.kaiming,
            base=base,
            name=recipe.model.init or "",
        )
        self.method: AdaptMethod = ADAPT[recipe.method](
            Adaptation(
                network=beginning.network(),
                another=beginning.network,
                representation=recipe.representation,
                decoding=self.settings,
                source=self.source,
                target=self.target,
                settings=recipe.adapt,
                batch=recipe.model.batch,
                steps=recipe.fit.steps,
                seed=recipe.fit.seed,
            )
        )

    def _labelled(self, pairs: Sequence[Pair], augmentation: Augmentation | None = None) -> TrainingSet:
        recipe = self.recipe
        chosen = augmentation or recipe.augmentation
        return training_set(pairs, recipe.preprocessing, recipe.representation, chosen, self.device)

    def _unlabelled(self) -> UnlabelledSet:
        """Images of the target; for a bound without a target, which learns nothing of one, those of the source.

        Raises:
            UsageError: the bound measures images of a target that is not there.
        """
        images = self.domains.images
        if not images and self.recipe.adapt.bound_statistics == "target":
            problem = "bound_statistics=target measures images of the target"
            raise UsageError("--target", problem, "add --target DIR")
        if not images:
            images = [
                Source(key=pair.key, path=pair.image, options=ReadOptions(channels=pair.channels))
                for pair in self.domains.pairs
            ]
        return UnlabelledSet(images, self.recipe.preprocessing, self.recipe.deformation, loading_of(self.device))

    def checkpoint(self, history: History) -> Checkpoint:
        """What is the same in every checkpoint of the run."""
        recipe = self.recipe
        return Checkpoint(
            network=replace(self.spec, members=self.method.members),
            representation=RepresentationSpec(name=recipe.model.representation, settings=recipe.decoding),
            preprocessing=recipe.preprocessing,
            weights={},
            history=history,
            card=_card(self.domains, recipe, self.base),
            contrast={} if self.base is None else dict(self.base.contrast),
        )

    def validation(self, watch: Watch, resume: dict[str, Any] | None) -> AdaptValidation | None:
        """What chooses the best weights, and what is watched beside; None without either."""
        if not distributed.is_main():
            return None
        held = self._held() if self.domains.held else None
        monitor = self._monitor(watch, 0 if resume is None else int(resume["step"]))
        if held is None and monitor is None:
            return None
        deployed = Deployed(self.spec, self.recipe.representation, self.method, self.device)
        done = 0
        if resume is not None:
            done = int(resume["best"] or 0) if held is None else resume["step"] // self.recipe.fit.validate_every
        return AdaptValidation(deployed, held, monitor, done)

    def _held(self) -> HeldLoss:
        """Loss on held-out images: crops as in training, but for what happens to their intensities."""
        recipe = self.recipe
        plain = replace(recipe.augmentation, probability=0.0, invert=0.0, shuffle=0.0, grey=0.0, foreground=0)
        batches = held_batches(self._labelled(self.domains.held, plain), recipe.model.batch, recipe.fit.seed)
        return HeldLoss(batches, recipe.representation, self.device)

    def _monitor(self, watch: Watch, done: int) -> Monitor | None:
        fitting, pictures = self.recipe.fit, None
        if watch.pictures is not None:
            pictures = Pictures(watch.pictures, every=fitting.validate_every, steps=fitting.steps, done=done)
        images = labelled_images(watch.pairs, self.recipe.preprocessing)
        if pictures is not None and not images:
            images = unlabelled_images(self.target, pictures.count)
        if not images:
            return None
        return Monitor(images, self.recipe.representation, self.settings, self.device, pictures)


def _record(domains: Domains, recipe: AdaptRecipe) -> Record:
    """What the history says: settings that shape the result, the base, and a digest of the names of all images."""
    learn, held = ([f"{pair.key} {pair.channels}" for pair in part] for part in (domains.pairs, domains.held))
    record, base = recipe.record(learn, held), recipe.model.init
    own: dict[str, JsonValue] = {
        "method": recipe.method,
        "source": domains.source,
        "target": domains.target,
        "target_images": len(domains.images),
    }
    names = "\n".join(f"{source.key} {source.options.channels}" for source in domains.images)
    return replace(
        record,
        verb="adapt",
        arguments={n: value for n, value in record.arguments.items() if n not in {"init", *recipe.idle}} | own,
        model=base,
        model_digest=None if base is None else digest_of(model_path(base)),
        input_digest=digest_of(f"{record.input_digest}\n{names}".encode()),
    )


def _card(domains: Domains, recipe: AdaptRecipe, base: Checkpoint | None) -> dict[str, JsonValue]:
    """What ``info`` tells of an adapted model."""
    card: dict[str, JsonValue] = {
        "method": recipe.method,
        "source": {"name": domains.source, "images": len(domains.pairs), "held out": len(domains.held)},
        "target": {"name": domains.target, "images": len(domains.images)},
    }
    if base is not None:
        card |= {"base": recipe.model.init}
    return card | ({"card of the base": dict(base.card)} if base is not None and base.card else {})
