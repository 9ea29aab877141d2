"""The report as one HTML page that needs nothing else: no network, no file beside it, no script to be read."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources

import numpy as np

from cellkit.reports import charts, columns, gallery, tables
from cellkit.reports.definitions import MANUAL, shown
from cellkit.reports.encoding import data_url
from cellkit.reports.evaluation import Evaluation, Example
from cellkit.reports.markup import Html, escape, join, tag

OPEN_ROWS = 50  # longer tables of images are folded up
OPEN_PROBLEMS = 5
MOST_PROBLEMS = 500  # listed; the rest is counted

NAMES_OF_PERCENTILES = {0: "lowest", 50: "median", 100: "highest"}


def render_html(evaluation: Evaluation) -> str:
    """The page, as text to be written in UTF-8.

    It carries its style, its pictures (``data:``) and one script that sorts tables, and a Content-Security-Policy under
    which a browser loads and runs nothing else. Every name and path is escaped.
    """
    script = _resource("page.js")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content="cellkit"),
        tag("link", rel="icon", href="data:,"),  # or browsers ask the server for one
        tag("title", evaluation.title),
        tag("style", Html(_resource("page.css"))),
    )
    sorting = tag("script", Html(script))
    body = tag("body", _header(evaluation), tag("main", *_sections(evaluation)), _footer(evaluation), sorting)
    page = tag("html", head, "\n", body, lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


@cache
def _resource(name: str) -> str:
    return resources.files("cellkit.reports").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _header(evaluation: Evaluation) -> Html:
    n_images = len(evaluation.report.images)
    entries = {
        "truth": tag("span", evaluation.truth, class_="path"),
        "prediction": tag("span", evaluation.prediction, class_="path"),
        "images": escape(f"{n_images:,} scored"),
    }
    items = [join([tag("dt", name), tag("dd", value)]) for name, value in entries.items()]
    return tag("header", tag("h1", evaluation.title), tag("dl", *items))


def _footer(evaluation: Evaluation) -> Html:
    return tag("footer", evaluation.written or "Written by cellkit.")


def _sections(evaluation: Evaluation) -> list[Html]:
    report = evaluation.report
    parts = [_figures(evaluation), _outcome(report.pooled), _problems(evaluation.problems), _charts(evaluation)]
    if evaluation.examples:
        parts.append(_examples(evaluation))
    parts.append(_summary(evaluation))
    if evaluation.groups:
        note = "Means over the images of a group; cells are counted over all of them."
        parts.append(_section("Groups", note, tables.group_table(evaluation.groups)))
    if report.images:
        parts.append(_images(evaluation))
    note = f"TP: matched pairs; FP: predicted cells without partner; FN: true cells without partner. {MANUAL} has more."
    parts.append(_section("What the metrics mean", note, tables.definition_list(report)))
    return parts


def _section(title: str, note: str, *content: str) -> Html:
    return tag("section", tag("h2", title), tag("p", note, class_="soft"), *content)


def _figures(evaluation: Evaluation) -> Html:
    items = []
    for name, value in columns.key_figures(evaluation.report):
        summary = (evaluation.summaries or {}).get(name)
        note = "mean over images" if name in evaluation.report.mean else "of the set"
        if summary is not None and not np.isnan(summary.low):
            note = f"{shown(name, summary.low)} to {shown(name, summary.high)}"
        label = tables.metric_link(name)
        items.append(tag("li", label, tag("strong", shown(name, value)), tag("small", note)))
    return tag("ul", *items, class_="figures") if items else Html("")


def _outcome(pooled: dict[str, float]) -> Html:
    """How many cells were found, missed and made up, as a bar."""
    counts = columns.outcomes(pooled)
    if counts is None or not sum(counts.values()):
        return Html("")
    bar = [tag("span", class_=name, style=f"flex:{count} 0 0") for name, count in counts.items() if count]
    items = [
        tag("li", tag("span", class_=f"sign {name}"), tag("strong", f"{count:,}"), f" {name}")
        for name, count in counts.items()
    ]
    items += [
        tag("li", tag("strong", shown(name, pooled[name])), f" {name}")
        for name in ("splits", "merges")
        if pooled.get(name, 0) > 0
    ]
    label = ", ".join(f"{count} {name}" for name, count in counts.items())
    track = tag("div", *bar, class_="track", role="img", aria_label=label)
    title = f"{round(pooled['n_true']):,} true and {round(pooled['n_predicted']):,} predicted cells, at IoU ≥ 0.5"
    return tag("section", tag("p", title, class_="soft"), track, tag("ul", *items), class_="outcome")


def _problems(problems: tuple[str, ...]) -> Html:
    if not problems:
        return Html("")
    lines = [tag("li", problem) for problem in problems[:MOST_PROBLEMS]]
    if len(problems) > MOST_PROBLEMS:
        lines.append(tag("li", f"and {len(problems) - MOST_PROBLEMS:,} more"))
    noun = "problem" if len(problems) == 1 else "problems"
    summary = tag("summary", f"{len(problems):,} {noun}: what is named here is not in the scores")
    details = tag("details", summary, tag("ul", *lines), open=len(problems) <= OPEN_PROBLEMS)
    return tag("section", details, class_="problems")


def _charts(evaluation: Evaluation) -> Html:
    report = evaluation.report
    drawn: dict[str, Html] = {}
    scored = not np.isnan(report.mean.get("ap_dsb", np.nan))  # boxes alone have no mask to score
    if scored:
        drawn["Score against IoU threshold"] = charts.threshold_chart(report, evaluation.summaries)
    if evaluation.precision_recall:
        drawn["Precision against recall"] = charts.precision_recall_chart(evaluation.precision_recall)
    if scored:
        drawn["Scores of the images"] = charts.score_chart(report)
        drawn["Number of cells per image"] = charts.count_chart(report)
    if evaluation.true_areas.size + evaluation.predicted_areas.size:
        unit = evaluation.area_unit
        drawn["Cell areas"] = charts.area_chart(evaluation.true_areas, evaluation.predicted_areas, unit)
    if evaluation.matched_ious.size:
        drawn["Fit of the matched cells"] = charts.iou_chart(evaluation.matched_ious)
    figures = [tag("figure", tag("figcaption", title), chart) for title, chart in drawn.items()]
    if not figures:
        return Html("")
    return tag("section", tag("h2", "Charts"), tag("div", *figures, class_="charts"))


def _examples(evaluation: Evaluation) -> Html:
    name = evaluation.examples[0].score_name
    note = (
        f"From the lowest {name} to the highest, by percentile of the images. Where both fills meet, a cell was found "
        "but not well enough, or cells were split or merged. A click enlarges a picture."
    )
    figures = [_example(example, evaluation) for example in evaluation.examples]
    return _section("Examples", note, _legend(), tag("div", *figures, class_="examples"))


def _example(example: Example, evaluation: Evaluation) -> Html:
    values = {image.key: image.values for image in evaluation.report.images}.get(example.key, {})
    counts = columns.outcomes(values)
    place = NAMES_OF_PERCENTILES.get(example.percentile, f"{example.percentile}th percentile")
    score = f"{example.score_name} {shown(example.score_name, example.score)}"
    found = ", ".join(f"{count:,} {name}" for name, count in counts.items()) if counts else ""
    caption = tag(
        "figcaption", tag("bdi", example.key), tag("small", "; ".join(filter(None, [f"{place}: {score}", found])))
    )
    pictures = [_picture(example, "drawn")]
    toggle = Html("")
    if example.plain is not None:
        pictures.insert(0, _picture(example, "plain"))
        toggle = tag("label", tag("input", type="checkbox"), "without outlines", class_="toggle")
    picture = tag("button", *pictures, class_="picture", type="button", aria_pressed="false")
    return tag("figure", caption, picture, toggle)


def _picture(example: Example, kind: str) -> Html:
    pixels = example.plain if kind == "plain" and example.plain is not None else example.picture
    height, width = pixels.shape[:2]
    text = f"{example.key}, {'the image alone' if kind == 'plain' else 'true and predicted cells'}"
    return tag("img", class_=kind, src=data_url(pixels, lined=kind == "drawn"), alt=text, width=width, height=height)


def _legend() -> Html:
    lines = [
        (gallery.TRUE_OUTLINE, "outline", "outline of a true cell"),
        (gallery.PREDICTED_OUTLINE, "outline", "outline of a predicted cell"),
        (gallery.MISSED, "", "missed: a true cell that no prediction matches at IoU ≥ 0.5"),
        (gallery.FALSE, "", "false: a predicted cell that matches no true one"),
    ]
    items = []
    for colour, kind, text in lines:
        name = "border-color" if kind else "background"
        style = f"{name}:rgb({colour[0]} {colour[1]} {colour[2]})"
        items.append(tag("li", tag("span", class_=f"sign {kind}".strip(), style=style), text))
    return tag("ul", *items, class_="legend")


def _summary(evaluation: Evaluation) -> Html:
    report = evaluation.report
    note = "Mean: over the images that define the metric. Pooled: all images as if they were one large image."
    parts = [tables.summary_table(evaluation)]
    if columns.threshold_rows(report):
        parts.append(tag("details", tag("summary", "At every IoU threshold"), tables.threshold_table(report)))
    if columns.coco_rows(report):
        parts += [tag("h3", "COCO"), tables.coco_table(report)]
    return _section("Summary", note, *parts)


def _images(evaluation: Evaluation) -> Html:
    images = evaluation.report.images
    table = tables.image_table(evaluation.report)
    note = "The lowest ap_dsb first; a head sorts by its column."
    if len(images) > tables.MOST_ROWS:
        note += f" The {tables.MOST_ROWS:,} lowest of {len(images):,}; --csv writes all."
    if len(images) > OPEN_ROWS:
        table = tag("details", tag("summary", f"{len(images):,} images"), table)
    return _section("Images", note, table)
