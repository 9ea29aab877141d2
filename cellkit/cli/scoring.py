"""What ``cellkit evaluate`` reads and prints."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cellkit import stages
from cellkit.cli.inputs import STREAM, label_images
from cellkit.cli.reporting import counted_images, progress
from cellkit.data.folders import frame_key, unmarked
from cellkit.data.layouts import LabelRef, find_truth, read_names
from cellkit.errors import GateError, NoInputError, OutputError, PartialError, UsageError
from cellkit.io.atomic import check_writable, written_whole
from cellkit.io.keys import key_of
from cellkit.io.labels import LabelImage
from cellkit.metrics import ImageReport, SetReport, canonical_name, find_metric, summarise

SHOWN_THRESHOLDS = ("0.5", "0.75", "0.9")  # of the ten; --json and --csv have all
NAMED = 5  # problems named in the closing error; the rest is counted


@dataclass(kw_only=True)
class Problems:
    """What kept images from being scored.

    Attributes:
        failures: pairs that could not be read or do not fit.
        unmatched: names that only one side has.
    """

    failures: list[stages.Failure] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)

    def check(self, subject: str, *, allow_missing: bool) -> None:
        """Raise when not every image was scored.

        Raises:
            PartialError: the others are reported.
        """
        texts = [str(failure.error) for failure in self.failures] + ([] if allow_missing else self.unmatched)
        if texts:
            more = f"; and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
            repair = None if allow_missing or not self.unmatched else "--allow-missing passes over missing names"
            problem = f"{counted_images(len(texts))} not scored: {'; '.join(texts[:NAMED])}{more}"
            raise PartialError(subject, problem, repair)


def parse_gates(texts: Sequence[str] | None) -> dict[str, float]:
    """``NAME=VALUE`` texts, checked before anything is scored.

    Raises:
        UsageError: no such metric, or no number.
    """
    gates = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        try:
            gate = float(value)
        except ValueError:
            gate = math.nan
        if math.isnan(gate):
            raise UsageError("--fail-under", f"'{text}' is no NAME=VALUE", "e.g. --fail-under f1@0.5=0.8")
        gates[canonical_name(name.strip())] = gate
    return gates


def check_outputs(csv_file: str | None, *, as_json: bool) -> None:
    """Refuse before any work what could not be written at its end.

    Raises:
        UsageError: two documents for one stdout, or a file that cannot be written.
    """
    if csv_file == STREAM and as_json:
        raise UsageError("--csv", "stdout carries the JSON already", "write the table into a file")
    if csv_file is not None and csv_file != STREAM:
        try:
            check_writable(Path(csv_file))
        except OutputError as error:
            raise UsageError(error.subject, error.problem, error.repair) from error


def score_all(
    truth: str, prediction: str, names: str | None, *, workers: int, quiet: bool
) -> tuple[SetReport, Problems]:
    """Scores of all pairs, and what was wrong.

    Raises:
        NoInputError: no pair could be scored.
        CellkitError: the only pair failed: its own error.
    """
    references = find_truth(truth)
    if names:
        references = _listed(references, names)
    problems = Problems()
    reports: list[ImageReport] = []
    predictions = _known(_named_alike(truth, prediction, references), references, problems, narrowed=names is not None)
    outcomes = stages.evaluate(references, predictions, workers=workers)
    for item in progress(outcomes, len(references), quiet):
        if isinstance(item, stages.Failure):
            problems.failures.append(item)
        else:
            reports.append(item)
    seen = {failure.key for failure in problems.failures} | {report.key for report in reports}
    problems.unmatched += [f"{key}: no prediction" for key in references if key not in seen]
    if not reports:
        raise _nothing(truth, prediction, problems)
    return summarise(reports), problems


def _nothing(truth: str, prediction: str, problems: Problems) -> Exception:
    """The error when nothing was scored."""
    if problems.failures:
        return problems.failures[0].error
    example = f", e.g. {problems.unmatched[0]}" if problems.unmatched else ""
    return NoInputError(f"{truth}, {prediction}", f"no pair to score{example}", "names must be equal but for suffixes")


def _named_alike(truth: str, prediction: str, references: dict[str, LabelRef]) -> Iterator[LabelImage | stages.Failure]:
    """Predictions by the names of the truth: one file against one file needs no common name."""
    alone = next(iter(references)) if len(references) == 1 and Path(truth).is_file() else None
    for item in label_images([prediction]):
        if alone is not None and Path(prediction).is_file():
            yield dataclasses.replace(item, key=alone)
            continue
        other = frame_key(item.key) or unmarked(item.key)
        yield item if item.key in references else dataclasses.replace(item, key=other)


def _known(
    items: Iterator[LabelImage | stages.Failure], references: dict[str, LabelRef], problems: Problems, *, narrowed: bool
) -> Iterator[LabelImage | stages.Failure]:
    """Predictions that have a truth; the others are a problem, unless names were chosen."""
    seen: set[str] = set()
    for item in items:
        if item.key in seen:
            raise UsageError(item.source, f"a second prediction of {item.key!r}", "give one prediction per image")
        failed = isinstance(item, stages.Failure)
        if item.key in references or (failed and not narrowed):
            seen.add(item.key)
            yield item
        elif not narrowed:
            problems.unmatched.append(f"{item.key}: a prediction without truth")


def _listed(references: dict[str, LabelRef], list_file: str) -> dict[str, LabelRef]:
    keys = dict.fromkeys(name if name in references else key_of(name) for name in read_names(list_file))
    missing = [key for key in keys if key not in references]
    if missing:
        raise UsageError(list_file, f"no truth named {missing[0]}", "names are file names, with or without suffix")
    return {key: references[key] for key in keys}


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
    if target == STREAM:
        sys.stdout.write(buffer.getvalue())
        return
    with written_whole(Path(target)) as path:
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
