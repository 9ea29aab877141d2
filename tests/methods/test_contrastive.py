"""Contrastive fine-tuning: pairs, terms and alpha against literal loops; what enters batch norm; resuming."""

from __future__ import annotations

import csv
import itertools
import math

import pytest
import torch
from torch import nn

from cellkit.errors import ModelError, UsageError
from cellkit.methods import FINETUNE
from cellkit.methods.contrastive import contrast_ratio, pair_errors, unrecorded
from cellkit.methods.settings import ContrastSettings


def literal_pairs(first, second):
    """Sum over all pairs of the mean squared error, number by number."""
    total = 0.0
    for a in first.tolist():
        for b in second.tolist():
            total += sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)
    return total


def batch_norms(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.fixture
def styles():
    """Unit styles of 4 shots, 5 query and 3 contrast crops."""
    torch.manual_seed(0)
    return [nn.functional.normalize(torch.randn(count, 8), dim=1) for count in (4, 5, 3)]


def test_pairs_equal_a_double_loop(styles):
    assert float(pair_errors(styles[0], styles[1])) == pytest.approx(literal_pairs(styles[0], styles[1]), rel=1e-5)


def test_styles_that_nearly_agree_do_not_cancel(styles):
    near = styles[0] + 1e-5 * torch.randn(4, 8)
    same = styles[0][:1].expand(4, 8)
    assert float(pair_errors(same, near[:1])) == pytest.approx(literal_pairs(same, near[:1]), rel=1e-4)


def test_the_ratio_equals_a_double_loop_and_is_finite_where_contrast_equals_the_shots(styles):
    shots, query, contrast = styles
    expected = literal_pairs(shots, query) / (literal_pairs(shots, contrast) + 1e-5)
    assert float(contrast_ratio(shots, query, contrast, 1e-5)) == pytest.approx(expected, rel=1e-5)
    same = shots[:1].clone().requires_grad_()
    ratio = contrast_ratio(same, query, same, 1e-5)
    ratio.backward()
    assert ratio.item() == pytest.approx(literal_pairs(shots[:1], query) / 1e-5, rel=1e-4)
    assert same.grad.isfinite().all()


def test_terms_equal_a_slow_literal_computation(tuning):
    method = FINETUNE["contrastive"](tuning(contrast_settings=ContrastSettings(alpha=-0.7, epsilon=0.01)))
    batch = next(method.batches(0))
    losses = method.losses(batch)
    network = tuning().network.train()  # a second one with equal weights
    output, query, contrast = network(batch.shots.images), network(batch.query).style, network(batch.contrast).style
    expected = method.classic.representation.loss(output.maps, batch.shots.targets)
    assert set(losses) == {"flow", "cell", "contrast", "alpha"}
    assert all(torch.equal(losses[name], expected[name]) for name in expected)
    weight = 1 / (1 + math.exp(0.7))
    ratio = literal_pairs(output.style, query) / (literal_pairs(output.style, contrast) + 0.01)
    assert losses["contrast"].item() == pytest.approx(weight * ratio, rel=1e-4)
    assert float(losses["alpha"]) == pytest.approx(-0.7)
    assert not losses["alpha"].requires_grad


def test_the_gradient_of_alpha_is_that_of_the_sigmoid_and_the_encoder_has_one(tuning):
    method = FINETUNE["contrastive"](tuning())
    losses = method.losses(next(method.batches(0)))
    losses["contrast"].backward()
    weight = 1 / (1 + math.exp(-0.2))
    assert float(method.modules.alpha.grad) == pytest.approx(losses["contrast"].item() * (1 - weight), rel=1e-4)
    network = method.modules.network
    assert network.down[0].convs[0][2].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in network.up.parameters())  # maps have no part in the term


def test_one_crop_each_of_query_and_contrast_for_every_shot(tuning):
    method = FINETUNE["contrastive"](tuning())
    batch = next(method.batches(0))
    assert batch.shots.images.shape == batch.query.shape == batch.contrast.shape == (4, 1, 16, 16)
    assert not torch.equal(batch.query, batch.contrast)


def test_batches_do_not_depend_on_where_one_starts(tuning):
    method = FINETUNE["contrastive"](tuning())
    walked = list(itertools.islice(method.batches(0), 5))
    assert not torch.equal(walked[0].query, walked[1].query)
    assert not torch.equal(walked[0].contrast, walked[1].contrast)
    for one, other in zip(walked[3:], itertools.islice(method.batches(3), 2), strict=True):
        assert torch.equal(one.shots.images, other.shots.images)
        assert torch.equal(one.query, other.query)
        assert torch.equal(one.contrast, other.contrast)


