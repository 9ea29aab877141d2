"""Whether fine-tuning helped: scores before and after on images that it did not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from cellkit.config import JsonValue
from cellkit.data.layouts import Pair
from cellkit.data.splits import draw_shots
from cellkit.io.checkpoints import Checkpoint
from cellkit.stages.training_files import TrainingFiles
from cellkit.stages.tuning import CHOICE, Tuner

Kind: TypeAlias = Literal["held", "left out", "shots"]


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What is checked before the output is written.

    Attributes:
        leave_one_out: each shot is left out once, and tuning repeated without it.
        keep_better: where the base was better, it is the output, at the diameter of the shots.
    """

    leave_one_out: bool = False
    keep_better: bool = False


@dataclass(frozen=True, kw_only=True)
class Check:
    """What tuning did.

    Attributes:
        kind: to which images: ``held`` (given for this), ``left out`` (each shot in turn), or, for want of others,
            ``shots`` (learned from: no proof).
        images: how many.
        before: mean scores of the base, at the diameter of the shots.
        after: mean scores of the tuned model.
        choice: the score that says whether tuning helped.
    """

    kind: Kind
    images: int
    before: dict[str, float]
    after: dict[str, float]
    choice: str = CHOICE

    @property
    def is_worse(self) -> bool:
        """Whether the base was better."""
        return self.after[self.choice] < self.before[self.choice]

    def to_dict(self) -> dict[str, JsonValue]:
        """For the model card."""
        return {"kind": self.kind, "images": self.images, "before": dict(self.before), "after": dict(self.after)}


def check(tuner: Tuner, tuned: Checkpoint, files: TrainingFiles, guard: Guard, *, overwrite: bool) -> Check | None:
    """Scores before and after on held images; else by leaving out shots, where asked for; else None.

    With one shot there is none to leave out: it is scored itself, which proves little.

    Args:
        tuner: of the run.
        tuned: trained on all shots.
        files: of the run; those of the rounds lie beside them.
        guard: what is asked for.
        overwrite: rounds of an earlier run do not count.
    """
    material = tuner.material
    if material.held:
        return _compared(tuner, tuned, material.held, "held")
    if not (guard.leave_one_out or guard.keep_better):
        return None
    if len(material.shots) == 1:
        return _compared(tuner, tuned, material.shots, "shots")
    return _left_out(tuner, files, overwrite=overwrite)


def _compared(tuner: Tuner, tuned: Checkpoint, pairs: Sequence[Pair], kind: Kind) -> Check:
    before, after = (tuner.scores(model, pairs) for model in (tuner.untuned(), tuned))
    return Check(kind=kind, images=len(pairs), before=before, after=after, choice=tuner.choice)


def _left_out(tuner: Tuner, files: TrainingFiles, *, overwrite: bool) -> Check:
    """Means over rounds; in each a shot is left out and scored."""
    shots = {pair.key: pair for pair in tuner.material.shots}
    rounds = min(len(shots), max(1, tuner.recipe.tuning.rounds))
    checks: list[Check] = []
    for key in draw_shots(list(shots), rounds, tuner.recipe.fit.seed):
        kept = [pair for pair in tuner.material.shots if pair.key != key]
        if all(tuner.diameters[pair.key] is None for pair in kept):
            continue  # nothing to learn from without this one
        own = round_files(files, key)
        tuner.train(kept, own, tuner.history(without=key), overwrite=overwrite)
        checks.append(_compared(tuner, tuner.tuned(kept, own), [shots[key]], "left out"))
    return Check(
        kind="left out",
        images=len(checks),
        before=_mean([one.before for one in checks]),
        after=_mean([one.after for one in checks]),
        choice=tuner.choice,
    )


def _mean(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(one[name] for one in scores) / len(scores) for name in scores[0]}


def round_files(files: TrainingFiles, key: str) -> TrainingFiles:
    """Files of the round that leaves out a shot, beside those of the run."""
    return TrainingFiles(output=files.output.with_name(f"{files.output.stem}.without-{key}.ckpt"))


def remove_rounds(tuner: Tuner, files: TrainingFiles) -> None:
    """Remove what the rounds left."""
    for pair in tuner.material.shots:
        own = round_files(files, pair.key)
        for path in (own.last, own.best, own.metrics):
            Path(path).unlink(missing_ok=True)
