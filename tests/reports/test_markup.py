"""Markup from calls."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellkit.reports.markup import Html, escape, join, tag


def test_text_is_escaped_and_markup_is_not():
    inner = tag("b", "a < b & c")
    assert tag("p", inner, "<i>") == "<p><b>a &lt; b &amp; c</b>&lt;i&gt;</p>"


def test_attributes_are_written_escaped_or_left_out():
    written = tag("a", class_="x", data_value='"><script>', hidden=True, title=None, open=False, width=3.14159)
    assert written == '<a class="x" data-value="&quot;&gt;&lt;script&gt;" hidden width="3.14"></a>'


def test_void_elements_have_no_end():
    assert tag("img", src="data:,") == '<img src="data:,">'


@pytest.mark.parametrize(
    ("value", "written"), [(2.0, "2"), (10.0, "10"), (0.5, "0.5"), (-1.256, "-1.26"), (100, "100")]
)
def test_numbers_keep_their_zeros(value, written):
    assert tag("g", x=value) == f'<g x="{written}"></g>'


def test_joined_text_is_escaped():
    assert join(["<", Html("<br>"), "&"]) == "&lt;<br>&amp;"


def test_names_that_no_document_can_hold_are_mended():
    escape("caf\udce9\x00.png").encode("utf-8")
    assert escape("a\x00b") == "a\ufffdb"


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_any_text_is_read_back_as_text(text):
    class Reader(HTMLParser):
        def __init__(self):
            super().__init__()
            self.tags, self.found, self.title = [], "", ""

        def handle_starttag(self, name, attributes):
            self.tags.append(name)
            self.title = dict(attributes)["title"]

        def handle_data(self, data):
            self.found += data

    reader = Reader()
    reader.feed(tag("p", text, title=text))
    reader.close()
    assert reader.tags == ["p"]
    assert (
        reader.found
        == reader.title
        == str(escape(text))
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", '"')
        .replace("&#x27;", "'")
        .replace("&amp;", "&")
    )
