"""What a training run keeps beside its checkpoint, and how a run knows its own files again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from cellkit.engine import RunFiles, distributed
from cellkit.errors import UsageError
from cellkit.io.atomic import lock_file
from cellkit.io.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from cellkit.provenance import History, Record


@dataclass(frozen=True, kw_only=True)
class TrainingFiles:
    """Where a training run keeps what it makes: all beside the checkpoint that it is for."""

    output: Path

    @property
    def last(self) -> Path:
        """The state to resume from."""
        return self.output.with_name(self.output.stem + ".last.ckpt")

    @property
    def best(self) -> Path:
        """The best weights so far; becomes the output at the end."""
        return self.output.with_name(self.output.stem + ".best.ckpt")

    @property
    def metrics(self) -> Path:
        """Losses and scores by step."""
        return self.output.with_name(self.output.stem + ".metrics.csv")

    @property
    def run(self) -> RunFiles:
        """As the training loop takes them."""
        return RunFiles(last=self.last, best=self.best, metrics=self.metrics)

    def claimed(self) -> AbstractContextManager[None]:
        """Inside, no other run makes this checkpoint; of several processes of one run the first sees to that.

        Raises:
            LockedError: another run makes it.
            OutputError: its folder cannot be written in.
        """
        return lock_file(self.output) if distributed.is_main() else nullcontext()

    def is_done(self, history: History) -> bool:
        """Whether the output is there and up to date.

        Raises:
            UsageError: it was made by other settings.
            ModelError: it is no checkpoint.
        """
        if not self.output.exists():
            return False
        if load_checkpoint(self.output).history == history:
            return True
        problem = "exists and was made by other settings"
        raise UsageError(self.output, problem, "use --on-exists overwrite, or another -o")

    def state(self, history: History) -> dict[str, Any] | None:
        """The state to resume from, if a run with the same settings left one.

        Raises:
            UsageError: a run with other settings left it.
        """
        if not self.last.exists():
            return None
        checkpoint = load_checkpoint(self.last, training=True)
        if _without_steps(checkpoint.history) != _without_steps(history):
            problem = "belongs to a run with other settings"
            raise UsageError(self.last, problem, "use --on-exists overwrite, or another -o")
        return checkpoint.training

    def finished(self) -> Path:
        """The best weights (without validation: the last) of a run that came to its end.

        Raises:
            UsageError: they became the output of an earlier run, and that was removed.
        """
        if not self.best.exists():
            raise UsageError(self.last, "is of a finished run, whose weights are gone", "use --on-exists overwrite")
        return self.best


def _without_steps(history: History) -> list[Record]:
    """A run may be made longer, so the number of steps does not tell runs apart."""
    return [replace(r, arguments={name: v for name, v in r.arguments.items() if name != "steps"}) for r in history]


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Writes the checkpoints of one run: all but weights and state is the same in each.

    Attributes:
        model: specifications, history and what else travels in the checkpoint.
        half: 16-bit weights, where nothing is resumed from them.
        split: state of the trained modules -> (weights of the network, what was trained beside it).
    """

    model: Checkpoint
    half: bool = False
    split: Callable[[dict[str, Tensor]], tuple[dict[str, Tensor], dict[str, Tensor]]] | None = None

    def save(self, path: Path, weights: dict[str, Tensor], training: dict[str, Any] | None) -> None:
        """As :func:`cellkit.engine.training.fit` wants it: whole or not at all."""
        own, extra = self.split(weights) if self.split else (weights, {})
        checkpoint = replace(self.model, weights=own, extra=extra, training=training)
        save_checkpoint(path, checkpoint, half=self.half and training is None)
