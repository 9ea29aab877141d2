"""Losses of detectors: equal to a slow computation box by box, in named situations; seeds; images without objects."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from cellkit.methods import detection_losses as module
from cellkit.methods.detection_losses import detection_losses

SPEC = importlib.util.spec_from_file_location("detection_toys", Path(__file__).with_name("detection_toys.py"))
toys = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(toys)

TRUTHS = toys.situations()
TERMS = ["rpn_objectness", "rpn_box", "class_0", "box_0", "class_1", "box_1", "class_2", "box_2", "mask"]
ZERO_WITHOUT_OBJECTS = {"rpn_box", "box_0", "box_1", "box_2", "mask"}


@pytest.mark.parametrize("name", TRUTHS)
def test_losses_equal_a_slow_computation(name):
    network = toys.restless()
    batch = toys.batch_of(TRUTHS[name], TRUTHS["two overlapping"])
    losses = detection_losses(network, batch, toys.SETTINGS)
    expected = toys.slow_losses(network, batch, toys.SETTINGS)
    assert list(losses) == TERMS == list(expected)
    for term, value in expected.items():
        torch.testing.assert_close(losses[term], value, rtol=2e-4, atol=1e-5, msg=lambda text: f"{term}: {text}")  # noqa: B023
        assert value > 0


@pytest.mark.parametrize("head", ["bn", "group-norm", "none"])
def test_losses_of_one_stage_equal_a_slow_computation(head):
    network = toys.restless(cascade_stages=1, head_norm=head, box_convs=0, trunk="resnet-tiny")
    batch = toys.batch_of(TRUTHS["at the border"], TRUTHS["one object"])
    losses = detection_losses(network, batch, toys.SETTINGS)
    expected = toys.slow_losses(network, batch, toys.SETTINGS)
    assert set(losses) == {"rpn_objectness", "rpn_box", "class_0", "box_0", "mask"}
    for term, value in expected.items():
        torch.testing.assert_close(losses[term], value, rtol=2e-4, atol=1e-5)


def test_regions_that_leave_the_image_are_no_longer_looked_at(monkeypatch):
    network = toys.restless()
    with torch.no_grad():
        network.roi_heads.box_predictor[0].bbox_pred.bias[0] = 25.0  # two and a half widths to the right
    counts = []
    boxes = network.boxes
    monkeypatch.setattr(network, "boxes", lambda stage, pooled: counts.append(len(pooled)) or boxes(stage, pooled))
    batch = toys.batch_of(TRUTHS["two overlapping"], TRUTHS["at the border"])
    losses = detection_losses(network, batch, toys.SETTINGS)
    assert counts[0] > counts[1] + 5 > 10
    expected = toys.slow_losses(network, batch, toys.SETTINGS)
    assert counts[:3] == counts[3:]
    for term, value in expected.items():
        torch.testing.assert_close(losses[term], torch.as_tensor(value), rtol=2e-4, atol=1e-5)


def test_where_all_regions_leave_the_image_later_stages_have_nothing_to_learn():
    network = toys.restless(head_norm="group-norm")
    with torch.no_grad():
        network.roi_heads.box_predictor[0].bbox_pred.bias[0] = 1e4
    losses = detection_losses(network, toys.batch_of(*[TRUTHS["one object"]] * 2), toys.SETTINGS)
    assert losses["class_0"] > 0
    assert [losses[term].item() for term in ("class_1", "box_1", "class_2", "box_2")] == [0, 0, 0, 0]
    sum(losses.values()).backward()


def test_gradients_equal_those_of_the_slow_computation():
    network = toys.restless(cascade_stages=1, box_convs=0, norm="frozen-bn", head_norm="none", trunk="resnet-tiny")
    batch = toys.batch_of(TRUTHS["two overlapping"], TRUTHS["no object"])
    gradients = []
    for function in (detection_losses, toys.slow_losses):
        network.zero_grad()
        sum(function(network, batch, toys.SETTINGS).values()).backward()
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters()})
    assert sum(g.abs().sum() for g in gradients[0].values()) > 0
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("head", ["bn", "group-norm", "none"])
def test_images_without_objects_have_finite_losses_of_the_background_alone(head):
    network = toys.restless(head_norm=head)
    losses = detection_losses(network, toys.batch_of(TRUTHS["no object"], TRUTHS["no object"]), toys.SETTINGS)
    for term, value in losses.items():
        assert value.isfinite()
        assert (value == 0) == (term in ZERO_WITHOUT_OBJECTS)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_equal_seeds_give_equal_losses_and_others_others():
    network = toys.restless()
    first, again, other = (
        detection_losses(network, toys.batch_of(*[TRUTHS["two overlapping"]] * 2, seeds=seeds), toys.SETTINGS)
        for seeds in ((1, 2), (1, 2), (1, 3))
    )
    for term, value in first.items():
        assert value == again[term]
    assert any(value != other[term] for term, value in first.items())


def test_the_state_of_other_random_numbers_does_not_count():
    network, batch = toys.restless(), toys.batch_of(*[TRUTHS["one object"]] * 2)
    torch.manual_seed(0)
    first = detection_losses(network, batch, toys.SETTINGS)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    again = detection_losses(network, batch, toys.SETTINGS)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(value == again[term] for term, value in first.items())


def test_half_precision_gives_losses_and_gradients_in_single():
    network, batch = toys.restless(), toys.batch_of(TRUTHS["one object"], TRUTHS["no object"])
    with torch.autocast("cpu", torch.bfloat16):
        losses = detection_losses(network, batch, toys.SETTINGS)
    exact = detection_losses(network, batch, toys.SETTINGS)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    torch.testing.assert_close(losses["rpn_objectness"], exact["rpn_objectness"], rtol=0.05, atol=0.01)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("part", ["backbone.fpn_output3", "proposal_generator.rpn_head.anchor_deltas"])
def test_numbers_that_are_none_reach_the_losses(part):
    network = toys.restless()
    nn.init.constant_(network.get_submodule(part).weight, torch.nan)
    losses = detection_losses(network, toys.batch_of(*[TRUTHS["one object"]] * 2), toys.SETTINGS)
    assert not all(value.isfinite() for value in losses.values())


def test_terms_are_divided_by_the_mean_number_over_processes(monkeypatch):
    network, batch = toys.restless(), toys.batch_of(*[TRUTHS["one object"]] * 2)
    alone = detection_losses(network, batch, toys.SETTINGS)
    monkeypatch.setattr(module, "is_shared", lambda: True)
    monkeypatch.setattr(module, "world_size", lambda: 2)
    monkeypatch.setattr(module, "summed", lambda counts: 4 * counts)  # the other process has three times as many
    shared = detection_losses(network, batch, toys.SETTINGS)
    for term, value in alone.items():
        torch.testing.assert_close(shared[term], value / 2)
