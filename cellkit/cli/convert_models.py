"""``cellkit convert`` of a checkpoint of others: the model, and a table of what became of each weight."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path, PurePath

from cellkit.cli import places, reporting
from cellkit.config import OnExists
from cellkit.errors import OutputError, UsageError
from cellkit.io.atomic import check_writable
from cellkit.io.checkpoints import SUFFIX, save_checkpoint
from cellkit.io.foreign_weights import SUFFIXES
from cellkit.io.histories import stored_history
from cellkit.io.sink_base import is_up_to_date
from cellkit.stages.converting_models import Row, convert_weights

HEAD = ("status", "name", "note")


def is_meant(source: str, output: str) -> bool:
    """Whether weights shall become a model, by the names of either.

    Raises:
        UsageError: weights shall become something else.
    """
    model, weights = output.lower().endswith(SUFFIX), PurePath(source).suffix.lower() in SUFFIXES
    if weights and not model:
        raise UsageError(output, f"{source} holds weights, which become a model", f"name it FILE{SUFFIX}")
    return model


def check_options(options: Iterable[tuple[str, object]]) -> None:
    """Refuse what is for labels alone.

    Raises:
        UsageError: such an option was given.
    """
    for option, value in options:
        if value is not None:
            raise UsageError(option, "is for labels, not for weights", "leave it out")


def convert(source: str, output: str, on_exists: OnExists, seed: int, *, as_json: bool) -> None:
    """Make a model of a file of weights, and say what became of them on stdout.

    Raises:
        ModelError: as :func:`cellkit.stages.converting_models.convert_weights`.
        UsageError: the output is there and may not be overwritten, or cannot be written.
    """
    path = Path(output)
    places.protect(path, {Path(source).resolve()})
    try:
        check_writable(path)
    except OutputError as error:
        raise UsageError(error.subject, error.problem, error.repair) from error
    if path.exists() and on_exists == "error":
        is_up_to_date(path, None, (), on_exists)
    found = convert_weights(Path(source), seed=seed)
    if path.exists() and is_up_to_date(path, stored_history(path), found.checkpoint.history, on_exists):
        reporting.notice(f"{output}: up to date")
        return
    save_checkpoint(path, found.checkpoint)
    _write(found.rows(), as_json=as_json)
    reporting.notice(found.summary)
    limits = found.checkpoint.card.get("limits")
    if limits:
        reporting.notice(f"{output}: {limits}")


def _write(rows: list[Row], *, as_json: bool) -> None:
    """A table with tabs, or a JSON object a line, as each weight."""
    lines = (
        [json.dumps(vars(row)) for row in rows] if as_json else ["\t".join((r.status, r.name, r.note)) for r in rows]
    )
    head = [] if as_json else ["\t".join(HEAD)]
    sys.stdout.write("\n".join([*head, *lines]) + "\n")
