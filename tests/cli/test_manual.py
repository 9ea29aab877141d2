"""The pages that are written from docstrings: complete, and what roff accepts."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from cellkit.cli.manual import generate
from cellkit.metrics import METRICS, metric_names

METRICS_PAGE = "man/man7/cellkit-metrics.7"


@pytest.fixture(scope="module")
def pages():
    return generate()


@pytest.fixture(scope="module")
def page(pages):
    return pages[METRICS_PAGE]


def plain(roff):
    return roff.replace("\\-", "-").replace("\\(aq", "'").replace("\\(ha", "^")


def headings(page):
    return [plain(line).removeprefix(".SS ") for line in page.splitlines() if line.startswith(".SS ")]


def test_every_metric_has_a_heading(page):
    named = {name for heading in headings(page) for name in re.split(r", | \.\.\. |; ", heading)}
    for name in metric_names():
        family, at, threshold = name.partition("@")
        assert name in named or (at and threshold not in ("0.5", "0.95") and f"{family}@0.5" in named), name
    assert {"coco/segm/AP", "AR@N", "hd95_um", "asd_um"} <= named


def test_every_metric_states_definition_formula_and_paper(page):
    text = plain(page)
    for metric in METRICS.values():
        first, *rest = (metric.__doc__ or "").replace("``", "").split("\n\n")
        assert first in text
        for paragraph in rest:
            assert " ".join(paragraph.split()) in text
    assert text.count("Source: ") >= len(METRICS) - 2 + 3  # counts need none; two distances and COCO have one each
    assert "Args:" not in text
    assert "Returns:" not in text


def test_evaluate_points_to_it(pages):
    assert "cellkit\\-metrics\\fR(7)" in pages["man/man1/cellkit-evaluate.1"]


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_roff_has_nothing_to_complain_about(pages):
    for path, text in pages.items():
        if path.startswith("man/"):
            done = subprocess.run(
                ["groff", "-ww", "-man", "-Tutf8", "-Kutf8", "-z"],
                input=text,
                capture_output=True,
                text=True,
                check=True,
            )
            assert done.stderr == "", path
