"""The script of the few-shot recipe with detectors: its order and what it passes on, with a stand-in for cellkit."""

from __future__ import annotations

import csv
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
import typer

from cellkit.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "recipes/cupre-fewshot.sh"
BASELINES = "scratch cells-moco coco coco++ cupre-- cupre cupre++".split()

# What a stand-in for cellkit does: it writes down how it was called, and files in the places of the real ones. A model
# is a text file that tells how it was made; its score follows from that.
STAND_IN = r"""#!/usr/bin/env bash
{ printf '%s\037' "$@" && echo; } >>"$CALLS"
after() { # OPTION: the word behind it
    local option=$1 i
    for ((i = 2; i < ${#words[@]}; i++)); do [[ ${words[i - 1]} != "$option" ]] || echo "${words[i]}"; done
}
words=("$@")
case $1 in
    pretrain)
        [[ ${FAILS:-} != "$(after --method)" ]] || exit 9
        echo "$(basename "$(after -o)" .ckpt)" >"$(after -o)"
        ;;
    finetune)
        tuned=$(after -o)
        echo "$(cat "$(after -m)") $(after --method) $(after --fraction) $(after --draw)" >"$tuned"
        { echo step,coco/bbox/AP,coco/segm/AP; echo 1,,; echo 50,0.1,0.1; echo 100,0.2,0.15; } \
            >"${tuned%.ckpt}.metrics.csv"
        ;;
    predict) cp "$(after -m)" "$(after -o)" ;;
    evaluate)
        awk '{
            ap = 0.25 * ($1 == "cupre") + 0.125 * ($2 == "l2sp") + 0.25 * $3 + 0.015625 * $4
            printf "{\"pooled\": {\"coco/bbox/AP\": %.6f, \"coco/segm/AP\": %.6f}}", ap, ap / 2
        }' "$3"
        ;;
esac
"""


def write_cells(folder: Path, seed: int, count: int, *, labelled: bool = True) -> None:
    noise = np.random.default_rng(seed)
    y, x = np.ogrid[:40, :44]
    labels = ((y - 20) ** 2 + (x - 20) ** 2 <= 64).astype(np.uint16)
    for part in ("images", "labels") if labelled else ("images",):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        pixels = (labels > 0) * 100 + noise.integers(0, 50, labels.shape)
        tifffile.imwrite(folder / f"images/i{seed}_{number}.tif", pixels.astype(np.uint8))
        if labelled:
            tifffile.imwrite(folder / f"labels/i{seed}_{number}.tif", labels)


