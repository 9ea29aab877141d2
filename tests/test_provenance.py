"""Histories survive their text, digests tell files apart."""

from __future__ import annotations

import io

import pytest

from cellkit.provenance import Record, digest_of, from_json, to_json

HISTORY = (
    Record(verb="predict", arguments={"diameter": 30.0}, model="nuclei", model_digest="ab", input_digest="cd"),
    Record(verb="postprocess", version="9.9.9"),
)


def test_history_survives_its_text():
    assert from_json(to_json(HISTORY)) == HISTORY


def test_equal_histories_have_equal_text():
    first = Record(verb="x", arguments={"a": 1, "b": 2})
    second = Record(verb="x", arguments={"b": 2, "a": 1})
    assert to_json((first,)) == to_json((second,))


def test_fields_of_newer_versions_are_ignored():
    assert from_json('[{"verb": "x", "version": "9", "colour": "red"}]') == (Record(verb="x", version="9"),)


@pytest.mark.parametrize("text", ["{", "3", '[{"version": "1"}]', "[7]"])
def test_what_is_no_history_is_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        from_json(text)


def test_digest_is_that_of_the_bytes_however_they_come(tmp_path):
    data = bytes(range(256)) * 9000  # more than one piece
    (tmp_path / "file").write_bytes(data)
    assert digest_of(data) == digest_of(tmp_path / "file") == digest_of(io.BytesIO(data))
    assert digest_of(data) != digest_of(data[:-1])
    assert len(digest_of(data)) == 32
