"""The scripts of the Cellulus recipes: their order and what they pass on, with a stand-in for cellkit."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
import typer

from cellkit.cli.app import app

RECIPES = Path(__file__).resolve().parent.parent / "recipes"

# What a stand-in for cellkit does: it writes down how it was called, and files in the places of the real ones. A model
# is a text file with a number, which is the score of what it segments: 0.6 without labels, 0.9 the bundled one, and of
# runs on labelled parts 0.3 + 0.1 alpha + 0.2 fraction + 0.01 draw. What has no model, the baseline, gets 0.4.
STAND_IN = r"""#!/usr/bin/env bash
{ printf '%s\037' "$@" && echo; } >>"$CALLS"
[[ -z ${FAILS:-} || "$*" != *"$FAILS"* ]] || exit 9
after() { # OPTION: the word behind it
    local option=$1 i
    for ((i = 2; i < ${#words[@]}; i++)); do [[ ${words[i - 1]} != "$option" ]] || echo "${words[i]}"; done
}
words=("$@")
out=$(after -o)
case "$1 $*" in
    pretrain*) echo 0.6 >"$out" ;;
    finetune*)
        part=$(basename "$(after --labels)")
        part=${part#fraction}
        awk -v alpha="$(after --alpha)" -v fraction="${part%-draw*}" -v draw="$(after --seed)" \
            'BEGIN { print 0.3 + 0.1 * alpha + 0.2 * fraction + 0.01 * draw }' >"$out"
        echo state >"${out%.ckpt}.last.ckpt"
        ;;
    predict*) mkdir -p "$out" && cp "$(after -m)" "$out/model.txt" ;;
    postprocess*)
        mkdir -p "$out"
        [[ -f $out/model.txt && $* != *overwrite* ]] || cp "$2/model.txt" "$out/model.txt"
        ;;
    segment*)
        mkdir -p "$out"
        [[ $(after -m) != nuclei ]] || model=0.9
        [[ -f $out/model.txt ]] || echo "${model:-$(cat "$(after -m)")}" >"$out/model.txt"
        ;;
    convert*) mkdir -p "$out" ;;
    view*) echo picture >"$out" ;;
    evaluate*--compare*)
        entry='{"n": 2, "difference": 0.2, "low": 0.1, "high": 0.3}'
        printf '{"comparison": {"metrics": {"f1@0.5": %s, "ctc/SEG": %s}}}\n' "$entry" "$entry"
        ;;
    evaluate*)
        score=0.4
        [[ ! -f $3/model.txt ]] || score=$(<"$3/model.txt")
        all="{\"f1@0.5\": $score, \"ctc/SEG\": $score}"
        one="{\"n\": 2, \"mean\": $score, \"low\": 0.1, \"high\": 0.95}"
        printf '{"mean": %s, "pooled": %s, "summary": {"f1@0.5": %s, "ctc/SEG": %s}}\n' "$all" "$all" "$one" "$one"
        ;;
esac
"""

# What a stand-in for Python does, where only the order matters: the real one takes most of the time of a test.
PYTHON = """#!/usr/bin/env bash
{ printf '%s\\037' "$(basename "$1")" "${@:2}" && echo; } >>"$CALLS"
case $1 in
    *images.py)
        mkdir -p "$3/learn" "$3/test" "$3/labels"
        echo 20.0 | tee "$3/told.txt" >"$3/size.txt"
        echo t0 >"$3/test.txt"
        ;;
    *watershed.py) mkdir -p "$3" ;;
    *report.py) echo "tables of $*" >"$3/tables.md" ;;
