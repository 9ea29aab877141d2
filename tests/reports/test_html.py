"""The page: whole, sound, harmless."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from cellkit.metrics import ImageReport, SetReport
from cellkit.reports import Evaluation, render_html, tables
from cellkit.reports.definitions import definition
from cellkit.reports.markup import VOID


class Page(HTMLParser):
    """Elements of a page; fails on a tag that is not closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str | None = None) -> list[str]:
        return [word for inside, word in self.words if tag in (None, inside)]


@pytest.fixture(scope="module", params=["evaluation", "large_evaluation", "bare_evaluation", "empty_evaluation"])
def page(request) -> Page:
    return Page(render_html(request.getfixturevalue(request.param)))


def test_tags_are_balanced_and_identifiers_unique(page):
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    links = [attributes["href"] for attributes in page.of("a")]
    assert {link.removeprefix("#") for link in links} <= set(identifiers)


def test_nothing_is_loaded_from_elsewhere(page):
    for name, attributes in page.elements:
        for attribute in ("src", "href", "action", "data", "srcset"):
            value = attributes.get(attribute)
            assert value is None or value.startswith(("data:", "#")), (name, value)
    style = "".join(page.text("style"))
    assert "url(" not in style
    assert "@import" not in style


def test_names_are_text(page):
    assert len(page.of("script")) == 1
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert all(attributes["src"].startswith("data:image/") for attributes in page.of("img"))


def test_the_policy_lets_the_one_script_run(page):
    (policy,) = [a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    (script,) = page.text("script")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline';")
    assert f"script-src 'sha256-{digest}';" in policy


def test_the_page_is_one_document(evaluation):
    text = render_html(evaluation)
    assert text.startswith('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">')
    assert text.endswith("</html>\n")
    text.encode("utf-8")


def test_the_same_evaluation_gives_the_same_page(evaluation):
    assert render_html(evaluation) == render_html(evaluation)


def test_all_that_there_is_is_shown(evaluation):
    page = Page(render_html(evaluation))
    assert page.text("h2") == ["Charts", "Examples", "Summary", "Groups", "Images", "What the metrics mean"]
    assert page.text("h3") == ["COCO"]
    assert len(page.of("svg")) == 6
    assert len(page.of("img")) == 2 * len(evaluation.examples)
    words = page.text()
    for text in (evaluation.title, evaluation.truth, evaluation.written, evaluation.problems[0], *evaluation.groups):
        assert text in words
    for image in evaluation.report.images:
        assert image.key in words


def test_numbers_are_those_of_the_report(evaluation):
    words = Page(render_html(evaluation)).text()
    report, summary = evaluation.report, evaluation.summaries["aji"]
    assert f"{report.mean['aji']:.3f}" in words
    assert f"{report.pooled['aji']:.3f}" in words
    assert f"{summary.low:.3f} to {summary.high:.3f}" in words
    found = report.pooled["recall@0.5"] * report.pooled["n_true"]
    assert f"{found:,.0f}" in words
    assert f"{report.pooled['n_true'] - found:,.0f}" in words


def test_scores_are_drawn_as_bars_and_sorted_by_their_full_value(evaluation):
    page = Page(render_html(evaluation))
    bars = [a for a in page.of("td") if a["class"] == "number bar"]
    assert len(bars) == len(evaluation.report.images) + len(evaluation.groups)
    lowest = min(image.values["ap_dsb"] for image in evaluation.report.images)
    assert f"--share:{lowest:.3f}" in [a["style"] for a in bars]
    assert repr(lowest) in [a["data-value"] for a in bars]


def test_metrics_have_their_definition_a_hover_and_a_link_away(evaluation):
    page = Page(render_html(evaluation))
    titles = {a["href"]: a["title"] for a in page.of("a") if a.get("class") == "metric"}
    assert titles["#m-aji"] == definition("aji").text
    assert definition("aji").text in page.text("dd")


def test_without_intervals_there_are_means(evaluation):
    page = Page(render_html(dataclasses.replace(evaluation, summaries=None)))
    assert "95 % interval" not in page.text()
    assert f"{evaluation.report.mean['aji']:.3f}" in page.text()


def test_what_is_not_there_is_left_out(bare_evaluation, empty_evaluation):
    bare = Page(render_html(bare_evaluation))
    assert bare.text("h2") == ["Summary", "What the metrics mean"]
    assert not bare.of("svg")
    assert "0.500" in bare.text()
    assert Page(render_html(empty_evaluation)).text("h2") == ["Summary", "Images", "What the metrics mean"]


def test_long_tables_are_folded(evaluation, large_evaluation):
    summaries = Page(render_html(large_evaluation)).text("summary")
    assert "60 images" in summaries
    assert "7 problems: what is named here is not in the scores" in summaries
    assert [a for a in Page(render_html(large_evaluation)).of("details") if "open" in a] == []
    assert "12 images" not in Page(render_html(evaluation)).text("summary")
    assert len([a for a in Page(render_html(evaluation)).of("details") if "open" in a]) == 1


def test_ten_thousand_images_stay_a_page():
    rng = np.random.default_rng(0)
    names = ("n_true", "n_predicted", "ap_dsb", "f1@0.5", "aji")
    images = tuple(
        ImageReport(f"plate 1/image {i:05d} with a long name", dict(zip(names, rng.random(5), strict=True)), {})
        for i in range(10_000)
    )
    mean = dict.fromkeys(names, 0.5)
    report = SetReport(images, mean, mean, {})
    text = render_html(Evaluation(title="many", truth="a", prediction="b", report=report))
    assert len(text) < 4_000_000
    (rows,) = re.findall(r"The ([\d,]+) lowest of 10,000", text)
    assert rows == f"{tables.MOST_ROWS:,}"
    worst = min(images, key=lambda image: image.values["ap_dsb"])
    assert f"<bdi>{worst.key}</bdi>" in text


def test_a_name_that_is_no_unicode_is_written(evaluation):
    broken = dataclasses.replace(evaluation, problems=("caf\udce9\x1b[31m.png: unreadable",))
    render_html(broken).encode("utf-8")


def test_the_style_and_the_script_are_files_of_the_package():
    from importlib import resources

    for name in ("page.css", "page.js"):
        assert resources.files("cellkit.reports").joinpath(name).is_file()
