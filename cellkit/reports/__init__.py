"""What people look at after an evaluation: one HTML page, or tables in Markdown."""

from cellkit.reports.evaluation import Evaluation, Example, choose_examples
from cellkit.reports.gallery import draw_agreement, draw_example
from cellkit.reports.html import render_html
from cellkit.reports.markdown import render_markdown

__all__ = [
    "Evaluation",
    "Example",
    "choose_examples",
    "draw_agreement",
    "draw_example",
    "render_html",
    "render_markdown",
]
