"""What ``cellkit evaluate`` reads and prints."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cellkit import stages
from cellkit.cli.inputs import STREAM, label_images
from cellkit.data.layouts import LabelRef, find_truth, read_names
from cellkit.errors import GateError, NoInputError, PartialError, UsageError
from cellkit.io.atomic import written_whole
from cellkit.io.keys import key_of
from cellkit.io.labels import LabelImage
from cellkit.metrics import ImageReport, SetReport, canonical_name, find_metric, summarise

SHOWN_THRESHOLDS = ("0.5", "0.75", "0.9")  # of the ten; --json and --csv have all
NAMED = 5  # problems named in the closing error; the rest is counted


def parse_gates(texts: Sequence[str] | None) -> dict[str, float]:
    """``NAME=VALUE`` texts, checked before anything is scored."""
    gates = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        try:
            gates[canonical_name(name.strip())] = float(value)
        except ValueError:
            raise UsageError("--fail-under", f"'{text}' is no NAME=VALUE", "e.g. --fail-under f1@0.5=0.8") from None
    return gates


def score_all(
    truth: str, prediction: str, names: str | None, *, allow_missing: bool, workers: int
) -> tuple[SetReport, list[str]]:
    """Scores of all pairs, and what was wrong: failures, predictions without truth and the reverse."""
    references = find_truth(truth)
    if names:
        references = _listed(references, names)
    reports: list[ImageReport] = []
    problems: list[str] = []
    seen: set[str] = set()
    for item in stages.evaluate(
        references, _known(prediction, references, problems, names is not None), workers=workers
    ):
        if isinstance(item, stages.Failure):
            problems.append(str(item.error))
            seen.add(item.key)
        else:
            reports.append(item)
            seen.add(item.key)
    problems += [f"{key}: no prediction" for key in references if key not in seen]
    if not reports:
        subject = problems[0] if len(problems) == 1 else f"{truth}, {prediction}"
        raise NoInputError(subject, "no pair to score", "names must be equal but for the suffix")
    return summarise(reports), [] if allow_missing else problems


def _known(
    prediction: str, references: dict[str, LabelRef], problems: list[str], narrowed: bool
) -> Iterator[LabelImage | stages.Failure]:
    """Predictions that have a truth; the others are a problem, unless names were chosen."""
    for item in label_images([prediction]):
        if item.key in references or isinstance(item, stages.Failure):
            yield item
        elif not narrowed:
            problems.append(f"{item.key}: a prediction without truth")


def _listed(references: dict[str, LabelRef], list_file: str) -> dict[str, LabelRef]:
    keys = [key_of(name) for name in read_names(list_file)]
    missing = [key for key in keys if key not in references]
    if missing:
        raise UsageError(list_file, f"no truth named {missing[0]}", "names are file names without suffix")
    return {key: references[key] for key in keys}


def check(problems: Sequence[str], subject: str) -> None:
    """Raise when not every image was scored.

    Raises:
        PartialError: the others are reported.
    """
    if problems:
        shown = "; ".join(problems[:NAMED]) + (f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else "")
        raise PartialError(subject, f"{len(problems)} images not scored: {shown}", "--allow-missing ignores them")


def check_gates(report: SetReport, gates: dict[str, float]) -> None:
    """Raise when a score is below its gate; an undefined score is.

    Raises:
        GateError: naming each score that failed.
    """
    failed = [
        f"{name} is {find_metric(report, name):.4f}, below {gate:g}"
        for name, gate in gates.items()
        if not find_metric(report, name) >= gate
    ]
    if failed:
        raise GateError("--fail-under", "; ".join(failed))


def write_json(report: SetReport) -> None:
    """One JSON document on stdout; undefined values are null."""
    document = {
        "n_images": len(report.images),
        "mean": _plain(report.mean),
        "pooled": _plain(report.pooled),
        "defined": report.defined,
        "images": [{"image": image.key, **_plain(image.values)} for image in report.images],
    }
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def write_csv(report: SetReport, target: str) -> None:
    """One row per image, to a file (whole or not at all) or stdout."""
    buffer = io.StringIO()
    rows = csv.DictWriter(buffer, ["image", *report.mean], lineterminator="\n")
    rows.writeheader()
    for image in report.images:
        rows.writerow({"image": image.key} | {n: "" if math.isnan(v) else repr(v) for n, v in image.values.items()})
    with contextlib.ExitStack() as stack:
        if target == STREAM:
            sys.stdout.write(buffer.getvalue())
        else:
            path = stack.enter_context(written_whole(Path(target)))
            path.write_text(buffer.getvalue(), encoding="utf-8")


def write_table(report: SetReport) -> None:
    """Mean over images and value over the set, for people."""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{len(report.images)} images", no_wrap=True)
    table.add_column("mean", justify="right")
    table.add_column("pooled", justify="right")
    for name in report.mean:
        threshold = name.partition("@")[2]
        if not threshold or threshold in SHOWN_THRESHOLDS:
            table.add_row(name, _show(report.mean[name]), _show(report.pooled[name]))
    Console(file=sys.stdout, width=100).print(table)


def _show(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if value == int(value) and value > 1 else f"{value:.4f}"
