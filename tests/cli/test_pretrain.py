"""cellkit pretrain: what it writes, when it does nothing, and that a killed run ends as an uninterrupted one."""

from __future__ import annotations

import csv
import io
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from cellkit.io.atomic import lock_file
from cellkit.io.checkpoints import load_checkpoint

TINY = ("--set", "widths=4,8", "--set", "crop=32", "--set", "batch=2", "--set", "channels=3", "--set", "colour=rgb")
STEPS = 6


def train(crops, output, *more):
    return ("pretrain", crops, "-o", output, "--steps", STEPS, "--device", "cpu", *TINY, *more)


def rows(path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def same_weights(one, other) -> bool:
    first, second = load_checkpoint(one).weights, load_checkpoint(other).weights
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_checkpoint_and_metrics(cellkit, tmp_path, crops):
    done = cellkit(*train(crops, tmp_path / "m.ckpt", "--val", "0.25", "--set", "validate_every=3"))
    assert (done.code, done.out) == (0, b"")
    assert done.err.splitlines()[-1].startswith(
        f"cellkit pretrain: {tmp_path / 'm.ckpt'} is written: 6 steps, best score"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.ckpt", "m.last.ckpt", "m.metrics.csv"]
    assert [row["step"] for row in rows(tmp_path / "m.metrics.csv")] == ["1", "3", "6"]
    checkpoint = load_checkpoint(tmp_path / "m.ckpt")
    assert checkpoint.network.widths == (4, 8)
    assert (checkpoint.history[0].verb, checkpoint.history[0].arguments["steps"]) == ("pretrain", STEPS)
    image = next((crops / "images").iterdir())
    assert cellkit("segment", image, "-m", tmp_path / "m.ckpt", "-o", tmp_path / "l.tif", "-q").code == 0


def test_second_call_says_up_to_date_and_other_settings_are_refused(cellkit, tmp_path, crops):
    command = train(crops, tmp_path / "m.ckpt")
    first = cellkit(*command, "-q")
    assert (first.code, first.err) == (0, "")
    stamp = (tmp_path / "m.ckpt").stat().st_mtime_ns
    again = cellkit(*command)
    assert (again.code, again.err) == (0, f"cellkit pretrain: {tmp_path / 'm.ckpt'} is up to date\n")
    other = cellkit(*command, "--lr", "0.01")
    assert (other.code, other.err) == (
        2,
        f"cellkit pretrain: error: {tmp_path / 'm.ckpt'}: exists and was made by other settings "
        "(use --on-exists overwrite, or another -o)\n",
    )
    stop = cellkit(*command, "--on-exists", "error")
    assert stop.code == 2
    assert "m.ckpt: exists already" in stop.err
    assert (tmp_path / "m.ckpt").stat().st_mtime_ns == stamp
    assert cellkit(*command, "--lr", "0.01", "--overwrite", "-q").code == 0
    (tmp_path / "m.ckpt").unlink()
    gone = cellkit(*command, "--lr", "0.01", "-q")
    assert gone.code == 2
    assert "m.last.ckpt: is of a finished run, whose weights are gone (use --on-exists overwrite)" in gone.err


def test_two_runs_never_make_one_checkpoint(cellkit, tmp_path, crops):
    output = tmp_path / "m.ckpt"
    with lock_file(output):
        second = cellkit(*train(crops, output))
        assert cellkit(*train(crops, tmp_path / "other.ckpt"), "-q").code == 0
    assert second.code == 75
    assert second.err.splitlines()[-1] == (
        f"cellkit pretrain: error: {output}: another run is making it (wait for it to end, or choose another -o)"
    )
    assert not list(tmp_path.glob("m.*"))
    assert cellkit(*train(crops, output), "-q").code == 0
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_same_seed_same_weights(cellkit, tmp_path, crops):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert cellkit(*train(crops, tmp_path / f"{name}.ckpt", "--seed", seed, "-q")).code == 0
    assert same_weights(tmp_path / "a.ckpt", tmp_path / "b.ckpt")
    assert not same_weights(tmp_path / "a.ckpt", tmp_path / "c.ckpt")


def test_resume_without_state_is_refused(cellkit, tmp_path, crops):
    done = cellkit(*train(crops, tmp_path / "m.ckpt", "--resume"))
    assert (done.code, done.err) == (
        2,
        f"cellkit pretrain: error: --resume: there is nothing to resume at {tmp_path / 'm.ckpt'} "
        "(leave --resume out to begin)\n",
    )


def test_dry_run_names_layout_pairs_and_unpaired(cellkit, tmp_path, crops):
    root = tmp_path / "data"
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
        for path in (crops / part).glob("*.png"):
            (root / part / path.name).write_bytes(path.read_bytes())
    (root / "labels" / "2cfa61bef6542dd3.png").unlink()
    (tmp_path / "val.txt").write_text("356d9903d16074f1\n")
    done = cellkit("pretrain", root, "-o", tmp_path / "m.ckpt", "--val", tmp_path / "val.txt", "--dry-run")
    assert done.code == 0
    lines = done.text.splitlines()
    assert lines[0] == "learn\t2 images\timages/ + labels/"
    assert lines[3] == "validate\t1 images\timages/ + labels/"
    assert lines[4].split("\t")[1:] == [
        "356d9903d16074f1",
        str(root / "images" / "356d9903d16074f1.png"),
        str(root / "labels" / "356d9903d16074f1.png"),
    ]
    assert lines[5] == f"-> {tmp_path / 'm.ckpt'}"
    assert done.err == (
        f"cellkit pretrain: warning: {root}: no labels for {root / 'images' / '2cfa61bef6542dd3.png'}\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "val.txt"]


def test_names_choose_what_is_learned_from(cellkit, tmp_path, crops):
    (tmp_path / "train.txt").write_text("356d9903d16074f1\n2cfa61bef6542dd3.png\n")
    done = cellkit("pretrain", crops, "-o", "m.ckpt", "--names", tmp_path / "train.txt", "--dry-run")
    assert done.text.splitlines()[0] == "learn\t2 images\timages/ + labels/"
    (tmp_path / "train.txt").write_text("nobody\n")
    unknown = cellkit("pretrain", crops, "-o", "m.ckpt", "--names", tmp_path / "train.txt", "--dry-run")
    assert unknown.code == 2
    assert "'nobody' is no annotated image" in unknown.err


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["-o", "model.pt"], 2, "model.pt: a checkpoint is wanted (name it FILE.ckpt)"),
        (["-o", "no-such-folder/m.ckpt"], 2, "could not be written: its folder does not exist"),
        (["--val", "none.txt"], 2, "--val: 'none.txt' is no file, folder or fraction (e.g. val.txt, DIR, or 0.1)"),
        (["--set", "learning_rate=1"], 2, "--set: 'learning_rate' has an option of its own (use --lr)"),
        (["--set", "percentiles=1"], 2, "--set: percentiles=1 is not two numbers like 1,2"),
        (["--set", "flip=maybe"], 2, "--set: flip=maybe is not true or false"),
        (["--set", "crop=0"], 2, "crop: 0 is no size"),
    ],
)
def test_what_cannot_be_meant(cellkit, crops, more, code, message):
    done = cellkit("pretrain", crops, "-o", "unwritten.ckpt", *more)
    assert (done.code, done.err.count("\n")) == (code, 1)
    assert message in done.err
    assert not os.path.exists("unwritten.ckpt")


