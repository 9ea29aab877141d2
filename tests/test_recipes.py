"""The scripts of the recipes: their order and what they pass on, with a stand-in for cellkit."""

from __future__ import annotations

import importlib
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
SCRIPTS = sorted(RECIPES.glob("*.sh"))
METRICS = ("ap_dsb@0.5", "maji")

# What a stand-in for cellkit does: it writes down how it was called, and files in the places of the real ones. A tuned
# model is a text file that names its base, method, shots and draw; its score is a hyperbola of the shots.
STAND_IN = r"""#!/usr/bin/env bash
{ printf '%s\037' "$@" && echo; } >>"$CALLS"
after() { # OPTION: the word behind it
    local option=$1 i
    for ((i = 2; i < ${#words[@]}; i++)); do [[ ${words[i - 1]} != "$option" ]] || echo "${words[i]}"; done
}
words=("$@")
case "$1 $*" in
    pretrain*--dry-run*) printf 'learn\t20 images\timages/ + labels/\n' ;;
    pretrain*) echo "$(basename "$(after -o)" .ckpt) base 0 0" >"$(after -o)" ;;
    finetune*)
        read -r base _ <"$(after -m)"
        [[ ${FAILS:-} != "$base" ]] || exit 9
        echo "$base $(after --method) $(after --shots) $(after --draw)" >"$(after -o)"
        echo state >"$(dirname "$(after -o)")/tuned.last.ckpt"
        ;;
    segment*) cp "$(after -m)" "$(after -o)/model.txt" ;;
    evaluate*--curve*) echo "curves of $3" && exit 3 ;; # some cannot be fitted
    evaluate*)
        awk -v truth="$(basename "$2")" '{
            score = 0.1 + 0.7 * $3 / (2 + $3) + 0.01 * $4 + 0.05 * ($2 == "contrastive")
            if (truth == "retained") score = 0.9 - score / 2
            printf "{\"mean\": {\"ap_dsb@0.5\": %.6f, \"maji\": %.6f}}\n", score, score / 2
        }' "$3/model.txt"
        ;;
esac
"""

# What a stand-in for Python does, where only the order matters: the real one takes most of the time of a test.
PYTHON = """#!/usr/bin/env bash
case $1 in
    *target.py)
        mkdir -p "$4"
        echo "$2/p0.tif" >"$4/pool.txt"
        echo "$3/t0.tif" >"$4/test.txt"
        echo 20 >"$4/diameter.txt"
        ;;
    *rescale.py) mkdir -p "$3/images" ;;
    *report.py) echo "tables of $*" >"$2/tables.md" ;;
esac
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))


def recipe(name: str):
    """The Python beside the scripts, imported as the scripts' own imports find it."""
    return importlib.import_module(f"scellseg_{name}")


def write_pair(folder: Path, name: str, labels: np.ndarray, value: float = 1.0) -> None:
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / "images" / f"{name}.tif", ((labels > 0) * 100 * value).astype(np.uint8))
    tifffile.imwrite(folder / "labels" / f"{name}.tif", labels.astype(np.uint16))


@pytest.fixture(scope="module")
def field():
    """Labels (48, 60): two cells of one size that do not touch."""
    y, x = np.ogrid[:48, :60]
    first, second = ((y - cy) ** 2 + (x - cx) ** 2 <= 11**2 for cy, cx in ((20, 16), (28, 44)))
    return (first + 2 * second).astype(np.int32)


@pytest.fixture
def target(tmp_path, field):
    """A folder with pool/ (three images) and test/ (two)."""
    return written_target(tmp_path / "worms", field)


