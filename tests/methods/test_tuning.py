"""Fine-tuning in general: the table, frozen parts, classic."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from torch import nn

from cellkit.config import FinetuneMethodName, ShotMethodName
from cellkit.errors import ModelError, UsageError
from cellkit.methods import FINETUNE
from cellkit.methods.settings import ContrastSettings, L2SPSettings
from cellkit.methods.supervised import Supervised
from cellkit.methods.tuning import freeze

ENCODER = ("down.",)
DECODER = ("up.", "rise.", "gates.")


def test_table_and_names_agree():
    assert set(FINETUNE) == set(get_args(ShotMethodName))
    assert {*FINETUNE, "supported"} == set(get_args(FinetuneMethodName))


@pytest.mark.parametrize(("part", "frozen"), [("all", ()), ("decoder", ENCODER), ("head", ENCODER + DECODER)])
@pytest.mark.parametrize("name", ["classic", "l2sp"])
def test_frozen_parts_are_bit_identical_after_training_and_all_else_has_changed(tuning, tuned, name, part, frozen):
    before = tuning().network.state_dict()
    method, weights, _ = tuned(name, part=part)
    after, extra = method.split(weights)
    assert extra == {}
    assert set(after) == set(before)
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert {key for key in before if key.startswith(frozen)} <= same
    unchanged = {key for key in same if not key.startswith(frozen)}
    # the bias of a convolution that batch norm follows has no gradient, but for rounding
    assert all(key.endswith("bias") for key in unchanged), unchanged


def test_frozen_parts_normalise_by_what_they_learned_before(tuning):
    network = tuning().network
    freeze(network, "head")
    assert not network.down.training
    assert not network.up.training
    assert network.head[0].training
    assert [name for name, p in network.named_parameters() if p.requires_grad] == [
        "head.0.weight",
        "head.0.bias",
        "head.2.weight",
        "head.2.bias",
    ]


def test_freezing_less_afterwards_sets_all_free(tuning):
    network = tuning().network
    freeze(network, "head")
    freeze(network, "all")
    assert all(p.requires_grad for p in network.parameters())
    assert all(module.training for module in network.modules())


def test_a_network_without_parts_is_trained_whole_or_refused():
    network = nn.Conv2d(1, 3, 1)
    freeze(network, "all")
    with pytest.raises(ModelError) as caught:
        freeze(network, "head", base="base.ckpt")
    assert str(caught.value) == "base.ckpt: its network has no parts that can be trained alone (use --train all)"


def test_classic_is_supervised_learning_on_the_shots(tuning):
    given = tuning()
    supervised = Supervised(copy.deepcopy(given.network), given.representation, given.shots, batch=4, seed=5)
    classic = FINETUNE["classic"](given)
    first, second = next(classic.batches(3)), next(supervised.batches(3))
    assert torch.equal(first.images, second.images)
    expected = supervised.losses(second)
    assert all(torch.equal(value, expected[name]) for name, value in classic.losses(first).items())


@pytest.mark.parametrize(
    ("settings", "values", "message"),
    [
        (ContrastSettings, {"alpha_rate": -1}, "alpha_rate: -1 is negative (give 0 or more)"),
        (ContrastSettings, {"epsilon": 0}, "epsilon: 0 is not above 0 (e.g. 1e-5)"),
        (L2SPSettings, {"strength": -0.5}, "strength: -0.5 is negative (give 0 or more)"),
        (L2SPSettings, {"balance": 1.5}, "balance: 1.5 is out of range (give a number from 0 to 1)"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, values, message):
    with pytest.raises(UsageError) as caught:
        settings(**values)
    assert str(caught.value) == message
