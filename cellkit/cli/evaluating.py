"""What ``cellkit evaluate`` does: score one prediction, compare two, or fit curves to results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cellkit.cli import comparing, score_outputs, scoring
from cellkit.cli.inputs import STREAM
from cellkit.errors import UsageError
from cellkit.metrics import SetReport
from cellkit.metrics.coco import CocoSettings
from cellkit.metrics.statistics import Summary, summarise_values
from cellkit.stages.scoring import ScoreSettings, coco_scores

EXAMPLE = "e.g. cellkit evaluate truth/ prediction/"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is scored, and how.

    Attributes:
        truth: as the user named it.
        names: a list of the images to score, or None.
        coco: how detections are judged.
        surfaces: whether distances of outlines are wanted.
        least_score: of predicted objects, but for COCO's values.
        group_by: ``FILE.csv:COLUMN``, or None.
        workers: images scored at once.
        quiet: no progress.
    """

    truth: str | None
    names: str | None
    coco: CocoSettings
    surfaces: bool
    least_score: float
    group_by: str | None
    workers: int
    quiet: bool


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What is written: files by their names, None for none.

    Attributes:
        csv: a row per image.
        objects: a row per object.
        markdown: tables.
        html: a page.
        as_json: JSON on stdout instead of the table.
        images: folder of images for the pictures of the page.
    """

    csv: str | None
    objects: str | None
    markdown: str | None
    html: str | None
    as_json: bool
    images: str | None

    def check(self) -> None:
        """Refuse what could not be written.

        Raises:
            UsageError: two documents for one stdout, a file that cannot be written, pictures without a page.
        """
        scoring.check_outputs(self.files().items(), as_json=self.as_json)
        if self.images is not None and self.html is None:
            raise UsageError("--images", "is for the pictures of --html", "add --html FILE")

    def files(self) -> dict[str, str | None]:
        """Files by option."""
        return {"--csv": self.csv, "--objects": self.objects, "--markdown": self.markdown, "--html": self.html}


def fit_curves(table: str, others: Sequence[object], *, as_json: bool) -> None:
    """Fit curves to a table of results.

    Raises:
        UsageError: something to be scored was named too.
    """
    if any(other is not None for other in others):
        raise UsageError("--curve", "fits a table of results and scores nothing", "give it alone")
    from cellkit.cli import curve_fits  # what most runs do not ask for is imported where it is

    curve_fits.write_curves(table, as_json=as_json)


def score(
    request: Request, prediction: str | None, outputs: Outputs, gates: Sequence[scoring.Gate], *, allow_missing: bool
) -> None:
    """Score one prediction and write all that was asked for.

    Raises:
        UsageError: truth or prediction was not named, or an output cannot be written.
        PartialError: some images were not scored; the others are reported.
        GateError: a score is below its gate.
    """
    if request.truth is None or prediction is None:
        missing = "TRUTH" if request.truth is None else "PREDICTION"
        raise UsageError(missing, "is not named", EXAMPLE)
    outputs.check()
    grouping = _Grouping.parsed(request.group_by)
    images = scoring.images_by_key(request.truth, outputs.images) if outputs.html else {}
    scores = _scores(request, request.truth, prediction, keep=outputs.html is not None)
    summaries = summarise_values(scores.report)
    groups = grouping.reports(scores, request.coco) if grouping else {}
    _write(outputs, scores, summaries, groups)
    if outputs.html or outputs.markdown:
        from cellkit.cli import score_reports

        evaluation = score_reports.evaluation_of(request.truth, scores, summaries, groups, request.coco, images)
        score_reports.write(evaluation, html=outputs.html, markdown=outputs.markdown)
    scores.problems.check(prediction, allow_missing=allow_missing)
    scoring.check_gates(scores.report, gates)


def _write(
    outputs: Outputs, scores: scoring.Scores, summaries: Mapping[str, Summary], groups: Mapping[str, SetReport]
) -> None:
    """Tables and JSON: the table for people only where stdout carries nothing else."""
    if outputs.csv:
        score_outputs.write_csv(scores.report, outputs.csv)
    if outputs.objects:
        score_outputs.write_objects(scores.images, outputs.objects)
    if outputs.as_json:
        score_outputs.write_json(scores.report, summaries, groups)
    elif STREAM not in outputs.files().values():
        score_outputs.write_table(scores.report, summaries)
        if groups:
            comparing.write_groups(groups)


def compare(
    request: Request,
    prediction: str | None,
    pair: tuple[str, str],
    outputs: Outputs,
    gates: Sequence[scoring.Gate],
    *,
    allow_missing: bool,
) -> None:
    """Score two predictions of the same truth and write how they differ.

    Raises:
        UsageError: the truth was not named, or what --compare does not write was asked for.
        PartialError: some images were not scored; the others are compared.
    """
    if request.truth is None or prediction is not None:
        raise UsageError("--compare", "wants the truth and two predictions", "cellkit evaluate TRUTH --compare A B")
    asked = [option for option, file in outputs.files().items() if file is not None]
    asked += [gate.option for gate in gates]
    asked += ["--group-by"] if request.group_by else []
    if asked:
        raise UsageError(asked[0], "goes with one prediction, not with --compare", "score each prediction alone")
    if STREAM in pair:
        raise UsageError("--compare", "cannot read a stream", "name files or folders")
    first, second = (_scores(request, request.truth, name, keep=False) for name in pair)
    comparing.write_comparison(first.report, second.report, names=pair, as_json=outputs.as_json)
    for scores in (first, second):
        scores.problems.check(scores.prediction, allow_missing=allow_missing)


def _scores(request: Request, truth: str, prediction: str, *, keep: bool) -> scoring.Scores:
    settings = ScoreSettings(coco=request.coco, surfaces=request.surfaces, keep=keep, least_score=request.least_score)
    return scoring.score_all(truth, prediction, request.names, settings, workers=request.workers, quiet=request.quiet)


@dataclass(frozen=True)
class _Grouping:
    """Groups of images from a table.

    Attributes:
        table: its file.
        groups: group of each image.
    """

    table: str
    groups: Mapping[str, str]

    @classmethod
    def parsed(cls, text: str | None) -> _Grouping | None:
        """Read the table of ``FILE.csv:COLUMN``; None without.

        Raises:
            UsageError: no column is named, or there is none of that name.
        """
        if text is None:
            return None
        table, colon, column = text.rpartition(":")
        if not colon or not table or not column:
            raise UsageError("--group-by", f"'{text}' is no FILE.csv:COLUMN", "e.g. --group-by plates.csv:plate")
        return cls(table, comparing.read_groups(table, column))

    def reports(self, scores: scoring.Scores, coco: CocoSettings) -> dict[str, SetReport]:
        """A report per group, with COCO's values of the group."""
        by_key = {image.report.key: image for image in scores.images}
        return {
            name: replace(
                report, pooled=report.pooled | coco_scores([by_key[image.key] for image in report.images], coco)
            )
            for name, report in comparing.group_report(scores.report, self.groups, self.table).items()
        }
