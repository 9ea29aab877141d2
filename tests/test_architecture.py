"""The shape of the house: imports point down, files and functions stay small, help stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "cellkit"
FILES = sorted(PACKAGE.rglob("*.py"))

ALLOWED = {  # room -> rooms it may import; its own is always allowed
    "errors": set(),
    "config": {"errors"},
    "provenance": {"config", "errors"},
    "overlap": set(),
    "io": {"config", "errors", "overlap", "provenance"},
    "ops": {"config", "errors", "overlap"},
    "data": {"config", "errors", "overlap", "provenance", "io", "ops"},
    "networks": {"config", "errors", "ops"},
    "representations": {"config", "errors", "ops"},
    "metrics": {"config", "errors", "ops"},
    "reports": {"config", "errors", "ops", "metrics", "provenance"},
    "engine": {"config", "errors", "overlap", "io"},  # of io only how files appear whole
}
BLOCKS = set(ALLOWED)
ALLOWED["methods"] = BLOCKS
ALLOWED["stages"] = BLOCKS | {"methods"}
ALLOWED["cli"] = BLOCKS | {"methods", "stages"}

FOUNDATION_MODULES = {"errors", "config", "provenance", "overlap"}
LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def room_of(path: Path) -> str:
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "cellkit":
                names = [f"cellkit.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("cellkit.")}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = room_of(path)
    if room in {"__init__", "__main__"}:
        return
    upward = imported_rooms(path) - ALLOWED[room] - {room}
    assert not upward, f"{room} must not import {sorted(upward)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= LONGEST_FUNCTION, node.name


def test_no_nameless_rooms():
    assert not {"utils", "helpers", "common", "misc"} & {path.stem for path in FILES}


def test_foundation_needs_the_standard_library_and_numpy_alone():
    for name in FOUNDATION_MODULES:
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("cellkit"):
                assert node.module.split(".")[0] in sys.stdlib_module_names | {"numpy"}


@pytest.mark.parametrize("statement", ["import cellkit", "import cellkit.cli.app"])
def test_torch_is_imported_only_when_it_is_needed(statement):
    code = f"import sys; {statement}; print(sorted({{'torch', 'numpy', 'scipy', 'skimage'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scoring_does_not_wait_for_torch():
    code = "import sys; from cellkit.cli import scoring; scoring.stages.evaluate; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
