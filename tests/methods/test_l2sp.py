"""L2-SP: the penalty, and what it does."""

from __future__ import annotations

import pytest
import torch

from cellkit.methods import FINETUNE
from cellkit.methods.l2sp import l2sp
from cellkit.methods.settings import L2SPSettings


def distance(method, network):
    """From the weights of a network, of all that is trained."""
    pairs = zip(method.modules.parameters(), network.parameters(), strict=True)
    return sum(float((now - then).detach().square().sum()) for now, then in pairs) ** 0.5


@pytest.mark.parametrize("balance", [0.0, 0.3, 1.0])
def test_the_penalty_equals_a_literal_loop(balance):
    torch.manual_seed(0)
    weights, base = torch.randn(50), torch.randn(50)
    expected = sum(
        balance * (w - w0) ** 2 + (1 - balance) * w**2 for w, w0 in zip(weights.tolist(), base.tolist(), strict=True)
    )
    assert float(l2sp(weights, base, balance)) == pytest.approx(expected, rel=1e-5)


def test_at_the_base_the_penalty_and_its_gradient_are_zero(tuning):
    method = FINETUNE["l2sp"](tuning())
    penalty = method.losses(next(method.batches(0)))["l2sp"]
    penalty.backward()
    assert penalty.item() == 0
    assert not any(p.grad.any() for p in method.modules.parameters() if p.grad is not None)


def test_only_what_is_trained_is_drawn_back(tuning):
    method = FINETUNE["l2sp"](tuning(part="head", l2sp_settings=L2SPSettings(strength=2.0)))
    with torch.no_grad():
        method.modules.head[2].bias += 1.0
        method.modules.down[0].convs[0][2].bias += 1.0
    assert method.losses(next(method.batches(0)))["l2sp"].item() == pytest.approx(2 * 3.0)  # three outputs


def test_a_stronger_penalty_keeps_nearer_to_the_base(tuning, tuned):
    moved = [
        distance(tuned("l2sp", steps=8, l2sp_settings=L2SPSettings(strength=strength))[0], tuning().network)
        for strength in (0.0, 100.0)
    ]
    assert moved[1] < 0.7 * moved[0]


def test_without_strength_it_is_classic(tuned):
    classic, spared = tuned("classic")[1], tuned("l2sp", l2sp_settings=L2SPSettings(strength=0.0))[1]
    assert all(torch.equal(classic[name], spared[name]) for name in classic)


def test_plain_weight_decay_draws_to_zero(tuned):
    norms = [
        sum(float(p.detach().square().sum()) for p in tuned("l2sp", steps=8, l2sp_settings=s)[0].modules.parameters())
        for s in (L2SPSettings(strength=0.0), L2SPSettings(strength=100.0, balance=0.0))
    ]
    assert norms[1] < norms[0]
