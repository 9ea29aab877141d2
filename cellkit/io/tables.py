"""Tables by columns as files: CSV, and Parquet where pyarrow is installed.

CSV has a line of names, then a line per row; numbers have all their digits, what is not known is empty, and truth
values are ``true`` and ``false``. Parquet has the same columns, whose unknown values are null.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellkit.errors import UsageError

CSV, PARQUET = ".csv", ".parquet"
PARQUET_LIBRARY = "pyarrow"


def check_table_name(name: str) -> str:
    """The kind of table that a file is called as: :data:`CSV` or :data:`PARQUET`.

    Raises:
        UsageError: neither, or Parquet without the library that writes it.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in (CSV, PARQUET):
        raise UsageError(name or "--output", "tables are not written as this kind of file", "name a .csv or .parquet")
    if suffix == PARQUET and importlib.util.find_spec(PARQUET_LIBRARY) is None:
        raise UsageError(name, "Parquet needs pyarrow, which is not installed", "pip install pyarrow, or name a .csv")
    return suffix


def encode_table(columns: Mapping[str, NDArray[Any]], suffix: str = CSV) -> bytes:
    """A table as a file; the same columns give the same bytes.

    Args:
        columns: name -> (R,) values: numbers, truth values, or texts as objects; NaN is unknown.
        suffix: kind of table.
    """
    return _encode_csv(columns) if suffix == CSV else _encode_parquet(columns)


def _encode_csv(columns: Mapping[str, NDArray[Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*map(_cells, columns.values()), strict=True))
    return text.getvalue().encode("utf-8", "surrogateescape")


def _cells(values: NDArray[Any]) -> list[Any]:
    if values.dtype.kind == "b":
        return ["true" if value else "false" for value in values]
    cells: list[Any] = values.tolist()
    if values.dtype.kind == "f":
        for place in np.flatnonzero(np.isnan(values)):
            cells[place] = ""
    return cells


def _encode_parquet(columns: Mapping[str, NDArray[Any]]) -> bytes:
    arrow: Any = importlib.import_module(PARQUET_LIBRARY)
    parquet: Any = importlib.import_module(f"{PARQUET_LIBRARY}.parquet")
    arrays = [_arrow_array(arrow, values) for values in columns.values()]
    memory = io.BytesIO()
    parquet.write_table(arrow.Table.from_arrays(arrays, names=list(columns)), memory)
    return memory.getvalue()


def _arrow_array(arrow: Any, values: NDArray[Any]) -> Any:  # noqa: ANN401 - pyarrow is not typed
    if values.dtype.kind == "O":
        return arrow.array([_as_unicode(text) for text in values], arrow.string())
    return arrow.array(values, mask=np.isnan(values) if values.dtype.kind == "f" else None)


def _as_unicode(text: str) -> str:
    """Names of files need not be Unicode, texts of Parquet must."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
