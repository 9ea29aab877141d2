"""The names of the engine."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cellkit.engine


@pytest.mark.parametrize("name", cellkit.engine.__all__)
def test_every_name_is_there(name):
    assert getattr(cellkit.engine, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Trainer'"):
        cellkit.engine.Trainer  # noqa: B018


def test_settings_need_no_torch():
    code = "import sys; from cellkit.engine import FitSettings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
