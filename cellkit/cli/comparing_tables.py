"""CSV tables that people bring: groups of images, scores of many runs."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from cellkit.errors import InputError, NoInputError

DELIMITERS = ",;\t"  # spreadsheets write semicolons where the comma is decimal


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        place: file and line, for messages.
        cells: text by column, without blanks around it; "" where the row is too short.
    """

    place: str
    cells: dict[str, str]

    def number(self, column: str) -> float:
        """The number in a column.

        Raises:
            InputError: the cell holds none, or none that is finite.
        """
        try:
            value = float(self.cells[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(self.place, f"{column} {self.cells[column]!r} is no number", "leave undefined rows out")
        return value


@dataclass(frozen=True)
class CsvTable:
    """A table with a line of names.

    Attributes:
        columns: names, without blanks around them, in the order of the file.
        rows: the rows that are not empty.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_table(path: str) -> CsvTable:
    """A CSV file with commas, semicolons or tabs; the first line names the columns.

    Raises:
        InputError: it cannot be read or is no text, names a column twice, or a row is longer than its first line.
        NoInputError: it has no rows.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as stream:
            header = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, delimiter=max(DELIMITERS, key=header.count))
            stripped = ((reader.line_num, [cell.strip() for cell in cells]) for cells in reader)
            lines = [(number, cells) for number, cells in stripped if any(cells)]
    except FileNotFoundError as error:
        raise InputError(path, "there is no such table", "check the path") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, "the table cannot be read", "give CSV text in UTF-8 with a line of names") from error
    if len(lines) < 2:
        raise NoInputError(path, "the table has no rows", "one line of names, then one line per row")
    columns = tuple(lines[0][1])
    if twice := next((name for name in columns if name and columns.count(name) > 1), None):
        raise InputError(path, f"two columns are called {twice}", "rename one")
    return CsvTable(columns, tuple(_row(path, line, columns, cells) for line, cells in lines[1:]))


def _row(path: str, line: int, columns: tuple[str, ...], cells: list[str]) -> Row:
    place = f"{path}, line {line}"
    if len(cells) > len(columns):
        raise InputError(place, f"{len(cells)} cells under {len(columns)} names", "quote cells that hold the delimiter")
    return Row(place, dict(zip(columns, cells + [""] * (len(columns) - len(cells)), strict=True)))
