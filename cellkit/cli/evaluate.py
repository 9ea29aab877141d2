"""cellkit evaluate."""

from __future__ import annotations

import math

from cellkit.cli import options as o
from cellkit.cli import score_options as s


def evaluate(
    truth: s.Truth = None,
    prediction: s.Predicted = None,
    names: s.Names = None,
    allow_missing: s.AllowMissing = False,
    coco_areas: s.CocoAreas = "coco",
    max_dets: s.MaxDets = None,
    categories: s.Categories = True,
    min_score: s.MinScore = None,
    surfaces: s.Surfaces = True,
    group_by: s.GroupBy = None,
    compare: s.Compare = None,
    curve: s.Curve = None,
    objects: s.Objects = None,
    as_json: o.Json = False,
    csv: s.Csv = None,
    markdown: s.Markdown = None,
    html: s.Html = None,
    images: s.Pictured = None,
    fail_under: s.FailUnder = None,
    fail_over: s.FailOver = None,
    workers: o.Workers = 2,
    verbose: o.Verbose = 0,
    quiet: o.Quiet = False,
) -> None:
    """Score predicted cells against true cells.

    Pairs are matched by name. Reports COCO AP and AR, ap_dsb, precision, recall and F1 at IoU .50 to .95, PQ, ctc/SEG
    and DET, AJI, IoU, Dice and surface distances of the foreground, splits and merges: per image, as means over
    images with intervals, and pooled over the set. cellkit-metrics(7) defines each.
    """
    from cellkit.cli import evaluating, reporting, scoring

    reporting.set_up_logging("evaluate", verbose, quiet)
    if curve is not None:
        return evaluating.fit_curves(curve, (truth, prediction, compare), as_json=as_json)
    outputs = evaluating.Outputs(csv=csv, objects=objects, markdown=markdown, html=html, as_json=as_json, images=images)
    coco = scoring.coco_settings(coco_areas, max_dets, categories=categories)
    request = evaluating.Request(
        truth=truth,
        names=names,
        coco=coco,
        surfaces=surfaces,
        least_score=-math.inf if min_score is None else min_score,
        group_by=group_by,
        workers=workers,
        quiet=quiet,
    )
    gates = scoring.parse_gates("--fail-under", fail_under, coco) + scoring.parse_gates("--fail-over", fail_over, coco)
    if compare is not None:
        return evaluating.compare(request, prediction, compare, outputs, gates, allow_missing=allow_missing)
    return evaluating.score(request, prediction, outputs, gates, allow_missing=allow_missing)
