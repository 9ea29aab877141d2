"""``--set NAME=VALUE`` against frozen dataclasses, and the list of what can be set."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from cellkit.config import JsonValue, Spec
from cellkit.errors import UsageError

S = TypeVar("S", bound=Spec)

TRUE = {"true", "yes", "on", "1"}
FALSE = {"false", "no", "off", "0"}


def assignments(texts: Sequence[str] | None, kinds: Sequence[type[Spec]]) -> dict[str, JsonValue]:
    """Values of ``NAME=VALUE`` texts, typed by the dataclass that has the field.

    Raises:
        UsageError: no ``=``, an unknown name, or a value of another type.
    """
    values: dict[str, JsonValue] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError("--set", f"'{text}' has no value", "write NAME=VALUE; --settings lists the names")
        values[name] = parse(name, value.strip(), _type_of(name, kinds))
    return values


def apply(kind: type[S], values: Mapping[str, JsonValue], **fixed: Any) -> S:  # noqa: ANN401 - fields of any type
    """An instance of ``kind`` from the values that are its fields; ``fixed`` fields win unless None."""
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    chosen = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in names}
    chosen |= {name: value for name, value in fixed.items() if value is not None}
    return kind(**chosen)


def describe(kinds: Sequence[type[Spec]]) -> str:
    """One line per setting: name, default, meaning."""
    lines = []
    for kind in kinds:
        meanings = _meanings(kind)
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            default = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]
            lines.append(f"{field.name}={_show(default)}\t{meanings.get(field.name, '')}".rstrip())
    return "\n".join(lines) + "\n"


def parse(name: str, text: str, kind: Any) -> JsonValue:  # noqa: ANN401 - a type annotation
    """A value from its text: numbers, true/false, none, choices, or a comma-separated list."""
    choices = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    if type(None) in choices and text.lower() in ("none", ""):
        return None
    for choice in choices:
        try:
            return _convert(text, choice)
        except ValueError:
            continue
    raise UsageError("--set", f"{name}={text} is not {_expected(choices)}", "--settings lists names and defaults")


def _convert(text: str, kind: Any) -> JsonValue:  # noqa: ANN401
    if typing.get_origin(kind) is typing.Literal:
        if text not in typing.get_args(kind):
            raise ValueError(text)
        return text
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        return [_convert(part.strip(), inner) for part in text.split(",")]
    if kind is bool:
        if text.lower() not in TRUE | FALSE:
            raise ValueError(text)
        return text.lower() in TRUE
    if kind in (int, float, str):
        return kind(text)  # type: ignore[no-any-return]
    raise ValueError(text)


def _expected(choices: Sequence[Any]) -> str:
    words = []
    for kind in choices:
        if typing.get_origin(kind) is typing.Literal:
            words.append("one of " + ", ".join(typing.get_args(kind)))
        elif typing.get_origin(kind) is tuple:
            words.append("a list like 1,2")
        elif kind is not type(None):
            words.append(
                {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(kind.__name__, "text")
            )
    return " or ".join(words)


def _type_of(name: str, kinds: Sequence[type[Spec]]) -> Any:  # noqa: ANN401
    known: dict[str, Any] = {}
    for kind in kinds:
        known |= typing.get_type_hints(kind)
    known = {n: t for n, t in known.items() if any(n in {f.name for f in dataclasses.fields(k)} for k in kinds)}  # type: ignore[arg-type]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"choose from {', '.join(sorted(known))}"
        raise UsageError("--set", f"there is no setting '{name}' here", hint)
    return known[name]


def _meanings(kind: type) -> dict[str, str]:
    """Field meanings from the ``Attributes:`` part of the docstring."""
    text = inspect.getdoc(kind) or ""
    part = text.partition("Attributes:")[2]
    found = re.findall(r"^ {4}(\w+): (.+(?:\n {8,}.+)*)", part, flags=re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(str(v) for v in value)
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
