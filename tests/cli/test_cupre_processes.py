"""Whole runs of pretrain --method moco and --method cupre in two processes; as a script one of them: FOLDER PORTS."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cellkit.cli.app import leave, main
from cellkit.io.checkpoints import load_checkpoint

SPEC_OF_SCENES = importlib.util.spec_from_file_location(
    "detection_scenes", Path(__file__).parents[1] / "stages" / "detection_scenes.py"
)
scenes = importlib.util.module_from_spec(SPEC_OF_SCENES)
SPEC_OF_SCENES.loader.exec_module(scenes)

DETECTOR = (*(f"{name}={value}" for name, value in scenes.PARTS.items()), "norm=group-norm", "head_norm=group-norm")
VIEWS = ("view_size=64", "projection=8", "anchor_set=livecell", "queue=100")
TURNS = ("crop=64", "batch=2", "regions=16", "proposals=30", "warmup=0", "contrast_batch=8", "rounds=2")
RUNS = {"moco": (3, (*DETECTOR, *VIEWS, "batch=8")), "cupre": (6, (*DETECTOR, *VIEWS, *TURNS, "warm_part=0.3"))}
RATE = 1e-5  # so small that rounding does not grow from step to step


def command(folder, method, output, rate=RATE):
    steps, settings = RUNS[method]
    more = ("--labelled", folder / "common", "--lr", 10 * rate) if method == "cupre" else ("--lr", rate)
    settings = (*settings, f"contrast_rate={max(rate, 1e-30)}") if method == "cupre" else settings
    sets = [word for setting in settings for word in ("--set", setting)]
    words = ("pretrain", folder / "cells", "-o", output, "--method", method, "--steps", steps, "--device", "cpu")
    return [str(word) for word in (*words, *sets, *more)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labelled images, and 20 without labels."""
    root = tmp_path_factory.mktemp("runs")
    scenes.write_folder(root / "common")
    (root / "cells").mkdir()
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 200, (48, 40))
        tifffile.imwrite(root / "cells" / f"{i}.tif", pixels.astype(np.uint8))
    return root


@pytest.fixture(scope="module")
def words(folder, two_processes):
    """What both processes say while they do all runs."""
    (folder / "pair").mkdir()
    return two_processes(__file__, folder, ports=len(RUNS))


def test_one_process_writes_and_speaks(folder, words):
    names = {f"{method}.{end}" for method in RUNS for end in ("ckpt", "last.ckpt", "metrics.csv")}
    assert {path.name for path in (folder / "pair").iterdir()} == names
    for method, (steps, _) in RUNS.items():
        assert words[0].count(f"{method}.ckpt is written: {steps} steps") == 1
    assert words[0].count("a queue of 16 is taken, not of 100: there are 20 images in batches of 8") == len(RUNS)
    assert words[1] == ""


@pytest.mark.parametrize("method", RUNS)
def test_two_processes_write_what_one_does(cellkit, folder, words, tmp_path, method):
    done = cellkit(*command(folder, method, tmp_path / "alone.ckpt"))
    assert done.code == 0, done.err
    alone, pair = (load_checkpoint(path) for path in (tmp_path / "alone.ckpt", folder / "pair" / f"{method}.ckpt"))
    assert pair.history == alone.history
    assert pair.card == alone.card
    begun = cellkit(*command(folder, method, tmp_path / "begun.ckpt", rate=0))
    assert begun.code == 0, begun.err
    before = load_checkpoint(tmp_path / "begun.ckpt").weights
    names = [name for name in before if before[name].is_floating_point()]
    moved, apart = (
        sum((alone.weights[name] - other[name]).abs().sum().item() for name in names)
        for other in (before, pair.weights)
    )
    assert moved > 0
    assert apart < 0.01 * moved


if __name__ == "__main__":
    place = Path(sys.argv[1])
    for name, port in zip(RUNS, sys.argv[2].split(","), strict=True):
        os.environ["MASTER_PORT"] = port
        code = main(command(place, name, place / "pair" / f"{name}.ckpt"))
        if code:
            leave(code)
    leave(0)
