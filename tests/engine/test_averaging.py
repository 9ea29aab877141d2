"""Running average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cellkit.engine.averaging import WeightAverage


def test_average_follows_the_formula_and_copies_counters():
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    module[0].weight.data.fill_(0.0)
    average = WeightAverage(module, 0.5)
    module[0].weight.data.fill_(1.0)
    module[1].num_batches_tracked += 7
    average.update(1000)
    assert average.module[0].weight.item() == 0.5
    average.update(1001)
    assert average.module[0].weight.item() == 0.75
    assert average.module[1].num_batches_tracked.item() == 7
    assert not average.module[0].weight.requires_grad


def test_early_averages_forget_faster():
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    average = WeightAverage(module, 0.999)
    module.weight.data.fill_(1.0)
    average.update(1)
    assert average.module.weight.item() == pytest.approx(1 - 2 / 11)


def test_shared_weights_are_averaged_once():
    layer = nn.Linear(1, 1, bias=False)
    module = nn.Sequential(layer, layer)
    layer.weight.data.fill_(0.0)
    average = WeightAverage(module, 0.5)
    layer.weight.data.fill_(1.0)
    average.update(1000)
    assert torch.equal(average.module[1].weight, torch.tensor([[0.5]]))
