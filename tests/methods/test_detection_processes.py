"""Two processes that share a batch learn what one does; as a script one of them: FOLDER.

The crops of a batch are divided between them, and with them objects, anchors and regions, which are not equally many:
each term is divided by what all processes look at together.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path

import torch

from cellkit.cli.app import leave
from cellkit.engine import FitSettings, RunFiles, distributed, fit, open_device
from cellkit.methods.detection import Detection

SPEC = importlib.util.spec_from_file_location("detection_toys", Path(__file__).with_name("detection_toys.py"))
toys = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(toys)

SCENES = ("two overlapping", "no object")


class Shared:
    """Two crops in each step, of which a process has its share."""

    def batches(self, start, *, batch, seed, rank, world_size):
        truths = toys.situations()
        for step in itertools.count(start):
            whole = toys.batch_of(*(truths[name] for name in SCENES), seeds=[batch * step + i for i in range(batch)])
            share = slice(rank * batch // world_size, (rank + 1) * batch // world_size)
            yield whole._replace(images=whole.images[share], truth=whole.truth[share], seeds=whole.seeds[share])


def learned(folder):
    """Weights after two steps; batch norms would see other crops in each process."""
    detector = toys.restless(norm="group-norm", head_norm="group-norm")
    method = Detection(detector, Shared(), toys.SETTINGS, batch=len(SCENES), seed=3)
    settings = FitSettings(steps=2, optimiser="sgd", learning_rate=0.01, schedule="constant", log_every=1)
    files = RunFiles(last=folder / "last", best=folder / "best", metrics=folder / "metrics.csv")
    fit(method, settings, open_device("cpu", "fp32"), files=files, save=lambda *_: None, quiet=True)
    return detector.state_dict()


def test_two_processes_learn_what_one_does(tmp_path, two_processes):
    alone = learned(tmp_path)
    two_processes(__file__, tmp_path)
    before = toys.restless(norm="group-norm", head_norm="group-norm").state_dict()
    moved = sum((alone[name] - before[name]).abs().sum() for name in alone if alone[name].is_floating_point())
    for rank in range(2):
        found = torch.load(tmp_path / f"weights{rank}", weights_only=True)
        apart = sum((alone[name] - found[name]).abs().sum() for name in alone if alone[name].is_floating_point())
        assert apart < 1e-3 * moved


if __name__ == "__main__":
    place = Path(sys.argv[1])
    weights = learned(place)
    torch.save(weights, place / f"weights{distributed.rank()}")
    leave(0)