esac
"""


class Workshop:
    """Runs a script with stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.data = folder, folder / "out", folder / "data"
        self.calls: list[list[str]] = []  # of the last run
        (folder / "bin").mkdir()
        for name, text in (("cellkit", STAND_IN), ("fake_python", PYTHON)):
            stand_in = folder / "bin" / name
            stand_in.write_text(text)
            stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)

    def run(self, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
        log = self.folder / "calls"
        log.write_text("")
        known = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "PYTHON": "fake_python", "CALLS": str(log)}
        passed = {name: os.environ[name] for name in ("HOME", "PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ}
        result = subprocess.run(
            [RECIPES / f"{name}.sh", self.data, self.out],
            env=passed | known | environment,
            capture_output=True,
            text=True,
        )
        self.calls = [line.split("\037")[:-1] for line in log.read_text().splitlines()]
        return result

    def of(self, verb: str) -> list[list[str]]:
        return [call for call in self.calls if call[0] == verb]

    @property
    def verbs(self) -> list[str]:
        return [call[0] for call in self.calls]


@pytest.fixture
def workshop(tmp_path):
    return Workshop(tmp_path)


@pytest.fixture(scope="module")
def field():
    """Labels (48, 60): two cells of one size that do not touch."""
    y, x = np.ogrid[:48, :60]
    first, second = ((y - cy) ** 2 + (x - cx) ** 2 <= 11**2 for cy, cx in ((20, 16), (28, 44)))
    return (first + 2 * second).astype(np.int32)


def write_data(folder: Path, field: np.ndarray, count: int = 4) -> None:
    """Images p0, p1, ... with labels."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        tifffile.imwrite(folder / f"images/p{number}.tif", ((field > 0) * (100 + number)).astype(np.uint8))
        tifffile.imwrite(folder / f"labels/p{number}.tif", field.astype(np.uint16))


def value(call: list[str], option: str) -> str:
    return call[call.index(option) + 1]


def settings_of(call: list[str]) -> dict[str, str]:
    return dict(word.removeprefix("--set=").split("=", 1) for word in call if word.startswith("--set="))


def assert_options_are_real(calls: list[list[str]]) -> None:
    """What the stand-in was given, the real command knows."""
    verbs = typer.main.get_command(app).commands
    for verb, *words in calls:
        if verb in verbs:
            known = {o for parameter in verbs[verb].params for o in (*parameter.opts, *parameter.secondary_opts)}
            used = {word.split("=")[0] for word in words if word.startswith("-")}
            assert used <= known, (verb, used - known)


@pytest.mark.parametrize("name", ["cellulus", "cellulus-scales", "cellulus-supported"])
def test_a_script_without_arguments_tells_how_it_is_used(name):
    result = subprocess.run([RECIPES / f"{name}.sh"], capture_output=True, text=True)
    assert result.returncode == 2
    assert f"recipes/{name}.sh DATA OUT" in result.stderr
    assert "#" not in result.stderr


# Without labels, beside a baseline


def test_it_learns_from_images_alone_and_scores_all_on_the_same_ones(workshop):
    result = workshop.run("cellulus", STEPS="20", SETTINGS="noise_copies=4", DECODE="shrink=3 post=cell")
    assert (result.returncode, result.stderr) == (0, "")
    assert workshop.verbs == [
        "cellulus_images.py",
        *("pretrain", "predict", "postprocess", "view", "evaluate", "view"),
        *("cellulus_watershed.py", "evaluate", "view"),
        *("segment", "evaluate", "view"),
        *("evaluate", "evaluate"),  # the comparisons
        "cellulus_report.py",
    ]
    (training,) = workshop.of("pretrain")
    assert training[1] == f"{workshop.out}/images/learn"
    assert str(workshop.data) not in training
    assert (value(training, "--method"), value(training, "--object-size")) == ("oce", "20.0")
    assert (value(training, "--steps"), value(training, "--lr")) == ("20", "1e-3")
    assert settings_of(training) == {"batch": "8", "crop": "128", "widths": "24,72", "noise_copies": "4"}
    assert settings_of(workshop.of("postprocess")[0]) == {"shrink": "3", "post": "cell"}
    (watershed,) = workshop.of("cellulus_watershed.py")
    assert watershed[1:] == [f"{workshop.out}/images/test", f"{workshop.out}/labels/watershed", "20.0", "20.0"]
    scored = workshop.of("evaluate")
    assert all(value(call, "--names") == f"{workshop.out}/images/test.txt" for call in scored)
    assert {call[1] for call in scored} == {str(workshop.data)}
    assert scored[3][2:5] == ["--compare", f"{workshop.out}/labels/watershed", f"{workshop.out}/labels/oce"]
    assert_options_are_real(workshop.calls)


def test_a_finished_run_only_asks_what_is_up_to_date(workshop):
    workshop.run("cellulus")
    assert workshop.run("cellulus").returncode == 0
    assert workshop.verbs == [
        *("cellulus_images.py", "pretrain", "predict", "postprocess", "view"),  # these skip what is there themselves
        *("segment", "cellulus_report.py"),
    ]
    assert "--on-exists" not in workshop.of("postprocess")[0]


def test_other_settings_of_decoding_need_no_new_training(workshop):
    workshop.run("cellulus")
    for name in ("scores/oce.json", "scores/oce-watershed.json", "scores/oce-nuclei.json", "overlays/oce.png"):
        earlier = (workshop.out / name).stat().st_mtime - 60
        os.utime(workshop.out / name, (earlier, earlier))
    for model in workshop.out.glob("labels/*/model.txt"):
        os.utime(model, (earlier - 60, earlier - 60))
    workshop.run("cellulus", DECODE="shrink=2", METHODS="oce")
    assert value(workshop.of("postprocess")[0], "--on-exists") == "overwrite"
    rescored = [call[2:5] for call in workshop.of("evaluate")]
    ours = f"{workshop.out}/labels/oce"
    assert rescored == [
        [ours, "--names", f"{workshop.out}/images/test.txt"],
        ["--compare", f"{workshop.out}/labels/watershed", ours],
        ["--compare", f"{workshop.out}/labels/nuclei", ours],
    ]


def test_other_images_to_score_on_can_be_named(workshop):
    workshop.run("cellulus", TEST="held", METHODS="nuclei", TEST_NAMES="list.txt")
    places = [str(workshop.data), f"{workshop.out}/images"]
    assert workshop.calls[0][1:] == [*places, "names=", "test=held", "test_names=list.txt", "size="]
    (scored,) = workshop.of("evaluate")
    assert scored[1] == "held"
    assert value(workshop.of("view")[0], "--truth") == "held"
    assert not workshop.of("pretrain")


def test_a_method_that_fails_costs_no_other(workshop):
    result = workshop.run("cellulus", FAILS="--method")
    assert result.returncode == 1
    assert result.stderr == "cellulus: failed: oce (run it again to go on)\n"
    assert workshop.verbs[2:] == [
        *("cellulus_watershed.py", "evaluate", "view"),
        *("segment", "evaluate", "view", "cellulus_report.py"),
    ]


def test_an_unknown_method_is_refused_before_anything_is_run(workshop):
    result = workshop.run("cellulus", METHODS="oce cellpose")
    assert result.returncode == 2
    assert result.stderr == "cellulus: METHODS: there is no cellpose (choose from oce watershed nuclei)\n"
    assert workshop.calls == []


def test_scores_of_a_whole_run_stand_in_its_table(workshop, field):
    write_data(workshop.data, field)
    (workshop.folder / "list.txt").write_text("p3\np1\n")
    names = {"TEST_NAMES": str(workshop.folder / "list.txt"), "OBJECT_SIZE": "22"}
    result = workshop.run("cellulus", PYTHON=sys.executable, **names)
    assert (result.returncode, result.stderr) == (0, "")
    assert (workshop.out / "images/test.txt").read_text() == "p1\np3\n"
    assert [tifffile.imread(workshop.out / f"labels/watershed/p{n}.tif").max() for n in (1, 3)] == [2, 2]
    table = (workshop.out / "table.md").read_text()
    assert result.stdout.endswith(table)
    assert "| Cellulus (no labels) | 2 | 0.600 [0.100, 0.950] | 0.600 | 0.600 [0.100, 0.950] | 0.600 |" in table
    assert "| Otsu + watershed | 2 | 0.400 [" in table
    assert "| Cellulus (no labels) - Otsu + watershed | +0.200 [0.100, 0.300] |" in table
    lines = (workshop.out / "scores.csv").read_text().splitlines()
    assert lines[1] == "oce,1.0,f1@0.5,2,0.6,0.1,0.95,0.6"
    assert len(lines) == 1 + 3 * 2


# Scale factors


def test_a_larger_factor_tells_smaller_objects(workshop):
    result = workshop.run("cellulus-scales", FACTORS="0.5 1 1.25", STEPS="7")
    assert result.returncode == 0, result.stderr
    told = [next(word for word in call if word.startswith("size=")) for call in workshop.of("cellulus_images.py")]
    assert told == ["size=", "size=40.00", "size=20.00", "size=16.00"]
    trained = [(value(call, "-o"), value(call, "--steps")) for call in workshop.of("pretrain")]
    assert trained == [(f"{workshop.out}/scale-{factor}/oce.ckpt", "7") for factor in ("0.5", "1", "1.25")]
    assert not workshop.of("segment")  # the bundled model is told no size
    assert workshop.calls[-1] == ["cellulus_report.py", "scales", str(workshop.out), "f1@0.5", "ctc/SEG"]
    assert_options_are_real(workshop.calls)


def test_a_factor_that_fails_costs_no_other(workshop):
    result = workshop.run("cellulus-scales", FACTORS="1 2", FAILS="scale-1/oce.ckpt", METHODS="oce")
    assert result.returncode == 1
    assert result.stderr.endswith("cellulus-scales: failed: scale 1 (run it again to go on)\n")
    assert len(workshop.of("postprocess")) == 1


# A part of the labels


SMALL = {"FRACTIONS": "0.01 1", "DRAWS": "0 1", "TEST_NAMES": "held.txt", "NAMES": "learn.txt"}


def runs_made(workshop: Workshop) -> list[tuple[str, ...]]:
    """Folder of labels, pseudo labels or not, alpha and seed of each training."""
    made = []
    for call in workshop.of("finetune"):
        labels = Path(value(call, "--labels")).name if "--labels" in call else "none"
        made.append((labels, "--pseudo" in call, value(call, "--alpha"), value(call, "--seed")))
    return made


def test_all_parts_are_trained_on_draw_by_draw_with_and_without_pseudo_labels(workshop):
    result = workshop.run("cellulus-supported", **SMALL, STEPS="5", WIDTHS="4,8")
    assert result.returncode == 0, result.stderr
    assert runs_made(workshop) == [
        run
        for draw in "01"
        for run in (
            ("none", True, "1", draw),
            (f"fraction0.01-draw{draw}", False, "0", draw),
            (f"fraction0.01-draw{draw}", True, "0.5", draw),
            (f"fraction1-draw{draw}", False, "0", draw),
            (f"fraction1-draw{draw}", True, "0.5", draw),
        )
    ]
    for call in workshop.of("finetune"):
        assert call[1] == f"{workshop.out}/images/learn"
        assert (value(call, "--network"), value(call, "--representation")) == ("mini-unet", "star")
        assert (value(call, "--steps"), value(call, "--diameter")) == ("5", "20.0")
        assert settings_of(call) == {"batch": "8", "crop": "224", "widths": "4,8"}
    sparse = [(value(c, "--keep-fraction"), value(c, "--seed"), c[1]) for c in workshop.of("convert")]
    labels = f"{workshop.out}/images/labels"
    assert sparse == [(part, draw, labels) for draw in "01" for part in ("0.01", "0.01", "1", "1")]
    assert {call[1] for call in workshop.of("segment")} == {f"{workshop.out}/images/test"}
    assert_options_are_real(workshop.calls)


def test_the_pseudo_labels_are_of_the_images_that_are_learned_from(workshop):
    workshop.run("cellulus-supported", **SMALL, STEPS="5", OCE_STEPS="9", TEST="other", DECODE="shrink=2")
    (training,) = workshop.of("pretrain")
    assert (value(training, "--steps"), value(training, "-o")) == ("9", f"{workshop.out}/pseudo/oce.ckpt")
    _, inner = workshop.of("cellulus_images.py")
    places = [str(workshop.data), f"{workshop.out}/pseudo/images"]
    assert inner[1:] == [*places, "names=learn.txt", "test=", "test_names=learn.txt", "size=20.0"]
    pseudo = {value(call, "--pseudo") for call in workshop.of("finetune") if "--pseudo" in call}
    assert pseudo == {f"{workshop.out}/pseudo/labels/oce"}
    itself = workshop.of("segment")[0]
    assert (value(itself, "-m"), settings_of(itself)) == (f"{workshop.out}/pseudo/oce.ckpt", {"shrink": "2"})


def test_pseudo_labels_that_are_there_are_taken(workshop):
    workshop.run("cellulus-supported", **SMALL, PSEUDO="found", ALPHA="0.25")
    assert not workshop.of("pretrain")
    assert {value(call, "--pseudo") for call in workshop.of("finetune") if "--pseudo" in call} == {"found"}
    assert [alpha for _, _, alpha, _ in runs_made(workshop)[:3]] == ["1", "0", "0.25"]


def test_a_run_that_fails_costs_no_other_is_tried_again_and_finished_ones_are_not(workshop):
    small = SMALL | {"DRAWS": "0", "FRACTIONS": "0.05", "PSEUDO": "found"}
    failed = workshop.run("cellulus-supported", **small, FAILS="--alpha 0.5")
    assert failed.returncode == 1
    last = "cellulus-supported: failed: fraction 0.05 draw 0, labels and pseudo labels (run it again to go on)"
    assert failed.stderr.splitlines()[-1] == last
    assert len(workshop.of("finetune")) == 3
    assert workshop.run("cellulus-supported", **small).returncode == 0
    assert runs_made(workshop) == [("fraction0.05-draw0", True, "0.5", "0")]
    assert workshop.run("cellulus-supported", **small).returncode == 0
    assert runs_made(workshop) == []


def test_what_is_not_needed_any_more_is_removed_unless_it_is_to_stay(workshop):
    small = SMALL | {"DRAWS": "0", "FRACTIONS": "1", "PSEUDO": "found"}
    workshop.run("cellulus-supported", **small)
    run = workshop.out / "runs/sparse/fraction1-draw0"
    assert {path.name for path in run.iterdir()} == {"tuned.ckpt", "scores.json"}
    workshop.run("cellulus-supported", **small | {"DRAWS": "1"}, KEEP="yes")
    kept = workshop.out / "runs/sparse/fraction1-draw1"
    assert {path.name for path in kept.iterdir()} == {"tuned.ckpt", "tuned.last.ckpt", "scores", "scores.json"}


def test_without_images_to_score_on_nothing_is_run(workshop):
    result = workshop.run("cellulus-supported")
    assert result.returncode == 2
    assert result.stderr == (
        "cellulus-supported: no images to score on (set TEST_NAMES, a list of images of DATA, or TEST)\n"
    )
    assert workshop.calls == []


def test_scores_of_all_runs_are_gathered_and_drawn(workshop, field):
    write_data(workshop.data, field)
    for name, keys in (("learn", "p0\np1\n"), ("held", "p2\np3\n")):
        (workshop.folder / f"{name}.txt").write_text(keys)
    lists = {"NAMES": str(workshop.folder / "learn.txt"), "TEST_NAMES": str(workshop.folder / "held.txt")}
    result = workshop.run(
        "cellulus-supported", PYTHON=sys.executable, FRACTIONS="0.05 1", DRAWS="0 1", OBJECT_SIZE="22", **lists
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == (workshop.out / "tables.md").read_text()
    line = "| 5 % | 0.050 ± 0.000 [0.050, 0.050] | 2 of 2 |"  # a half of 0.1
    assert line in result.stdout
    assert "| Cellulus itself | 0.600 |" in result.stdout
    rows = (workshop.out / "results.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * (1 + 2 * (1 + 2 * 2))
    assert "sparse,0.05,1,f1@0.5,0.32,0.32" in rows
    assert sorted(path.name for path in (workshop.out / "images/labels").iterdir()) == ["p0.tif", "p1.tif"]
    ElementTree.parse(workshop.out / "figure.svg")
