"""``--set NAME=VALUE`` against frozen dataclasses, files of such lines, and the list of what can be set."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cellkit.config import JsonValue, Spec
from cellkit.errors import InputError, UsageError
from cellkit.io.atomic import written_whole

S = TypeVar("S", bound=Spec)

FILE, COMMENT = "@", "#"  # begin the name of a file of settings, and a line in it that is none
TRUE = {"true", "yes", "on", "1"}
FALSE = {"false", "no", "off", "0"}
NO_OPTIONS: Mapping[str, str] = types.MappingProxyType({})


def assignments(
    texts: Sequence[str] | None, kinds: Sequence[type[Spec]], options: Mapping[str, str] = NO_OPTIONS
) -> dict[str, JsonValue]:
    """Values of ``NAME=VALUE`` texts, typed by the dataclass that has the field.

    Args:
        texts: what the user wrote: ``NAME=VALUE``, or ``@FILE`` of such lines.
        kinds: dataclasses whose fields can be set.
        options: fields that the verb has an option of its own for: field -> option.

    Raises:
        UsageError: no ``=``, an unknown name, a name that has an option, or a value of another type.
        InputError: a file that cannot be read.
    """
    values: dict[str, JsonValue] = {}
    for text in _lines(texts or ()):
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError("--set", f"'{text}' has no value", "write NAME=VALUE; --settings lists the names")
        if name in options:
            raise UsageError("--set", f"'{name}' has an option of its own", f"use {options[name]}")
        values[name] = parse(name, value.strip(), _type_of(name, kinds))
    return values


def _lines(texts: Sequence[str]) -> Iterator[str]:
    """Each text, or the lines of the file that it names, without comments and empty ones."""
    for text in texts:
        if not text.startswith(FILE):
            yield text
            continue
        path = Path(text.removeprefix(FILE))
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            repair = f"give {FILE}FILE with lines NAME=VALUE"
            raise InputError(path, "is no file of settings that can be read", repair) from error
        stripped = (line.strip() for line in content.splitlines())
        yield from (line for line in stripped if line and not line.startswith(COMMENT))


def write_settings(path: Path, values: Mapping[str, JsonValue], remark: str) -> None:
    """Write a file for ``--set @FILE``, whole or not at all.

    Args:
        path: where.
        values: numbers, truth values, texts, and lists of them.
        remark: what they are, in one line.

    Raises:
        OutputError: it cannot be written.
    """
    lines = [f"{COMMENT} {remark}", *(f"{name}={_text(value)}" for name, value in values.items())]
    with written_whole(path) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def apply(kind: type[S], values: Mapping[str, JsonValue], **fixed: Any) -> S:  # noqa: ANN401 - fields of any type
    """An instance of ``kind`` from the values that are its fields; ``fixed`` fields win unless None."""
    names = names_of(kind)
    chosen = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in names}
    chosen |= {name: value for name, value in fixed.items() if value is not None}
    return kind(**chosen)


def describe(kinds: Sequence[type[Spec]], without: Collection[str] = ()) -> str:
    """One line per setting: name and default, meaning."""
    lines: dict[str, str] = {}
    for kind in kinds:
        meanings = _meanings(kind)
        for field in _fields(kind):
            if field.name not in without and field.name not in lines:
                lines[field.name] = f"{field.name}={_default(field)}\t{meanings.get(field.name, '')}".rstrip()
    return "\n".join(lines.values()) + "\n"


def names_of(*kinds: type[Spec]) -> set[str]:
    """The names of the settings of dataclasses."""
    return {field.name for kind in kinds for field in _fields(kind)}


def _fields(kind: type[Spec]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)  # type: ignore[arg-type]  # Spec itself is none, all below it are


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if value is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    return _text(value)


def _text(value: object) -> str:
    """A value as :func:`parse` reads it."""
    if isinstance(value, tuple | list):
        return ",".join(str(v) for v in value)
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


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
        inner, parts = typing.get_args(kind), text.split(",")
        if Ellipsis not in inner and len(parts) != len(inner):
            raise ValueError(text)
        return [_convert(part.strip(), inner[0]) for part in parts]
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
            words.append("a list like 1,2" if Ellipsis in typing.get_args(kind) else "two numbers like 1,2")
        elif kind is not type(None):
            words.append(
                {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(kind.__name__, "text")
            )
    return " or ".join(words)


def _type_of(name: str, kinds: Sequence[type[Spec]]) -> Any:  # noqa: ANN401
    hints = ((kind, hint) for kind in reversed(kinds) for hint in typing.get_type_hints(kind).items())
    known = {own: hint for kind, (own, hint) in hints if own in names_of(kind)}  # the first that has it decides
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"choose from {', '.join(sorted(known))}"
        raise UsageError("--set", f"there is no setting '{name}' here", hint)
    return known[name]


def _meanings(kind: type) -> dict[str, str]:
    """Field meanings from the ``Attributes:`` part of the docstrings of a dataclass and of those below it."""
    meanings: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        text = inspect.cleandoc(one.__doc__ or "").replace("``", "")
        part = text.partition("Attributes:")[2]
        found = re.findall(r"^ {4}(\w+): (.+(?:\n {8,}.+)*)", part, flags=re.MULTILINE)
        meanings |= {name: " ".join(meaning.split()) for name, meaning in found}
    return meanings