def test_running_statistics_come_from_the_shots_alone(tuning):
    method = FINETUNE["contrastive"](tuning())
    batch = next(method.batches(0))
    method.losses(batch)
    network = tuning().network.train()
    network(batch.shots.images)
    after, expected = method.modules.network.state_dict(), network.state_dict()
    assert all(torch.equal(after[name], expected[name]) for name in expected)


def test_all_crops_may_enter_the_running_statistics(tuning):
    method = FINETUNE["contrastive"](tuning(contrast_settings=ContrastSettings(statistics="all")))
    batch = next(method.batches(0))
    method.losses(batch)
    network = tuning().network.train()
    network(batch.shots.images)
    network.styles(batch.query)
    network.styles(batch.contrast)
    after, expected = method.modules.network.state_dict(), network.state_dict()
    assert all(torch.equal(after[name], expected[name]) for name in expected)


def test_maps_of_the_shots_do_not_depend_on_query_and_contrast(tuning):
    method = FINETUNE["contrastive"](tuning())
    batch = next(method.batches(0))
    first = method.losses(batch)
    other = method.losses(batch._replace(query=batch.query + 3, contrast=batch.contrast * 2))
    assert torch.equal(first["flow"], other["flow"])
    assert not torch.equal(first["contrast"], other["contrast"])


def test_unrecorded_batch_norm_uses_the_batch_and_is_as_before_afterwards(tuning):
    network = tuning().network.train()
    network.head.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    flags = [module.track_running_stats for module in batch_norms(network)]
    x = torch.rand(3, 1, 16, 16) * 5
    with unrecorded(network):
        inside = network(x)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.track_running_stats for module in batch_norms(network)] == flags
    torch.testing.assert_close(inside.maps, network(x).maps)  # by the batch, and in evaluation mode by the memory
    with pytest.raises(RuntimeError), unrecorded(network):
        raise RuntimeError("a step fails")
    assert [module.track_running_stats for module in batch_norms(network)] == flags


def test_two_steps_of_the_engine_lower_alpha_by_its_own_rate(tuned, tmp_path):
    method, weights, _ = tuned("contrastive")
    network, extra = method.split(weights)
    # Adam's first steps are as long as the rate; halving lowers it after each quarter: 0.1, then 0.025
    assert float(extra["alpha"]) == pytest.approx(0.2 - 0.1 - 0.025, abs=2e-3)
    assert set(network) == set(method.modules.network.state_dict())
    with (tmp_path / "contrastive.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["alpha"]) for row in rows] == pytest.approx([0.2, 0.1], abs=1e-3)
    terms = [sum(float(row[name]) for name in ("flow", "cell", "contrast")) for row in rows]
    assert [float(row["loss"]) for row in rows] == pytest.approx(terms, rel=1e-4)


def test_alpha_has_no_weight_decay(tuning):
    network, alpha = FINETUNE["contrastive"](tuning()).parameter_groups()
    assert "lr" not in network
    assert alpha["lr"] == 0.1
    assert alpha["weight_decay"] == 0


def test_a_resumed_run_equals_an_uninterrupted_one(tuned):
    _, whole, states = tuned("contrastive", steps=4)
    _, resumed, _ = tuned("contrastive", steps=4, resume=states[2])
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_modules_predict_as_the_network_does(tuning):
    method = FINETUNE["contrastive"](tuning())
    method.modules.eval()
    x = torch.rand(1, 1, 16, 16)
    assert torch.equal(method.modules(x).maps, method.modules.network(x).maps)


def test_a_frozen_encoder_is_one_line(tuning):
    with pytest.raises(UsageError) as caught:
        FINETUNE["contrastive"](tuning(part="decoder"))
    assert str(caught.value) == (
        "--train: with 'decoder' the encoder is frozen, which contrastive fine-tuning trains "
        "(use --train all, or --method classic)"
    )


def test_missing_crops_are_one_line_each(tuning):
    with pytest.raises(UsageError) as caught:
        FINETUNE["contrastive"](tuning(query=None))
    assert str(caught.value) == (
        "--query: contrastive fine-tuning needs images to compare the shots with "
        "(give --query DIR with unlabelled images of the experiment)"
    )
    with pytest.raises(UsageError) as caught:
        FINETUNE["contrastive"](tuning(contrast=None))
    assert str(caught.value) == (
        "--contrast: contrastive fine-tuning needs images of other styles "
        "(give --contrast DIR with a folder of images per style)"
    )


def test_a_network_without_style_is_one_line(tuning):
    with pytest.raises(ModelError) as caught:
        FINETUNE["contrastive"](tuning(network=nn.Conv2d(1, 3, 1), base="plain.ckpt"))
    assert str(caught.value) == "plain.ckpt: its network has no style output (use --method classic)"