def test_sources_as_often_whatever_their_images_and_colour_as_grey(cellkit, tmp_path, crops):
    names = sorted(path.stem for path in (crops / "images").iterdir())
    for root, kept in (("one", names[:1]), ("three", names[1:])):
        for part in ("images", "labels"):
            (tmp_path / root / part).mkdir(parents=True)
            for name in kept:
                (tmp_path / root / part / f"{name}.png").write_bytes((crops / part / f"{name}.png").read_bytes())
    grey = ("--set", "channels=1", "--set", "colour=grey", "--set", "sampling=balanced", "--network", "fcrn")
    tiny = ("--set", "widths=4,8", "--set", "crop=32", "--set", "batch=2", "--set", "affine=false", "--steps", 2)
    output = tmp_path / "m.ckpt"
    roots = (tmp_path / "one", tmp_path / "three")
    done = cellkit("pretrain", *roots, "-o", output, *tiny, *grey, "--representation", "mask", "--device", "cpu", "-q")
    assert (done.code, done.err) == (0, "")
    checkpoint = load_checkpoint(output)
    assert (checkpoint.preprocessing.colour, checkpoint.network.affine) == ("grey", False)
    assert checkpoint.history[0].arguments["source_images"] == [1, 3]
    image = next((tmp_path / "three" / "images").iterdir())
    assert cellkit("segment", image, "-m", output, "-o", tmp_path / "l.tif", "-q").code == 0


