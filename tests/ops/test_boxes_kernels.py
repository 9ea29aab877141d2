"""torchvision is asked for once, and missed without a word."""

from __future__ import annotations

import sys
import types
import warnings

import pytest

from cellkit.ops import boxes_kernels


@pytest.fixture(autouse=True)
def _asked_again():
    boxes_kernels.kernels.cache_clear()
    yield
    boxes_kernels.kernels.cache_clear()


def installed(monkeypatch):
    package, ops = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.ops", ops)
    return ops


def test_it_is_taken_where_it_imports(monkeypatch):
    ops = installed(monkeypatch)
    assert boxes_kernels.kernels() is ops


def test_it_is_missed_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.ops", raising=False)
    assert boxes_kernels.kernels() is None


@pytest.mark.parametrize(
    "error", [RuntimeError("operator torchvision::nms does not exist"), ImportError("no symbol"), AttributeError("ops")]
)
def test_it_is_missed_where_it_was_built_for_another_torch(monkeypatch, error):
    def broken(name):
        warnings.warn("no image codec", stacklevel=1)
        raise error

    monkeypatch.setattr(boxes_kernels.importlib, "import_module", broken)
    assert boxes_kernels.kernels() is None


def test_it_is_asked_for_once(monkeypatch):
    ops = installed(monkeypatch)
    asked = []
    monkeypatch.setattr(boxes_kernels.importlib, "import_module", lambda name: asked.append(name) or ops)
    assert boxes_kernels.kernels() is boxes_kernels.kernels() is ops
    assert asked == ["torchvision.ops"]
