"""What a run did: losses as they pass by, and the metrics file that keeps them."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cellkit.engine.optimisers import total_of
from cellkit.errors import TrainingError
from cellkit.io.atomic import output_error, written_whole

TOTAL = "loss"
STEP = "step"


class LossRecord:
    """Losses of the steps since they were last read; they stay on the device, so that no step waits for them."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, tuple[str, ...]]] = []
        self._values: list[Tensor] = []

    def add(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Note the terms of a step (counted from 1)."""
        terms = [total_of(losses), *losses.values()]
        self._steps.append((step, (TOTAL, *losses)))
        self._values.append(torch.stack([term.detach().float().reshape(()) for term in terms]))

    def read(self) -> dict[str, float]:
        """Mean of each term, and of their sum ``loss``, over the steps since the last call.

        Raises:
            TrainingError: one of them is not finite; says which, in which step.
        """
        values = iter(torch.cat(self._values).tolist() if self._values else [])
        sums: dict[str, list[float]] = {}
        for step, names in self._steps:
            terms = {name: next(values) for name in names}
            _check_finite(step, terms)
            for name, value in terms.items():
                sums.setdefault(name, []).append(value)
        self._steps, self._values = [], []
        return {name: math.fsum(all_values) / len(all_values) for name, all_values in sums.items()}


def check_weights(weights: Mapping[str, Tensor], step: int) -> None:
    """Refuse weights that must not be saved.

    Raises:
        TrainingError: some are not finite; names them.
    """
    floating = {name: t for name, t in weights.items() if t.is_floating_point() and t.numel()}
    if not floating:
        return
    # The sum of magnitudes is finite exactly when every entry is (up to overflow of float64).
    sums = torch.stack([t.detach().abs().sum(dtype=torch.float64) for t in floating.values()])
    bad = [name for name, finite in zip(floating, sums.isfinite().tolist(), strict=True) if not finite]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise TrainingError(
            f"step {step}", f"weights are not finite: {', '.join(bad[:3])}{more}", "lower the learning rate"
        )


class MetricsFile:
    """``metrics.csv``: a row per reading, written through at once; a column per loss and score.

    Args:
        path: the file.
        last_step: of the state that the run goes on from: later rows are dropped; None: a new file.

    Raises:
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path, last_step: int | None = None) -> None:
        self.path = path
        rows = [] if last_step is None else _read_rows(path)
        kept = [row for row in rows if int(row[STEP]) <= (last_step or 0)]
        self._columns: list[str] = list(kept[0]) if kept else []
        self._rewrite(kept)

    def append(self, row: Mapping[str, float]) -> None:
        """Write a row; a value without a column gets a column that is empty in earlier rows."""
        missing = [name for name in row if name not in self._columns]
        if missing:
            rows = _read_rows(self.path)
            self._columns += missing
            self._rewrite(rows)
        self._write([_formatted(row)])

    def _rewrite(self, rows: Sequence[Mapping[str, str]]) -> None:
        with written_whole(self.path) as temporary:
            if self._columns:
                _write_rows(temporary, self._columns, rows, header=True)

    def _write(self, rows: Sequence[Mapping[str, str]]) -> None:
        try:
            _write_rows(self.path, self._columns, rows, header=False)
        except OSError as error:
            raise output_error(self.path, error) from error


def _write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]], *, header: bool) -> None:
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)


def _read_rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a metrics file; one that was cut by a kill is left out."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        text = file.read()
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    return [row for row in rows if None not in row.values() and row.get(STEP, "").isdecimal()]


def _formatted(row: Mapping[str, float]) -> dict[str, str]:
    return {name: str(value) if isinstance(value, int) else f"{value:.6g}" for name, value in row.items()}


def _check_finite(step: int, terms: Mapping[str, float]) -> None:
    if all(math.isfinite(value) for value in terms.values()):
        return
    words = ", ".join(f"{name} {value:.4g}" for name, value in terms.items() if name != TOTAL)
    raise TrainingError(f"step {step}", f"a loss is not finite: {words}", "lower the learning rate or clip gradients")