def test_nothing_to_learn_from(cellkit, tmp_path):
    empty = cellkit("pretrain", tmp_path, "-o", tmp_path / "m.ckpt")
    assert empty.code == 4
    assert "no annotated images are recognised (known: images/ + labels/" in empty.err
    missing = cellkit("pretrain", tmp_path / "no", "-o", tmp_path / "m.ckpt")
    assert (missing.code, missing.err.count("\n")) == (4, 1)


def begin(command) -> subprocess.Popen:
    arguments = [sys.executable, "-m", "cellkit", *map(str, command), "-q"]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


def wait_for_step(process, metrics, step: int) -> None:
    """Until the run has logged so many steps."""
    while not metrics.exists() or len(metrics.read_text().splitlines()) <= step:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


LONG = ("--steps", "30", "--set", "save_every=2", "--set", "log_every=1")


@pytest.fixture(scope="module")
def uninterrupted(crops, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "m.ckpt"
    process = begin((*train(crops, path), *LONG))
    assert process.wait() == 0, process.stderr.read()
    process.stderr.close()
    return path


def check_resumed(crops, output, reference, command) -> None:
    resumed = begin((*command, "--resume"))
    with resumed:
        assert resumed.wait() == 0, resumed.stderr.read()
    assert same_weights(output, reference)
    columns = [[(row["step"], row["loss"]) for row in rows(p.with_name("m.metrics.csv"))] for p in (output, reference)]
    assert columns[0] == columns[1]


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, crops, uninterrupted, kill):
    output = tmp_path / "m.ckpt"
    command = (*train(crops, output), *LONG)
    with begin(command) as process:
        wait_for_step(process, tmp_path / "m.metrics.csv", 5)
        process.send_signal(kill)
        text = process.stderr.read()
    if kill == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
        assert text.startswith(f"cellkit pretrain: error: {tmp_path / 'm.last.ckpt'}: SIGTERM came, saved after step ")
        assert text.endswith(" of 30 (run the same command again to go on)\n")
    else:
        assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    check_resumed(crops, output, uninterrupted, command)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_again_and_again_at_random_steps(tmp_path, crops, uninterrupted, seed):
    output = tmp_path / "m.ckpt"
    command = (*train(crops, output), *LONG)
    draw = random.Random(seed)
    for step in sorted(draw.sample(range(2, 25), 3)):
        with begin(command) as process:
            wait_for_step(process, tmp_path / "m.metrics.csv", step)
            process.send_signal(draw.choice([signal.SIGTERM, signal.SIGKILL]))
            process.stderr.read()
        assert not output.exists()
    check_resumed(crops, output, uninterrupted, command)


def test_two_processes_of_torchrun_make_one_checkpoint(tmp_path, crops):
    output = tmp_path / "m.ckpt"
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cellkit")
    command = [str(word) for word in (*launcher, *train(crops, output, "--val", "0.25"))]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.ckpt", "m.last.ckpt", "m.metrics.csv"]
    assert load_checkpoint(output).history[0].arguments["steps"] == STEPS
    assert done.stderr.count(f"{output} is written: {STEPS} steps") == 1


def test_other_validation_images_are_another_run(cellkit, tmp_path, crops):
    names = sorted(path.stem for path in (crops / "images").iterdir())
    for held in names[:2]:
        (tmp_path / f"{held}.txt").write_text(held)
    (tmp_path / "learn.txt").write_text("\n".join(names[2:]))
    command = train(crops, tmp_path / "m.ckpt", "--names", tmp_path / "learn.txt", "-q")
    assert cellkit(*command, "--val", tmp_path / f"{names[0]}.txt").code == 0
    other = cellkit(*command, "--val", tmp_path / f"{names[1]}.txt")
    assert other.code == 2
    assert "exists and was made by other settings" in other.err
