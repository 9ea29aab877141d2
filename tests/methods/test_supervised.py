"""Supervised learning: batches by (seed, step), losses of the representation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import torch

from cellkit.config import NetworkSpec, PretrainMethodName
from cellkit.data.training import Batch
from cellkit.methods import PRETRAIN, Supervised
from cellkit.networks import build
from cellkit.representations import REPRESENTATIONS


class Asked:
    """A training set that notes what it is asked for."""

    def batches(self, start, **options):
        self.asked = {"start": start} | options
        return iter(())


def test_table_and_names_agree():
    assert set(PRETRAIN) == set(get_args(PretrainMethodName))


def test_batches_depend_on_seed_and_step_and_are_shared_by_processes():
    data = Asked()
    method = Supervised(torch.nn.Identity(), REPRESENTATIONS["flow"], data, batch=8, seed=3)
    assert list(method.batches(5)) == []
    assert data.asked == {"start": 5, "batch": 8, "seed": 3, "rank": 0, "world_size": 1}


def test_losses_equal_a_literal_computation():
    torch.manual_seed(0)
    network = build(NetworkSpec(channels=1, widths=(4, 8))).eval()
    images, targets = torch.rand(2, 1, 16, 16), torch.rand(2, 3, 16, 16)
    method = Supervised(network, REPRESENTATIONS["flow"], SimpleNamespace(), batch=2, seed=0)
    losses = method.losses(Batch(images, targets))
    maps = network(images).maps
    probability = torch.sigmoid(maps[:, 2])
    cell = -(targets[:, 2] * probability.log() + (1 - targets[:, 2]) * (1 - probability).log()).mean()
    flow = 0.5 * ((maps[:, :2] - 5 * targets[:, :2]) ** 2).mean()  # Scellseg, eq. 1
    assert set(losses) == {"flow", "cell"}
    torch.testing.assert_close(losses["flow"], flow)
    torch.testing.assert_close(losses["cell"], cell)
