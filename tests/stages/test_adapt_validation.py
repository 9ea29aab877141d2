"""The loss on held-out images against a literal one, and which score chooses."""

from __future__ import annotations

import copy
import importlib.util
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cellkit.config import NetworkSpec
from cellkit.data.training import Batch, TrainingSet
from cellkit.engine import open_device
from cellkit.methods.adaptation import of_members, under
from cellkit.networks import build
from cellkit.representations import REPRESENTATIONS
from cellkit.stages.adapt_networks import Deployed
from cellkit.stages.adapt_recipe import AdaptAugmentation, AdaptPreprocessing
from cellkit.stages.adapt_validation import HELD, ORDER, AdaptValidation, HeldLoss, held_batches
from cellkit.stages.pretraining import targets_of

SPEC_OF_SCENES = importlib.util.spec_from_file_location("adapt_scenes", Path(__file__).with_name("adapt_scenes.py"))
scenes = importlib.util.module_from_spec(SPEC_OF_SCENES)
SPEC_OF_SCENES.loader.exec_module(scenes)
CROP, domains = scenes.CROP, scenes.domains

SPEC = NetworkSpec(name="batch-unet", channels=1, outputs=2, widths=(4, 8))
CPU = open_device("cpu", "fp32")
MASK = REPRESENTATIONS["mask"]


def batches(count=2):
    made = []
    for number in range(count):
        images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(number)) * (number + 1)
        made.append(Batch(images, (images > 0.6).float()))
    return made


def literal(network, given):
    """Mean over batches of the mean over pixels of minus the logarithm of the softmax of the true class."""
    own, losses = copy.deepcopy(network).train(), []
    for images, targets in given:
        maps = own(images).maps.detach().numpy().astype(np.float64)
        chances = np.exp(maps) / np.exp(maps).sum(1, keepdims=True)
        true = np.where(targets[:, 0].numpy() > 0, chances[:, 1], chances[:, 0])
        losses.append(-np.log(true).mean())
    return np.mean(losses)


def test_loss_is_the_mean_over_batches_and_members():
    torch.manual_seed(0)
    members, given = [build(SPEC), build(SPEC)], batches()
    for member in members:  # running statistics that would make another loss
        member(torch.rand(2, 1, 16, 16) * 50)
    before = [copy.deepcopy(member.state_dict()) for member in members]
    found = HeldLoss(given, MASK, CPU)(members)
    assert found == pytest.approx(np.mean([literal(member, given) for member in members]), rel=1e-5)
    for member, state in zip(members, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in member.state_dict().items())


def test_held_crops_are_the_same_and_fair(tmp_path):
    pairs = domains(tmp_path, held=0).pairs
    kind = AdaptAugmentation(crop=CROP)
    data = TrainingSet(pairs, AdaptPreprocessing(), targets_of(MASK), kind)
    first, again = held_batches(data, 4, 5), held_batches(data, 4, 5)
    assert [len(batch.images) for batch in first] == [4, 4, 4, 4]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.images, other.images)
    assert torch.equal(first[0].images, next(islice(data.batches(batch=4, seed=5), 1)).images)
    assert len(held_batches(data, 1, 5)) == 16


class Twice:
    """A method of one network, which is saved with a head that is doubled."""

    members = 1
    settled = True

    def __init__(self):
        torch.manual_seed(1)
        self.modules = nn.ModuleDict({"own": build(SPEC)})

    def split(self, state):
        weights = under(state, "own.")
        return weights | {"head.weight": 2 * weights["head.weight"]}, {}


class Pair:
    """A method of two networks."""

    members = 2
    settled = True

    def __init__(self):
        torch.manual_seed(2)
        self.modules = nn.ModuleList([build(SPEC), build(SPEC)])

    def split(self, state):
        return of_members(under(state, "0."), under(state, "1.")), {}


def test_what_would_be_saved_is_scored():
    method, held = Twice(), HeldLoss(batches(), MASK, CPU)
    validate = AdaptValidation(Deployed(SPEC, MASK, method, CPU), held)
    saved = build(SPEC)
    saved.load_state_dict(method.split(method.modules.state_dict())[0])
    assert validate.score == HELD
    scores = validate(method.modules)
    assert scores == {HELD: pytest.approx(-held([saved]), rel=1e-5)}
    assert scores[HELD] != pytest.approx(-held([method.modules["own"]]), rel=1e-3)


def test_both_networks_are_scored():
    method, held = Pair(), HeldLoss(batches(), MASK, CPU)
    validate = AdaptValidation(Deployed(SPEC, MASK, method, CPU), held)
    wanted = (held([method.modules[0]]) + held([method.modules[1]])) / 2
    assert validate(method.modules)[HELD] == pytest.approx(-wanted)


def test_what_comes_before_the_target_is_never_the_best():
    method, held = Twice(), HeldLoss(batches(), MASK, CPU)
    validate = AdaptValidation(Deployed(SPEC, MASK, method, CPU), held)
    method.settled = False
    first, second = (validate(method.modules)[HELD] for _ in range(2))
    method.settled = True
    assert first < second < -1000 * held([method.modules["own"]]) < validate(method.modules)[HELD]


class Watcher:
    """Scores that would choose something else."""

    def __call__(self, deployed):
        assert isinstance(deployed, Deployed)
        return {"monitor_iou": 0.5}


def test_newest_weights_are_the_best_where_nothing_is_held_out():
    method = Twice()
    validate = AdaptValidation(Deployed(SPEC, MASK, method, CPU), monitor=Watcher(), done=4)
    assert validate.score == ORDER
    assert [validate(method.modules) for _ in range(2)] == [
        {ORDER: 5.0, "monitor_iou": 0.5},
        {ORDER: 6.0, "monitor_iou": 0.5},
    ]
