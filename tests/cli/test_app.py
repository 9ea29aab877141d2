"""The error boundary, names that users type, and help."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from cellkit import __version__, errors
from cellkit.cli.app import VERBS, TerminatedError, _explain, normalise_arguments
from cellkit.cli.manual import ROOT, generate


def test_version_is_one_line(cellkit):
    done = cellkit("--version")
    assert (done.code, done.text, done.err) == (0, f"cellkit {__version__}\n", "")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(cellkit, verb):
    done = cellkit(verb, "--help")
    assert done.code == 0
    assert done.text.startswith(f"Usage: cellkit {verb} ")
    assert (VERBS[verb].__doc__ or "").split("\n")[0].rstrip(".") in done.text


def test_help_needs_no_torch():
    code = "import sys; from cellkit.cli.app import main; main(['segment', '--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0


def test_a_bare_command_shows_help(cellkit):
    done = cellkit()
    assert "Usage: cellkit" in done.text + done.err


@pytest.mark.parametrize(
    ("arguments", "normal"),
    [
        (["segment", "--flow_threshold", "1"], ["segment", "--flow-threshold", "1"]),
        (["--savedir=out_put"], ["--output=out_put"]),
        (["--pretrained_model", "a_b"], ["--model", "a_b"]),
        (["--set", "min_area=3"], ["--set", "min_area=3"]),
        (["--", "--a_b"], ["--", "--a_b"]),
        (["-o", "-"], ["-o", "-"]),
    ],
)
def test_names_that_users_type_are_accepted(arguments, normal):
    assert normalise_arguments(arguments) == normal


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("--x", "is wrong"), 2),
        (errors.DeviceError("cuda", "is not here"), 2),
        (errors.PartialError("a", "failed"), 3),
        (errors.OutputError("a", "disk full"), 3),
        (errors.NoInputError("a", "nothing"), 4),
        (errors.InputError("a", "truncated"), 5),
        (errors.ModelError("a", "too new"), 5),
        (errors.GateError("f1", "too low"), 6),
        (errors.LockedError("a", "busy"), 75),
        (errors.InterruptedRunError("a", "saved", signal.SIGINT), 130),
        (errors.InterruptedRunError("a", "saved", signal.SIGTERM), 143),
        (errors.MemoryLimitError("a", "too big"), 137),
        (MemoryError(), 137),
        (KeyboardInterrupt(), 130),
        (TerminatedError(), 143),
        (typer.Exit(4), 4),
        (ValueError("x\ny"), 1),
    ],
)
def test_each_failure_has_its_exit_code_and_one_line(error, code):
    found, text = _explain("cellkit x", error)
    assert found == code
    assert "\n" not in text


def test_error_line_names_file_problem_and_repair():
    assert str(errors.InputError("a.tif", "is empty", "copy it again")) == "a.tif: is empty (copy it again)"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["segmnt"], "cellkit: error: No such command 'segmnt'"),
        (["segment", "x.tif"], "cellkit segment: error: Missing option '--output' / '-o'"),
        (["segment", "x.tif", "-o", "y", "--nope"], "cellkit segment: error: No such option: --nope"),
        (
            ["segment", "x.tif", "-o", "y", "--precision", "int3"],
            "cellkit segment: error: Invalid value for '--precision'",
        ),
    ],
)
def test_usage_errors_are_one_line(cellkit, arguments, line):
    done = cellkit(*arguments)
    assert done.code == 2
    assert done.err.startswith(line)
    assert done.err.count("\n") == 1


def test_manual_is_in_step():
    for path, text in generate().items():
        assert (ROOT / path).read_text() == text, "run: python -m cellkit.cli.manual"


def test_no_page_of_a_verb_that_is_gone():
    pages = {str(p.relative_to(ROOT)) for p in Path(ROOT / "man").rglob("*.[1-8]")}
    assert pages <= set(generate())
