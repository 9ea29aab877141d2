"""The error boundary, names that users type, and help."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from cellkit import __version__, errors
from cellkit.cli import describing
from cellkit.cli.app import VERBS, TerminatedError, _asks_for_help, _explain, app, normalise_arguments
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


@pytest.mark.parametrize("verb", VERBS)
def test_quick_help_is_the_help(cellkit, verb):
    with contextlib.redirect_stdout(io.StringIO()) as usual:
        app(args=[verb, "--help"], prog_name="cellkit", standalone_mode=False)
    assert cellkit(verb, "--help").text == usual.getvalue()
    assert cellkit(verb, "x", "-h").text == usual.getvalue()


def test_help_after_two_dashes_is_a_name():
    assert not _asks_for_help(["segment", "--", "--help"])


def test_a_bare_command_shows_help(cellkit):
    done = cellkit()
    assert (done.code, done.text) == (2, "")
    assert done.err == cellkit("--help").text


def test_shells_get_their_completions():
    words = {"COMP_WORDS": "cellkit segment --on-exists ", "COMP_CWORD": "3", "_CELLKIT_COMPLETE": "complete_bash"}
    command = [sys.executable, "-m", "cellkit"]
    done = subprocess.run(command, env=os.environ | words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["skip", "overwrite", "error"]


def test_interrupted_command_says_how_to_go_on(cellkit, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(describing, "installation", interrupt)
    done = cellkit("info")
    assert done.code == 130
    assert done.err == "cellkit info: error: interrupted (run the same command again to go on)\n"


def test_broken_pipe_ends_quietly():
    command = f"{sys.executable} -m cellkit info --json | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, '{\n  "cellk', "")


@pytest.mark.parametrize(
    ("arguments", "normal"),
    [
        (["segment", "--dry_run"], ["segment", "--dry-run"]),
        (["segment", "--flow_threshold", "-1"], ["segment", "--set", "flow_threshold=-1"]),
        (["segment", "--cellprob-threshold=-1"], ["segment", "--set", "cell_threshold=-1"]),
        (["predict", "--oom-fallback", "cpu"], ["predict", "--set", "oom_fallback=cpu"]),
        (["postprocess", "--exclude_on_edges"], ["postprocess", "--set", "exclude_border=true"]),
        (["evaluate", "--overlap", "3"], ["evaluate", "--overlap", "3"]),  # it has no settings
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
