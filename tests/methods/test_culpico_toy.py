"""The toy of adaptation: discs that are brighter than their ground in the source, darker in the target.

What tells discs from ground in both is that they are rougher. In the source that is weak against uneven light, in the
target strong and of another grain: a model of the source alone takes all of the target for cells. Most of what is lost
comes back with the statistics of the target in batch norms; the rest, on most seeds, with its pseudo-labels.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from cellkit.methods.adapt_bounds import SourceOnly
from cellkit.methods.adapt_settings import AdaptSettings
from cellkit.methods.adaptation import Adaptation, probability
from cellkit.methods.culpico import Culpico
from cellkit.representations import REPRESENTATIONS

SPEC = importlib.util.spec_from_file_location("adapt_toys", Path(__file__).with_name("adapt_toys.py"))
toys = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(toys)

MASK = REPRESENTATIONS["mask"]
BRIGHTER = toys.Look(ground=0.5, contrast=(0.005, 0.025), rough=(0.005, 0.03), grain=0.6, shade=0.12)
DARKER = toys.Look(ground=0.5, contrast=(-0.20, -0.04), rough=(0.04, 0.24), grain=0.7, shade=0.1)
SCENE = {"side": 64, "count": 4, "radius": (7, 10)}
STEPS, RAMP = 600, 400


@pytest.fixture(scope="module")
def toy_domains(tmp_path_factory):
    """Folders of both domains."""
    root = tmp_path_factory.mktemp("toy")
    toys.write(root / "source", BRIGHTER, images=12, seed=1, **SCENE)
    toys.write(root / "target", DARKER, images=12, seed=2, **SCENE)
    return root


def adapted(kind, root, folder, **settings):
    """The networks of a method after its training; crops are mirrored and no more, as in the paper."""
    still = {"scale": (1.0, 1.0), "rotate": False}
    given = Adaptation(
        network=toys.network(seed=0, widths=(8, 16)),
        another=lambda number: toys.network(seed=number, widths=(8, 16)),
        representation=MASK,
        decoding=MASK.settings(),
        source=toys.labelled(root / "source", crop=32, probability=0.0, foreground=0, **still),
        target=toys.unlabelled(root / "target", crop=32, **still),
        settings=AdaptSettings(**settings),
        batch=8,
        steps=STEPS,
    )
    folder.mkdir()
    method = toys.train(kind(given), folder, steps=STEPS, learning_rate=2e-3, log_every=50, save_every=0)
    return list(method.modules) if kind is Culpico else [method.modules]


@torch.no_grad()
def iou(networks, look):
    """Of all pixels of new images of a domain, by the mean probability of the networks in evaluation mode."""
    both = either = 0
    for number in range(12):
        random = np.random.default_rng((99, number))
        labels = toys.discs(random, **SCENE)
        image = toys.painted(labels, look, random).astype(np.float32)
        image = torch.from_numpy((image - image.min()) / (image.max() - image.min()))[None, None]
        found = sum(probability(network.eval()(image).maps, MASK)[0] for network in networks) / len(networks) > 0.5
        both += int((found.numpy() & (labels > 0)).sum())
        either += int((found.numpy() | (labels > 0)).sum())
    return both / either


@pytest.mark.slow
def test_discs_of_inverted_contrast_and_other_texture_are_found(toy_domains, tmp_path):
    bound = adapted(SourceOnly, toy_domains, tmp_path / "bound")
    both = adapted(Culpico, toy_domains, tmp_path / "culpico", ramp=RAMP)
    assert iou(bound, BRIGHTER) > 0.8  # it has learned what there is to learn
    assert iou(bound, DARKER) < 0.3
    assert iou(both, DARKER) > 0.8
