"""Tiny fine-tuning: bright discs as shots, noise as query, two flat styles as contrast."""

from __future__ import annotations

import copy

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from cellkit.config import NetworkSpec, Preprocessing
from cellkit.data.augment import Augmentation, Scene
from cellkit.data.examples import Targets
from cellkit.data.layouts import find_pairs
from cellkit.data.style_crops import Style, StyleCrops, StyleImage
from cellkit.data.training import TrainingSet
from cellkit.engine import FitSettings, RunFiles, fit, open_device
from cellkit.methods import FINETUNE, Tuning
from cellkit.networks import build
from cellkit.representations import REPRESENTATIONS

FLOW = REPRESENTATIONS["flow"]
AUGMENTATION = Augmentation(crop=16)
SETTINGS = {
    "optimiser": "adam",
    "schedule": "halving",
    "weight_decay": 0.1,
    "learning_rate": 1e-3,
    "log_every": 1,
    "save_every": 2,
}


@pytest.fixture(scope="session")
def shots(tmp_path_factory):
    """Two annotated images (48, 48)."""
    folder = tmp_path_factory.mktemp("shots")
    y, x = np.ogrid[:48, :48]
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for i in range(2):
        labels = ((y - 20 - i) ** 2 + (x - 24) ** 2 < 100).astype(np.uint8)
        grain = np.random.default_rng(i).integers(0, 40, labels.shape)
        iio.imwrite(folder / "images" / f"{i}.png", (160 * labels + grain).astype(np.uint8))
        iio.imwrite(folder / "labels" / f"{i}.png", labels)
    targets = Targets(compute=FLOW.targets, vectors=FLOW.vectors)
    return TrainingSet(find_pairs(str(folder)).pairs, Preprocessing(channels=1), targets, AUGMENTATION)


def style(name, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(1, 40, 40, generator=generator).half() * (seed + 1)
    return Style(name=name, images=(StyleImage(pixels=pixels, scene=Scene(shape=(40, 40))),))


@pytest.fixture
def tuning(shots):
    """Makes what methods are given, with a fresh network that is always the same."""

    def make(**changes):
        torch.manual_seed(0)
        network = build(NetworkSpec(name="style-unet", channels=1, widths=(4, 8)))
        parts = {
            "network": network,
            "representation": FLOW,
            "shots": shots,
            "batch": 4,
            "seed": 5,
            "query": StyleCrops([style("query", 1)], AUGMENTATION, 1, seed=5, stream=1),
            "contrast": StyleCrops([style("a", 2), style("b", 4)], AUGMENTATION, 1, seed=5, stream=2),
        }
        return Tuning(**(parts | changes))

    return make


@pytest.fixture
def tuned(tuning, tmp_path):
    """Fine-tunes by the engine; returns the method, the weights that were saved last, and all states by step."""

    def run(name, *, steps=2, resume=None, **changes):
        method = FINETUNE[name](tuning(**changes))
        saved, states = {}, {}

        def save(path, weights, training):
            saved["weights"] = copy.deepcopy(weights)
            if training is not None:
                states[training["step"]] = copy.deepcopy(training)

        fit(
            method,
            FitSettings(steps=steps, **SETTINGS),
            open_device("cpu", "fp32"),
            files=RunFiles(last=tmp_path / "last", best=tmp_path / "best", metrics=tmp_path / f"{name}.csv"),
            save=save,
            resume=resume,
            quiet=True,
        )
        return method, saved["weights"], states

    return run
