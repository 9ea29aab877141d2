"""Tables as CSV and Parquet."""

from __future__ import annotations

import csv
import importlib.util
import io

import numpy as np
import pytest

from cellkit.errors import UsageError
from cellkit.io.tables import check_table_name, encode_table

COLUMNS = {
    "image": np.array(["a,b", "ü"], object),
    "label": np.array([3, 70_000]),
    "score": np.array([0.1, np.nan]),
    "touches_border": np.array([True, False]),
}


def test_csv_has_all_digits_and_nothing_for_what_is_not_known():
    text = encode_table(COLUMNS).decode()
    assert text == 'image,label,score,touches_border\n"a,b",3,0.1,true\nü,70000,,false\n'


def test_numbers_come_back_exactly():
    values = np.random.default_rng(0).normal(size=50)
    rows = list(csv.DictReader(io.StringIO(encode_table({"x": values}).decode())))
    assert [float(row["x"]) for row in rows] == values.tolist()


def test_names_that_are_no_unicode_keep_their_bytes():
    name = b"\xff.tif".decode("utf-8", "surrogateescape")
    assert encode_table({"image": np.array([name], object)}) == b"image\n\xff.tif\n"


def test_a_table_without_rows_has_names():
    assert encode_table({"image": np.zeros(0, object), "area": np.zeros(0)}) == b"image,area\n"


def test_parquet_has_the_same_columns():
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(io.BytesIO(encode_table(COLUMNS, ".parquet")))
    assert table.to_pydict() == {
        "image": ["a,b", "ü"],
        "label": [3, 70_000],
        "score": [0.1, None],
        "touches_border": [True, False],
    }


@pytest.mark.parametrize("name", ["cells.xlsx", "cells", ""])
def test_other_kinds_are_refused(name):
    with pytest.raises(UsageError, match=r"name a \.csv or \.parquet"):
        check_table_name(name)


def test_parquet_needs_its_library(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"Parquet needs pyarrow, which is not installed \(pip install pyarrow"):
        check_table_name("cells.parquet")
    assert check_table_name("cells.CSV") == ".csv"
