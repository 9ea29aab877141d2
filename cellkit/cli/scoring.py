"""What ``cellkit evaluate`` reads: gates, settings, and pairs of truth and prediction by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from cellkit import stages
from cellkit.cli.inputs import STREAM, predicted_objects
from cellkit.cli.reporting import counted_images, progress
from cellkit.data.coco import CocoLabels
from cellkit.data.folders import frame_key, unmarked
from cellkit.data.layouts import LabelRef, find_images, find_truth, read_names
from cellkit.data.predicted import category_numbers, find_predicted
from cellkit.data.predicted_objects import HeldObjects
from cellkit.errors import GateError, NoInputError, OutputError, PartialError, UsageError
from cellkit.io.atomic import check_writable
from cellkit.io.images import ReadOptions
from cellkit.io.keys import key_of, split_dataset
from cellkit.io.labels import LabelImage
from cellkit.io.sources import find_sources
from cellkit.metrics import SetReport, canonical_name, find_metric
from cellkit.metrics.coco import CocoSettings, coco_names, parse_areas
from cellkit.stages.scoring import KINDS, Reference, Scored, ScoreSettings, set_report

Prediction: TypeAlias = LabelImage | Reference | stages.Failure

UNDER, OVER = "--fail-under", "--fail-over"
EXAMPLES = {UNDER: "f1@0.5=0.8", OVER: "hd95=10"}
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

    def texts(self) -> list[str]:
        """All of them, a line each."""
        return [str(failure.error) for failure in self.failures] + self.unmatched

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


@dataclass(frozen=True, kw_only=True)
class Scores:
    """All scores of one prediction.

    Attributes:
        prediction: as the user named it.
        references: the truth by key, those without a prediction too.
        images: what was scored.
        report: scores of the images and of the set.
        problems: what was not scored.
    """

    prediction: str
    references: dict[str, LabelRef]
    images: list[Scored]
    report: SetReport
    problems: Problems


def coco_settings(areas: str, max_dets: str | None, *, categories: bool) -> CocoSettings:
    """How detections are judged, from the texts of the options.

    Raises:
        UsageError: no such area ranges, or no numbers of detections.
    """
    try:
        numbers = tuple(int(part) for part in max_dets.split(",")) if max_dets else None
    except ValueError:
        raise UsageError("--max-dets", f"'{max_dets}' is no list of numbers", "e.g. 100 or 100,500,2000") from None
    return CocoSettings(areas=parse_areas(areas), max_dets=numbers, categories=categories)


@dataclass(frozen=True)
class Gate:
    """What a score must reach, or must not go beyond.

    Attributes:
        option: ``--fail-under`` or ``--fail-over``.
        name: of the score.
        limit: the value.
    """

    option: str
    name: str
    limit: float

    def is_met(self, value: float) -> bool:
        """Whether a score is good enough; an undefined one is not."""
        return value >= self.limit if self.option == UNDER else value <= self.limit


def parse_gates(option: str, texts: Sequence[str] | None, coco: CocoSettings) -> list[Gate]:
    """``NAME=VALUE`` texts, checked before anything is scored.

    Raises:
        UsageError: no such metric, or no number.
    """
    gates = []
    others = [name for kind in KINDS for name in coco_names(coco, kind)]
    for text in texts or ():
        name, _, value = text.partition("=")
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if math.isnan(limit):
            raise UsageError(option, f"'{text}' is no NAME=VALUE", f"e.g. {option} {EXAMPLES[option]}")
        gates.append(Gate(option, canonical_name(name.strip(), others), limit))
    return gates


def check_outputs(files: Iterable[tuple[str, str | None]], *, as_json: bool) -> None:
    """Refuse before any work what could not be written at its end.

    Args:
        files: options and the files they name.
        as_json: stdout carries JSON.

    Raises:
        UsageError: two documents for one stdout, or a file that cannot be written.
    """
    taken = "the JSON" if as_json else ""
    for option, file in files:
        if file == STREAM and taken:
            raise UsageError(option, f"stdout carries {taken} already", "write one of them into a file")
        if file == STREAM:
            taken = f"what {option} writes"
        elif file is not None:
            try:
                check_writable(Path(file))
            except OutputError as error:
                raise UsageError(error.subject, error.problem, error.repair) from error


def score_all(
    truth: str, prediction: str, names: str | None, settings: ScoreSettings, *, workers: int, quiet: bool
) -> Scores:
    """Scores of all pairs, and what was wrong.

    Raises:
        NoInputError: no pair could be scored.
        CellkitError: the only pair failed: its own error.
    """
    references = find_truth(truth)
    found = _predictions(truth, prediction, references)
    if names:
        references = _listed(references, names)
    problems = Problems()
    images: list[Scored] = []
    predictions = _known(found, references, problems, narrowed=names is not None)
    outcomes = stages.evaluate(references, predictions, settings, workers=workers)
    for item in progress(outcomes, len(references), quiet):
        if isinstance(item, stages.Failure):
            problems.failures.append(item)
        else:
            images.append(item)
    seen = {failure.key for failure in problems.failures} | {image.report.key for image in images}
    problems.unmatched += [f"{key}: no prediction" for key in references if key not in seen]
    if not images:
        raise _nothing(truth, prediction, problems)
    images = _by_image_id(images, references)
    report = set_report(images, settings.coco)
    return Scores(prediction=prediction, references=references, images=images, report=report, problems=problems)


def _by_image_id(images: list[Scored], references: dict[str, LabelRef]) -> list[Scored]:
    """Images of a COCO file by their ids, as COCO takes them where detections of several have the same score."""
    ids = {key: labels.image_id for key, labels in references.items() if isinstance(labels, CocoLabels)}
    known = [(number, image) for image in images if isinstance(number := ids.get(image.report.key), int)]
    return [image for _, image in sorted(known, key=lambda pair: pair[0])] if len(known) == len(images) else images


def images_by_key(truth: str, folder: str | None) -> dict[str, str]:
    """Image files to draw upon: those of a folder, else those that lie beside the truth.

    Raises:
        InputError: the folder is not there.
    """
    if folder is None:
        return find_images(truth)
    return {source.key: source.path for source in find_sources([folder], ReadOptions())}


def _predictions(truth: str, prediction: str, references: dict[str, LabelRef]) -> Iterator[Prediction]:
    """Predictions by the names of the truth, whatever form they have."""
    found = None if prediction == STREAM else find_predicted(prediction, truth, references)
    if found is None:
        return _named_alike(truth, prediction, references)
    return (Reference(key=key, labels=labels) for key, labels in found.items())


def _nothing(truth: str, prediction: str, problems: Problems) -> Exception:
    """The error when nothing was scored."""
    if problems.failures:
        return problems.failures[0].error
    example = f", e.g. {problems.unmatched[0]}" if problems.unmatched else ""
    return NoInputError(f"{truth}, {prediction}", f"no pair to score{example}", "names must be equal but for suffixes")


def _named_alike(truth: str, prediction: str, references: dict[str, LabelRef]) -> Iterator[Prediction]:
    """Predictions by the names of the truth: one file against one file needs no common name."""
    alone = next(iter(references)) if len(references) == 1 and Path(truth).is_file() else None
    for found in predicted_objects([prediction], category_numbers(references)):
        item = Reference(key=found.prediction.key, labels=found) if isinstance(found, HeldObjects) else found
        if alone is not None and Path(split_dataset(prediction)[0]).is_file():
            yield dataclasses.replace(item, key=alone)
            continue
        other = frame_key(item.key) or unmarked(item.key)
        yield item if item.key in references else dataclasses.replace(item, key=other)


def _known(
    items: Iterator[Prediction], references: dict[str, LabelRef], problems: Problems, *, narrowed: bool
) -> Iterator[Prediction]:
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


def check_gates(report: SetReport, gates: Sequence[Gate]) -> None:
    """Raise when a score does not pass its gate; an undefined score does not.

    Raises:
        GateError: naming each score that failed.
    """
    for option, side in ((UNDER, "below"), (OVER, "above")):
        failed = [gate for gate in gates if gate.option == option and not gate.is_met(find_metric(report, gate.name))]
        if failed:
            texts = (f"{gate.name} is {find_metric(report, gate.name):.4f}, {side} {gate.limit:g}" for gate in failed)
            raise GateError(option, "; ".join(texts))