def written_target(folder: Path, field: np.ndarray) -> Path:
    for number in range(3):
        write_pair(folder / "pool", f"p{number}", field, 1 + number / 10)
    for number in range(2):
        write_pair(folder / "test", f"t{number}", field, 2 + number / 10)
    return folder


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound_and_stop_at_errors(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert not any("\t" in line or line != line.rstrip() or len(line) > 120 for line in lines)


@pytest.mark.parametrize("name", ["bases", "shots", "all"])
def test_a_script_without_arguments_tells_how_it_is_used(name):
    script = RECIPES / f"scellseg-{name}.sh"
    result = subprocess.run([script], capture_output=True, text=True)
    assert result.returncode == 2
    assert f"recipes/scellseg-{name}.sh" in result.stderr
    assert "#" not in result.stderr


@pytest.fixture
def workshop(tmp_path, target, field):
    """Runs a script with a stand-in for cellkit."""
    return prepared(tmp_path, field)


def prepared(folder: Path, field: np.ndarray) -> Workshop:
    (folder / "bin").mkdir()
    for name, text in (("cellkit", STAND_IN), ("fake_python", PYTHON)):
        stand_in = folder / "bin" / name
        stand_in.write_text(text)
        stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    write_pair(folder / "own", "n1", field)
    return Workshop(folder)


class Workshop:
    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.calls: list[list[str]] = []  # of the last run
        self.result: subprocess.CompletedProcess[str] | None = None

    def run(self, name: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        log = self.folder / "calls"
        log.write_text("")
        known = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "PYTHON": "fake_python", "CALLS": str(log)}
        passed = {name: os.environ[name] for name in ("HOME", "PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ}
        result = subprocess.run(
            [RECIPES / f"scellseg-{name}.sh", *arguments],
            env=passed | known | environment,
            capture_output=True,
            text=True,
        )
        self.calls = [line.split("\037")[:-1] for line in log.read_text().splitlines()]
        return result

    def bases(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("bases", self.folder / "own", self.folder / "bases", **environment)

    def shots(self, **environment: str) -> subprocess.CompletedProcess[str]:
        folders = (self.folder / "bases", self.folder / "worms/pool", self.folder / "worms/test", self.out)
        return self.run("shots", *folders, **SMALL | {"RETAIN": str(self.folder / "own")} | environment)

    def of(self, verb: str) -> list[list[str]]:
        return [call for call in self.calls if call[0] == verb]


METHODS_RUN = (("hover", "classic"), ("scellseg", "classic"), ("scellseg", "contrastive"))
SMALL = {"METHODS": "hover:classic scellseg:classic", "SHOTS": "1", "DRAWS": "0", "METRICS": " ".join(METRICS)}


def value(call: list[str], option: str) -> str:
    return call[call.index(option) + 1]


def assert_options_are_real(calls: list[list[str]]) -> None:
    """What the stand-in was given, the real command knows."""
    verbs = typer.main.get_command(app).commands
    for verb, *words in calls:
        known = {option for parameter in verbs[verb].params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.split("=")[0] for word in words if word.startswith("-")}
        assert used <= known, (verb, used - known)


def settings_of(call: list[str]) -> dict[str, str]:
    return dict(word.removeprefix("--set=").split("=", 1) for word in call if word.startswith("--set="))


def test_the_bases_differ_in_nothing_but_what_is_compared(workshop):
    result = workshop.bases(MODELS="unet2 unet3 hover cellpose scellseg")
    assert (result.returncode, result.stderr) == (0, "")
    first, *trainings = workshop.calls
    assert "--dry-run" in first
    kinds = [(value(c, "--network"), value(c, "--representation"), value(c, "--lr")) for c in trainings]
    assert kinds == [
        ("unet", "mask", "0.002"),
        ("unet", "border", "0.002"),
        ("unet", "hover", "0.2"),
        ("unet", "flow", "0.2"),
        ("style-unet", "flow", "0.2"),
    ]
    assert (
        len({value(call, "--steps") for call in trainings}) == len({str(settings_of(call)) for call in trainings}) == 1
    )
    assert value(trainings[0], "--steps") == str(500 * 3)  # 20 images in batches of 8
    chosen = settings_of(trainings[0])
    assert (chosen["warmup"], chosen["decay"]) == (str(10 * 3), str(100 * 3))
    assert (chosen["optimiser"], chosen["momentum"], chosen["weight_decay"]) == ("sgd", "0.9", "1e-5")
    assert (chosen["batch"], chosen["crop"], value(trainings[0], "--diameter")) == ("8", "224", "30")
    assert_options_are_real(workshop.calls)


def test_the_size_of_the_bases_is_set_by_the_environment(workshop):
    workshop.bases(MODELS="hover", STEPS="2000", WIDTHS="4,8", CROP="64", SETTINGS="noise=0 widths=2,4", VAL="0.1")
    (training,) = workshop.calls
    chosen = settings_of(training)
    assert (value(training, "--steps"), chosen["warmup"], chosen["crop"]) == ("2000", "40", "64")
    assert (chosen["widths"], chosen["noise"], value(training, "--val")) == ("2,4", "0", "0.1")  # what comes later wins


def test_an_unknown_base_is_refused(workshop):
    result = workshop.bases(MODELS="vgg", STEPS="1")
    assert result.returncode == 2
    assert result.stderr == (
        "scellseg-bases: MODELS: there is no vgg (choose from unet2 unet3 hover cellpose scellseg)\n"
    )


@pytest.fixture
def trained(workshop):
    """With two bases."""
    workshop.bases(MODELS="hover scellseg", STEPS="1")
    return workshop


@pytest.fixture(scope="module")
def finished(tmp_path_factory, field):
    """After a whole experiment: two models, three methods, two numbers of shots, two draws. Only to be looked at."""
    folder = tmp_path_factory.mktemp("finished")
    written_target(folder / "worms", field)
    workshop = prepared(folder, field)
    workshop.bases(MODELS="hover scellseg", STEPS="1")
    workshop.result = workshop.shots(
        DRAWS="0 1", SHOTS="1 2", METHODS=" ".join(":".join(m) for m in METHODS_RUN), PYTHON=sys.executable
    )
    assert workshop.result.returncode == 0, workshop.result.stderr
    return workshop


def test_all_runs_are_made_draw_by_draw(finished):
    made = [
        (value(c, "--draw"), value(c, "--shots"), Path(value(c, "-m")).stem, value(c, "--method"))
        for c in finished.of("finetune")
    ]
    assert made == [(draw, shots, *method) for draw in "01" for shots in "12" for method in METHODS_RUN]
    assert all(value(c, "--seed") == value(c, "--draw") for c in finished.of("finetune"))
    assert_options_are_real(finished.calls)


def test_all_scores_are_gathered_and_drawn(finished):
    rows = recipe("rows").read_rows(finished.out / "results.csv")
    assert len(rows) == len(METHODS_RUN) * 2 * 2 * len(METRICS)
    one = next(r for r in rows if (r.method, r.shots, r.draw) == ("scellseg contrastive", 2, 1))
    assert (one.dataset, one.metric, one.before) == ("worms", "ap_dsb@0.5", pytest.approx(0.1))
    assert one.score == pytest.approx(0.1 + 0.7 * 2 / 4 + 0.01 + 0.05)
    kept = recipe("rows").read_rows(finished.out / "retained.csv")
    assert sorted({r.before for r in kept}) == pytest.approx([0.425, 0.85])
    printed = finished.result.stdout
    assert "| scellseg contrastive - scellseg classic | all | 0.050 ± 0.000 [0.050, 0.050] | 2 of 2 |" in printed
    assert printed.endswith(f"curves of {finished.out}/results.csv\n")
    for name in ("figure.svg", "retained.svg"):
        ElementTree.parse(finished.out / name)


def test_each_base_is_scored_once_at_the_diameter_of_the_pool(finished):
    scored = [call for call in finished.of("segment") if "bases" in value(call, "-m")]
    typical = (finished.out / "runs/worms/diameter.txt").read_text().strip()
    assert [Path(value(call, "-m")).stem for call in scored] == ["hover", "hover", "scellseg", "scellseg"]
    assert [value(call, "--diameter") for call in scored] == [typical, "30"] * 2
    tuned = [call for call in finished.of("segment") if "tuned" in value(call, "-m")]
    assert ["--diameter" in call for call in tuned] == [False, True] * 12  # a tuned model knows its own


def test_query_images_are_those_of_the_pool_and_never_those_scored_on(finished):
    for call in finished.of("finetune"):
        queries = [Path(word.removeprefix("--query=")).name for word in call if word.startswith("--query=")]
        assert queries == (["p0.tif", "p1.tif", "p2.tif"] if value(call, "--method") == "contrastive" else [])


def test_what_is_not_needed_any_more_is_removed(finished):
    run = finished.out / "runs/worms/hover/classic/shots1-draw0"
    assert {path.name for path in run.iterdir()} == {"tuned.ckpt", "target.json", "retained.json"}


def test_all_can_be_kept_and_query_and_contrast_images_named(trained):
    trained.shots(QUERY="unlabelled", CONTRAST="kinds", METHODS="scellseg:contrastive", KEEP="yes")
    (call,) = trained.of("finetune")
    assert "--query=unlabelled" in call
    assert value(call, "--contrast") == "kinds"
    kept = {path.name for path in (trained.out / "runs/worms/scellseg/contrastive/shots1-draw0").iterdir()}
    assert kept == {"tuned.ckpt", "target.json", "retained.json", "tuned.last.ckpt", "target", "retained"}
    assert_options_are_real(trained.calls)


def test_a_run_that_fails_costs_no_other_is_tried_again_and_finished_ones_are_not(trained):
    failed = trained.shots(FAILS="hover")
    assert failed.returncode == 1
    last = "scellseg-shots: failed: hover:classic shots 1 draw 0 (run it again to go on)"
    assert failed.stderr.splitlines()[-1] == last
    assert [Path(value(call, "-m")).stem for call in trained.of("finetune")] == ["hover", "scellseg"]
    assert trained.shots().returncode == 0
    assert [Path(value(call, "-m")).stem for call in trained.of("finetune")] == ["hover"]
    assert trained.shots().returncode == 0
    assert [call[:2] for call in trained.calls] == [["evaluate", "--curve"]]
    trained.shots(SHOTS="1 2", DRAWS="0 1")
    made = [value(call, "--shots") + value(call, "--draw") for call in trained.of("finetune")]
    assert made == ["20", "20", "11", "11", "21", "21"]


def test_a_base_that_was_trained_again_is_scored_and_tuned_again(trained):
    trained.shots()
    base = trained.folder / "bases/hover.ckpt"
    later = (trained.out / "runs/worms/hover/classic/shots1-draw0/target.json").stat().st_mtime + 60
    os.utime(base, (later, later))
    trained.shots()
    assert [Path(value(call, "-m")).stem for call in trained.of("finetune")] == ["hover"]
    assert str(base) in [value(call, "-m") for call in trained.of("segment")]


def test_other_settings_in_the_same_folder_are_refused(trained):
    real = {"PYTHON": sys.executable, "RETAIN": ""}
    trained.shots(**real)
    result = trained.shots(**real, STEPS="50")
    assert result.returncode == 1
    assert result.stderr == (
        f"scellseg_target: error: {trained.out}/runs/worms/settings.json: the runs beside it had other settings: "
        "steps 100, now 50 (choose another OUT, or remove its folder to begin anew)\n"
    )
    assert trained.calls == []


def test_other_images_to_retain_in_the_same_folder_are_refused(trained):
    trained.shots()
    result = trained.shots(DATASET="other", DIAMETER="20")
    own = trained.folder / "own"
    assert result.returncode == 2
    assert result.stderr == (
        f"scellseg-shots: {trained.out}/retained: was made from {own}  30, now {own}  20 (choose another OUT)\n"
    )


def test_test_images_in_the_pool_stop_everything(trained, target, field):
    write_pair(target / "test", "p0", field)
    result = trained.shots(PYTHON=sys.executable)
    assert result.returncode == 1
    assert "it is in the pool too" in result.stderr
    assert trained.calls == []


def test_several_datasets_go_draw_by_draw_and_share_one_report(trained, target):
    (target.with_name("fibroblasts") / "query").mkdir(parents=True)
    environment = SMALL | {"DRAWS": "0 1", "METHODS": "scellseg:contrastive"}
    folders = (target, target.with_name("fibroblasts"))
    result = trained.run("all", trained.folder / "bases", trained.out, *folders, **environment)
    assert result.returncode == 0, result.stderr
    made = [(Path(call[1]).parent.name, value(call, "--draw")) for call in trained.of("finetune")]
    assert made == [("worms", "0"), ("fibroblasts", "0"), ("worms", "1"), ("fibroblasts", "1")]
    queries = [next(word for word in call if word.startswith("--query=")) for call in trained.of("finetune")]
    assert [Path(query).name for query in queries] == ["p0.tif", "query", "p0.tif", "query"]
    assert "tables of" in result.stdout
    assert {path.name for path in (trained.out / "runs").iterdir()} == {"worms", "fibroblasts"}
    assert "worms scellseg contrastive: 1 shots, draw 1" in (trained.out / "worms.log").read_text()


def test_a_failure_in_one_dataset_is_told_at_the_end(trained, target):
    environment = SMALL | {"FAILS": "hover"}
    result = trained.run("all", trained.folder / "bases", trained.out, target, **environment)
    assert result.returncode == 1
    assert result.stderr == f"scellseg-all: some runs failed: see {trained.out}/*.log (run it again to go on)\n"


def test_nothing_finished_is_told_by_what_failed(trained):
    result = trained.shots(METHODS="hover:classic", FAILS="hover", PYTHON=sys.executable, RETAIN="")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.splitlines()[-3:] == [
        f"scellseg_report: error: {trained.out}: no run is finished (run scellseg-shots.sh first)",
        "scellseg-shots: failed: hover:classic shots 1 draw 0 (run it again to go on)",
        "scellseg-shots: failed: the report of draw 0 (run it again to go on)",
    ]
