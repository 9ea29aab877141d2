"""Names of outputs."""

from __future__ import annotations

import pytest

from cellkit.errors import InputError
from cellkit.io.keys import key_of, safe_key, split_dataset, suffix_of


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("in/cells.tif", "cells"),
        ("img.01 a.ome.tif", "img.01 a"),
        ("IMG.OME.TIFF", "IMG"),
        ("a.b.c.png", "a.b.c"),
        ("Zähler/Übersicht ä 细胞.JPG", "Übersicht ä 细胞"),
        ("stack.h5::/a/raw", "stack"),
        ("stack.h5::raw", "stack"),
        ("odd::name.tif", "odd::name"),
        ("no suffix", "no suffix"),
        ("readme.txt", "readme.txt"),
    ],
)
def test_key_is_the_name_without_folder_and_image_suffix(name, key):
    assert key_of(name) == key


@pytest.mark.parametrize("key", ["img.01 a", "细胞", "a::b", "..a".lstrip(".")])
def test_safe_key_is_kept(key):
    assert safe_key(key) == key


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("", "has no name to call its output by"),
        ("../x", "'../x' would leave the output folder"),
        ("a/b", "'a/b' would leave the output folder"),
        ("a\\b", "would leave the output folder"),
        ("a\0b", "would leave the output folder"),
        ("..", "'..' begins with a dot"),
        (".hidden", "'.hidden' begins with a dot"),
    ],
)
def test_unsafe_key_is_refused(key, problem):
    with pytest.raises(InputError) as caught:
        safe_key(key, source="member")
    assert problem in str(caught.value)
    assert str(caught.value).startswith("member: ")
    assert "(rename it" in str(caught.value)


def test_file_called_by_its_suffix_alone_has_no_key():
    with pytest.raises(InputError, match=r"has no name to call its output by \(rename it\)"):
        key_of("folder/.tif")


def test_suffix_is_the_longest_known_one():
    assert suffix_of("a.OME.TIF") == ".ome.tif"
    assert suffix_of("a.b.jpeg") == ".jpeg"
    assert suffix_of("a.txt") == ""


def test_dataset_is_split_from_its_file():
    assert split_dataset("d/a.h5::/x/y") == ("d/a.h5", "/x/y")
    assert split_dataset("a.ims::/x") == ("a.ims", "/x")
    assert split_dataset("a.h5::") == ("a.h5::", None)
    assert split_dataset("a.tif") == ("a.tif", None)
