"""HTML and SVG from nested calls; text is escaped unless it is markup already, so that no name can become a tag."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TypeAlias

Attribute: TypeAlias = "str | float | bool | None"

VOID = frozenset({"br", "col", "hr", "img", "input", "link", "meta"})  # elements without an end tag
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # no HTML document may hold these


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def escape(text: str) -> Html:
    """Text as markup: special characters escaped, what no UTF-8 document can hold replaced."""
    if isinstance(text, Html):
        return text
    sound = UNPRINTABLE.sub("\ufffd", text).encode("utf-8", "replace").decode()  # file names may hold lone surrogates
    return Html(html.escape(sound))


def join(parts: Iterable[str], separator: str = "") -> Html:
    """Several pieces one after another; those that are plain text are escaped."""
    return Html(separator.join(escape(part) for part in parts))


def tag(name: str, /, *children: str, **attributes: Attribute) -> Html:
    """One element.

    Args:
        name: of the element.
        children: markup (:class:`Html`) or text, which is escaped.
        attributes: ``class_`` is ``class``, ``aria_label`` is ``aria-label``; None and False leave the attribute out,
            True writes it without a value, numbers get at most two decimals.
    """
    written = join(_attribute(key.strip("_").replace("_", "-"), value) for key, value in attributes.items())
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def _attribute(name: str, value: Attribute) -> Html:
    if value is None or value is False:
        return Html("")
    if value is True:
        return Html(f" {name}")
    text = value if isinstance(value, str) else number(value)
    return Html(f' {name}="{escape(text)}"')


def number(value: float) -> str:
    """A coordinate in two decimals, without trailing zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"
