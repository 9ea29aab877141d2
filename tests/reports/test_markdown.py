"""The report as Markdown."""

from __future__ import annotations

import dataclasses
import re

import pytest

from cellkit.reports import render_markdown
from cellkit.reports.markdown import MOST_IMAGES


def tables(text: str) -> list[list[list[str]]]:
    """Cells of each table, split at the pipes that are not escaped."""
    blocks = [[line for line in block.splitlines() if line.startswith("|")] for block in text.split("\n\n")]
    return [[re.split(r"(?<!\\)\|", row)[1:-1] for row in rows] for rows in blocks if rows]


@pytest.mark.parametrize("name", ["evaluation", "large_evaluation", "bare_evaluation", "empty_evaluation"])
def test_every_row_has_the_cells_of_its_head(request, name):
    text = render_markdown(request.getfixturevalue(name))
    for rows in tables(text):
        assert len({len(row) for row in rows}) == 1
        assert all(set(cell.strip()) <= {"-", ":"} for cell in rows[1])


def test_names_are_text(evaluation):
    text = render_markdown(evaluation)
    assert "<script>" not in text.replace("\\<", "")
    assert "\\<script\\>window.hostile = 1\\</script\\>" in text
    assert "\\| \\`x\\`" in text


def test_plain_names_stay_as_they_are(evaluation):
    text = render_markdown(dataclasses.replace(evaluation, truth="../plate_01/well (2)/a-b.tif", prediction="_x_"))
    assert "- truth: ../plate_01/well (2)/a-b.tif" in text.splitlines()
    assert "- prediction: \\_x\\_" in text.splitlines()


def test_a_name_of_two_lines_stays_one_row(evaluation):
    text = render_markdown(dataclasses.replace(evaluation, problems=("a\n# b\r\n| c",)))
    assert "- a \\# b \\| c" in text.splitlines()


def test_numbers_are_those_of_the_report(evaluation):
    summary, coco, groups, images = tables(render_markdown(evaluation))
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in summary}
    values = evaluation.summaries["aji"]
    assert cells["`aji`"] == [
        f"{evaluation.report.mean['aji']:.3f}",
        f"{values.low:.3f} to {values.high:.3f}",
        f"{values.median:.3f}",
        f"{values.std:.3f}",
        f"{evaluation.report.pooled['aji']:.3f}",
    ]
    assert ["`coco/segm/AP`", "0.500"] in [[cell.strip() for cell in row] for row in coco]
    assert len(groups) == 2 + len(evaluation.groups)
    assert len(images) == 2 + len(evaluation.report.images)


def test_the_lowest_of_many_images_are_listed(large_evaluation):
    text = render_markdown(large_evaluation)
    assert f"## The {MOST_IMAGES} lowest of 60 images" in text
    assert len(tables(text)[-1]) == 2 + MOST_IMAGES


def test_without_intervals_there_are_fewer_columns(evaluation):
    summary = tables(render_markdown(dataclasses.replace(evaluation, summaries=None)))[0]
    assert [cell.strip() for cell in summary[0]] == ["metric", "mean", "pooled"]
