"""A tiny training run that can be killed: ``python tiny_run.py FOLDER [--signal N --step N] ...``.

It resumes by itself when FOLDER holds the state of an earlier run.
"""

from __future__ import annotations

import argparse
import os
import random
import traceback
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cellkit.cli.app import leave
from cellkit.engine import FitSettings, RunFiles, distributed, fit, open_device
from cellkit.errors import CellkitError
from cellkit.io.atomic import written_whole

SETTINGS = {"steps": 24, "schedule": "cosine", "warmup": 3, "clip": 1.0, "ema": 0.9}
CADENCE = {"log_every": 4, "save_every": 5, "validate_every": 6}


class TinyMethod:
    """A network with everything that has a state: batch statistics, dropout, numbers drawn by all generators."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.modules = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(4, 1, 3, padding=1)
        )

    def batches(self, start):
        while True:
            generator = torch.Generator().manual_seed(start)
            yield torch.randn(4, 1, 12, 12, generator=generator)
            start += 1

    def losses(self, batch):
        noise = np.random.normal() + random.gauss(0, 1)  # noqa: NPY002 - the generator that the engine restores
        maps = self.modules(batch)
        return {"copy": (maps - batch).square().mean(), "noise": 0.01 * (maps.mean() - noise).square()}


class SharedMethod(TinyMethod):
    """No batch statistics and no randomness: several processes do exactly what one does."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed + distributed.rank())  # the engine makes them equal
        self.modules = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))

    def losses(self, batch):
        part = distributed.share(batch)
        return {"copy": (self.modules(part) - part).square().mean()}


def save(path, weights, training):
    with written_whole(path) as temporary:
        torch.save({"weights": weights, "training": training}, temporary)


def load(path):
    return torch.load(path, weights_only=True)


def files(folder):
    return RunFiles(last=folder / "last", best=folder / "best", metrics=folder / "metrics.csv")


def score(module):
    random.random()  # a validation that draws numbers changes nothing
    return {"sum": float(sum(p.abs().sum() for p in module.parameters()))}


def run(folder, method=None, resume=True, **changes):
    """Train in a folder, from where an earlier run there stopped; returns the method and the result."""
    method = method or TinyMethod()
    state = load(folder / "last")["training"] if resume and (folder / "last").exists() else None
    result = fit(
        method,
        FitSettings(**(SETTINGS | CADENCE | changes)),
        open_device("cpu", "fp32"),
        files=files(folder),
        save=save,
        resume=state,
        validate=score,
        quiet=True,
    )
    return method, result


def killing(method, step, number, rank=0):
    """Send this process a signal after a step."""

    def on_step_end(done):
        if done == step and distributed.rank() == rank:
            os.kill(os.getpid(), number)

    method.on_step_end = on_step_end
    return method


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--method", choices=["tiny", "shared"], default="tiny")
    parser.add_argument("--signal", type=int, default=0)
    parser.add_argument("--step", type=int, default=0)
    parser.add_argument("--rank", type=int, default=0)
    arguments = parser.parse_args()
    method = killing(
        {"tiny": TinyMethod, "shared": SharedMethod}[arguments.method](),
        arguments.step,
        arguments.signal,
        arguments.rank,
    )
    try:
        run(arguments.folder, method)
    finally:
        torch.save(method.modules.state_dict(), arguments.folder / f"weights{distributed.rank()}")


if __name__ == "__main__":
    try:
        main()
    except CellkitError:
        traceback.print_exc()
        leave(1)  # as the console script does
    leave(0)