class Workshop:
    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.calls: list[list[str]] = []  # of the last run
        self.result: subprocess.CompletedProcess[str] | None = None

    def run(self, *, cells: tuple[str, ...] = ("grains", "worms"), **environment: str):
        log = self.folder / "calls"
        log.write_text("")
        known = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "PYTHON": sys.executable, "CALLS": str(log)}
        passed = {name: os.environ[name] for name in ("HOME", "PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ}
        self.result = subprocess.run(
            [SCRIPT, self.out, self.folder / "nuclei", self.folder / "common", *(self.folder / name for name in cells)],
            env=passed | known | {"DRAWS": "0", "FRACTIONS": "0.5", "VAL": "1"} | environment,
            capture_output=True,
            text=True,
        )
        self.calls = [line.split("\037")[:-1] for line in log.read_text().splitlines()]
        return self.result

    def of(self, verb: str) -> list[list[str]]:
        return [call for call in self.calls if call[0] == verb]

    def making(self, name: str) -> list[str]:
        """The call that made a model."""
        (found,) = [call for call in self.of("pretrain") if value(call, "-o").endswith(f"/{name}.ckpt")]
        return found


def prepared(folder: Path) -> Workshop:
    (folder / "bin").mkdir()
    stand_in = folder / "bin/cellkit"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    write_cells(folder / "nuclei", 0, 9)
    write_cells(folder / "grains", 1, 2, labelled=False)
    write_cells(folder / "worms", 2, 2, labelled=False)
    return Workshop(folder)


@pytest.fixture
def workshop(tmp_path):
    return prepared(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """After a whole experiment with two draws. Only to be looked at."""
    workshop = prepared(tmp_path_factory.mktemp("finished"))
    result = workshop.run(DRAWS="0 1")
    assert result.returncode == 0, result.stderr
    return workshop


def value(call: list[str], option: str) -> str:
    return call[call.index(option) + 1]


def settings_of(call: list[str]) -> dict[str, str]:
    single = [word.removeprefix("--set=") for word in call if word.startswith("--set=")]
    double = [call[i + 1] for i, word in enumerate(call) if word == "--set"]
    return dict(word.split("=", 1) for word in (*single, *double))


def test_without_arguments_it_tells_how_it_is_used():
    result = subprocess.run([SCRIPT], capture_output=True, text=True)
    assert result.returncode == 2
    assert "recipes/cupre-fewshot.sh OUT TARGET COMMON CELLS..." in result.stderr
    assert "#" not in result.stderr


def test_what_the_stand_in_was_given_the_real_command_knows(finished):
    verbs = typer.main.get_command(app).commands
    for verb, *words in finished.calls:
        known = {option for parameter in verbs[verb].params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.split("=")[0] for word in words if word.startswith("-")}
        assert used <= known, (verb, used - known)


def test_settings_are_those_of_the_commands(finished):
    from cellkit.cli import cupre, moco, pretrain_detection, training

    choices = training.Choices(None, None, None, 2000, 1e-3, 0)
    chosen = {}
    for name, recipe in (("coco", pretrain_detection), ("cells-moco", moco), ("scratch", pretrain_detection)):
        texts = [f"{key}={text}" for key, text in settings_of(finished.making(name)).items()]
        chosen[name] = recipe.recipe(texts, choices, None)
    without = {key: text for key, text in settings_of(finished.making("cupre--")).items() if key != "init"}
    turns = cupre.recipe([f"{key}={text}" for key, text in without.items()], choices, None)
    assert chosen["coco"].detector.trunk == chosen["cells-moco"].detector.trunk == "resnest-50"
    assert turns.labelled.detector == chosen["coco"].detector
    assert chosen["scratch"].detector == replace(chosen["coco"].detector, categories="one")
    assert turns.cupre.warm_part == 0
    assert turns.cupre.sp_strength == 0


def test_each_model_is_made_once_by_arguments_alone(finished):
    out, made = finished.out, [Path(value(call, "-o")).stem for call in finished.of("pretrain")]
    assert sorted(made) == sorted(set(BASELINES) - {"cupre++"})
    scratch, coco = finished.making("scratch"), finished.making("coco")
    assert (value(scratch, "--steps"), value(scratch, "--lr")) == ("1", "0")
    assert coco[coco.index("--method") - 1] != str(out)
    assert str(finished.folder / "common") in coco
    moco, both = finished.making("cells-moco"), finished.making("coco++")
    for call in (moco, both):
        assert value(call, "--method") == "moco"
        assert {str(finished.folder / name) for name in ("grains", "worms")} <= set(call)
    assert "init" not in settings_of(moco)
    assert settings_of(both)["init"] == str(out / "models/coco.ckpt")
    less, whole = finished.making("cupre--"), finished.making("cupre")
    for call in (less, whole):
        assert value(call, "--labelled") == str(finished.folder / "common")
        assert settings_of(call)["init"] == str(out / "models/coco.ckpt")
    assert settings_of(less) == settings_of(whole) | {"sp_strength": "0"}


def test_all_are_tuned_alike_but_one_with_the_penalty(finished):
    found = finished.of("finetune")
    assert len(found) == 7 * 2
    for call in found:
        penalised = "/cupre++/" in value(call, "-o")
        assert value(call, "--method") == ("l2sp" if penalised else "classic")
        assert value(call, "--draw") == value(call, "--seed")
        base = Path(value(call, "-m")).stem
        assert base == ("cupre" if penalised else Path(value(call, "-o")).parts[-3])
        assert value(call, "--val") == str(finished.out / "images/val")
    for call in finished.of("evaluate"):
        assert (value(call, "--coco-areas"), value(call, "--max-dets")) == ("livecell", "100,500,2000")


def test_tables_have_means_intervals_and_differences(finished):
    text = (finished.out / "tables.md").read_text()
    assert finished.result.stdout == text
    assert text.startswith("Target: nuclei.\n")
    assert "| fraction | Scratch | Cells-MoCo | COCO | COCO++ | CUPre-- | CUPre | CUPre++ |" in text
    assert "| 50% | 13.3 ± 1.1 [3.4, 23.2] |" in text  # 0.125 and 0.140625
    assert "| **50.8** ± 1.1 [40.9, 60.7] |" in text  # of CUPre++
    assert "| +25.0 ± 0.0 [+25.0, +25.0] | +37.5 ± 0.0 [+37.5, +37.5] |" in text
    with (finished.out / "results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 7 * 2 * 2


def test_curves_are_drawn(finished):
    root = ElementTree.parse(finished.out / "figures/curves.svg").getroot()
    lines = [e for e in root.iter("{http://www.w3.org/2000/svg}path") if (e.get("class") or "").startswith("line")]
    assert len(lines) == 7 + 7 * 2  # the legend, and a line per baseline and metric
    with (finished.out / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["step"] for row in rows} == {"50", "100"}


def test_a_finished_experiment_runs_nothing_again_and_a_failed_one_goes_on(workshop):
    result = workshop.run(FAILS="moco", BASELINES="coco cells-moco")
    assert result.returncode == 1
    assert "cupre-fewshot: failed: cells-moco: 0.5 of the images, draw 0 (run it again to go on)" in result.stderr
    assert (workshop.out / "runs/coco/fraction0.5-draw0/scores.json").exists()
    assert workshop.run(BASELINES="coco cells-moco").returncode == 0
    assert [value(call, "--method") for call in workshop.of("pretrain")] == ["moco"]
    workshop.run(BASELINES="coco cells-moco")
    assert workshop.calls == []


def test_a_given_model_stands_for_coco(workshop):
    (workshop.folder / "official.ckpt").write_text("official\n")
    assert workshop.run(COCO_MODEL=str(workshop.folder / "official.ckpt"), BASELINES="coco cupre").returncode == 0
    assert [value(call, "--method") for call in workshop.of("pretrain")] == ["cupre"]
    assert (workshop.out / "models/coco.ckpt").read_text() == "official\n"


def test_without_validation_there_are_no_curves(workshop):
    assert workshop.run(VAL="0", BASELINES="coco").returncode == 0
    assert "--val" not in workshop.of("finetune")[0]
    assert not (workshop.out / "figures").exists()


@pytest.mark.parametrize(
    ("environment", "code", "message"),
    [
        ({"BASELINES": "coco imagenet"}, 2, "cupre-fewshot: BASELINES: there is no imagenet (choose from scratch"),
        ({"TEST": "none"}, 1, "cupre_images: error: TEST: 'none' is no number of images (give a whole number from 1)"),
        ({"TEST": "9"}, 1, "9 labelled images leave none to learn from, or to score on (label more, or lower TEST"),
    ],
)
def test_what_cannot_be_meant_is_refused(workshop, environment, code, message):
    result = workshop.run(**environment)
    assert result.returncode == code
    assert message in result.stderr
    assert workshop.calls == []


def test_images_to_score_on_are_never_learned_from(workshop):
    result = workshop.run(cells=("grains", "nuclei"))
    assert result.returncode == 1
    assert "it is in CELLS too, as" in result.stderr
    assert workshop.calls == []


def test_other_settings_are_another_experiment(workshop):
    workshop.run(BASELINES="coco")
    result = workshop.run(BASELINES="coco", TUNE_STEPS="7")
    assert result.returncode == 1
    assert "the runs beside it had other settings: tuning" in result.stderr


def test_targets_share_models_that_are_made_alike(workshop):
    models = str(workshop.folder / "models")
    assert workshop.run(BASELINES="coco cupre", MODELS=models).returncode == 0
    workshop.out = workshop.folder / "worms of another kind"
    assert workshop.run(BASELINES="coco cupre", MODELS=models, TUNE_STEPS="7").returncode == 0
    assert not workshop.of("pretrain")
    assert len(workshop.of("finetune")) == 2
    workshop.out = workshop.folder / "third"
    result = workshop.run(BASELINES="coco cupre", MODELS=models, AMT_STEPS="7")
    assert result.returncode == 1
    assert f"{models}/settings.json: the runs beside it had other settings: amt" in result.stderr


def table_of(*folders: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "recipes/cupre_table.py"
    return subprocess.run([sys.executable, script, *folders], capture_output=True, text=True)


def test_a_table_of_several_targets(workshop):
    assert workshop.run(BASELINES="coco cupre", DRAWS="0 1", FRACTIONS="0.5 1").returncode == 0
    first, workshop.out = workshop.out, workshop.folder / "second"
    assert workshop.run(BASELINES="coco cupre++").returncode == 0
    result = table_of(first, workshop.out)
    assert result.stdout.splitlines() == [
        "| target | fraction | AP_bbox COCO | AP_bbox CUPre | AP_bbox CUPre++ "
        "| AP_segm COCO | AP_segm CUPre | AP_segm CUPre++ |",
        "|" + " --- |" * 8,
        "| out | 50% | 13.3 ± 1.1 | **38.3** ± 1.1 |  | 6.6 ± 0.6 | **19.1** ± 0.6 |  |",
        "| out | 100% | 25.8 ± 1.1 | **50.8** ± 1.1 |  | 12.9 ± 0.6 | **25.4** ± 0.6 |  |",
        "| second | 50% | 12.5 |  | **50.0** | 6.2 |  | **25.0** |",
    ]


def test_a_table_of_nothing_is_refused(tmp_path):
    assert table_of().stderr.startswith("cupre_table: error: cupre_table: there is no folder (name the outputs")
    (tmp_path / "a/same").mkdir(parents=True)
    twice = table_of(tmp_path / "a/same", tmp_path / "b/same")
    assert "two folders have one name" in twice.stderr
    assert table_of(tmp_path).stderr == (
        f"cupre_table: error: {tmp_path}: no run is finished (run cupre-fewshot.sh first)\n"
    )
