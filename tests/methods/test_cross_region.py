"""Cross-region alignment against loops over pixels; which weights a sub-step changes; the two parts; resuming."""

from __future__ import annotations

import copy
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cellkit.engine import FitSettings, open_device
from cellkit.engine.optimisers import Optimisers
from cellkit.errors import ModelError, UsageError
from cellkit.methods.cross_region import CrossRegion, PixelDiscriminator, bits, side_errors, soft_labels
from cellkit.networks import Output

SPEC = importlib.util.spec_from_file_location("adapt_toys", Path(__file__).with_name("adapt_toys.py"))
toys = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(toys)

SETTINGS = {"region_widths": (6, 5), "region_threshold": 0.96, "region_weight": 0.5, "region_source": 0.7}


def made(folder, representation="mask", *, part=0, **settings):
    """The method in its first or second part, its labeller unlike its network; 4 steps in all, 2 of either part."""
    method = CrossRegion(toys.adaptation(folder, representation, **(SETTINGS | settings)))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in method.modules.labeller.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    method.steps = 2 * part
    return method


def chances(maps, temperature=1.0):
    """Probability of a cell per pixel, a dictionary by (i, y, x)."""
    logit = (maps[:, 1] - maps[:, 0]).detach().double()
    return {i: 1 / (1 + math.exp(-float(logit[i]) / temperature)) for i in np.ndindex(*logit.shape)}


def mean_cross_entropy(maps, labels, counted):
    """Mean over the pixels that count."""
    p = chances(maps)
    return -sum(math.log(p[i] if labels[i] else 1 - p[i]) for i in p if counted[i]) / sum(counted.values())


def mean_side_error(judgement, maps, side, counted):
    """Sum over the pixels that count of -sum a log D(side, class), over all pixels."""
    p, total = chances(maps, 1.8), 0.0
    for i, y, x in p:
        logits = judgement[i, :, y, x].detach().double().tolist()
        whole = sum(math.exp(value) for value in logits)
        for k, soft in enumerate((1 - p[i, y, x], p[i, y, x])):
            total -= counted[i, y, x] * min(soft, 0.9) * math.log(math.exp(logits[2 * side + k]) / whole)
    return total / len(p)


def passed(network, images):
    """Maps and what the head saw, of a copy."""
    network, seen = copy.deepcopy(network), []
    network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return network(images).maps, seen[0]


def everywhere(maps):
    return dict.fromkeys(chances(maps), 1)


def literal_domains(method, batch):
    """All terms of the first part."""
    network, judge = method.modules.network, method.modules.discriminators["domains"]
    source, source_seen = passed(network, batch.source.images)
    target, target_seen = passed(network, batch.target)
    labels = {i: float(batch.source.targets[i[0], 0, i[1], i[2]]) for i in chances(source)}
    far = judge(target_seen)
    return {
        "source cell": mean_cross_entropy(source, labels, everywhere(source)),
        "adversarial": 0.5 * mean_side_error(far, target, 0, everywhere(target)),
        "discriminator near": 0.5 * mean_side_error(judge(source_seen), source, 0, everywhere(source)),
        "discriminator far": 0.5 * mean_side_error(far, target, 1, everywhere(target)),
    }


def literal_regions(method, batch):
    """All terms of the second part."""
    network, judge = method.modules.network, method.modules.discriminators["regions"]
    said = chances(method.modules.labeller(batch.target).maps)
    entropy = {i: -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) for i, p in said.items()}
    trusted = {i: int(value <= method.settings.region_threshold) for i, value in entropy.items()}
    other = {i: 1 - value for i, value in trusted.items()}
    source, _ = passed(network, batch.source.images)
    target, seen = passed(network, batch.target)
    labels = {i: float(batch.source.targets[i[0], 0, i[1], i[2]]) for i in chances(source)}
    judgement = judge(seen)
    return {
        "source cell": 0.7 * mean_cross_entropy(source, labels, everywhere(source)),
        "target cell": mean_cross_entropy(target, {i: p > 0.5 for i, p in said.items()}, trusted),
        "adversarial": 0.5 * mean_side_error(judgement, target, 0, other),
        "trusted": sum(trusted.values()) / len(trusted),
        "pseudo cells": sum(p > 0.5 for p in said.values()) / len(said),
        "discriminator near": 0.5 * mean_side_error(judgement, target, 0, trusted),
        "discriminator far": 0.5 * mean_side_error(judgement, target, 1, other),
    }


@pytest.mark.parametrize(("part", "literal"), [(0, literal_domains), (1, literal_regions)])
def test_terms_of_both_parts_equal_loops_over_pixels(part, literal, tmp_path):
    method = made(tmp_path, part=part)
    batch = next(method.batches(0))
    wanted = literal(method, batch)
    terms, sides = method.learn(batch)
    terms |= method.judge(sides)
    assert list(terms) == list(wanted)
    for name, value in wanted.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name
    if part:
        assert 0.05 < wanted["trusted"] < 0.95
        assert not terms["trusted"].requires_grad
        assert not terms["pseudo cells"].requires_grad


def test_losses_are_those_of_the_network(tmp_path):
    method = made(tmp_path)
    assert list(method.losses(next(method.batches(0)))) == ["source cell", "adversarial"]


def weights_of(method):
    """Kernels by name of the part that they belong to; biases before a batch norm have no gradient to speak of."""
    parts = {"network": method.modules.network, "labeller": method.modules.labeller, **method.modules.discriminators}
    return {name: [p.detach().clone() for p in part.parameters() if p.ndim > 1] for name, part in parts.items()}


@pytest.mark.parametrize(("part", "judge"), [(0, "domains"), (1, "regions")])
def test_each_sub_step_changes_its_own_weights_alone(part, judge, tmp_path, monkeypatch):
    method = made(tmp_path, part=part)
    optimisers = Optimisers(method.parameter_groups(), FitSettings(**toys.FIT), open_device("cpu", "fp32"))
    changed, minimise = [], optimisers.minimise

    def watched(losses, name="main"):
        before = weights_of(method)
        minimise(losses, name)
        after = weights_of(method)
        moved = {
            part: {not torch.equal(a, b) for a, b in zip(before[part], after[part], strict=True)} for part in before
        }
        changed.append({part: each.pop() for part, each in moved.items() if len(each) == 1})

    monkeypatch.setattr(optimisers, "minimise", watched)
    method.step(next(method.batches(0)), optimisers)
    for each, own in zip(changed, ("network", judge), strict=True):
        assert each == {part: part == own for part in ("network", "labeller", "domains", "regions")}


def test_the_discriminator_has_a_rate_of_its_own(tmp_path):
    method = made(tmp_path, region_rate=0.25)
    settings = FitSettings(**(toys.FIT | {"weight_decay": 0.5}))
    optimisers = Optimisers(method.parameter_groups(), settings, open_device("cpu", "fp32"))
    rates = [
        (group["lr"], group["weight_decay"])
        for name in ("main", "discriminator")
        for group in optimisers[name].param_groups
    ]
    assert rates == [(1e-3, 0.5), (0.25, 0.0)]


def test_the_labeller_is_the_network_where_the_second_part_begins(tmp_path):
    method = made(tmp_path)
    states = []
    for step in range(1, 5):
        with torch.no_grad():
            for parameter in method.modules.network.parameters():
                parameter.add_(0.1)
        method.on_step_end(step)
        states.append(copy.deepcopy(method.modules.network.state_dict()))
        assert method.settled == (step > 2)
    labeller = method.modules.labeller
    assert all(torch.equal(states[1][name], tensor) for name, tensor in labeller.state_dict().items())
    assert not labeller.training
    assert not any(parameter.requires_grad for parameter in labeller.parameters())


def test_where_regions_are_never_aligned_any_weights_may_be_chosen(tmp_path):
    assert CrossRegion(toys.adaptation(tmp_path, region_begin=1.0)).settled


def test_an_adapted_base_can_be_the_labeller_from_the_start(tmp_path):
    method = CrossRegion(toys.adaptation(tmp_path, region_begin=0.0, region_source=0.0))
    state = method.modules.labeller.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in method.modules.network.state_dict().items())
    assert list(method.losses(next(method.batches(0)))) == ["target cell", "adversarial", "trusted", "pseudo cells"]


@pytest.mark.parametrize(("threshold", "part"), [(0.0, 0.0), (1.0, 1.0)])
def test_where_all_or_nothing_is_trusted_losses_stay_finite(threshold, part, tmp_path):
    method = made(tmp_path, part=1, region_threshold=threshold)
    terms, sides = method.learn(next(method.batches(0)))
    judged = method.judge(sides)
    assert terms["trusted"].item() == part
    assert all(torch.isfinite(term) for term in (terms | judged).values())
    assert (terms["target cell"].item() == 0) == (part == 0)
    assert (terms["adversarial"].item() == 0) == (part == 1)
    assert [term.item() == 0 for term in judged.values()] == [part == 0, part == 1]


@pytest.mark.parametrize("statistics", ["target", "both"])
def test_running_statistics_are_those_of_the_target(statistics, tmp_path):
    method = made(tmp_path, statistics=statistics)
    batch = next(method.batches(0))
    wanted = copy.deepcopy(method.modules.network)
    for images in [batch.source.images] * (statistics == "both") + [batch.target]:
        wanted(images)
    method.losses(batch)
    own = dict(method.modules.network.named_buffers())
    assert own
    assert all(torch.equal(own[name], buffer) for name, buffer in wanted.named_buffers())


@pytest.mark.parametrize("representation", ["border", "flow", "hover", "star"])
def test_other_representations_learn_from_decoded_cells(representation, tmp_path):
    for part, domains in ((0, {"source"}), (1, {"source", "target"})):
        terms = made(tmp_path, representation, part=part).losses(next(made(tmp_path, representation).batches(0)))
        assert {name.split()[0] for name in terms} - {"adversarial", "trusted", "pseudo"} == domains
        assert all(torch.isfinite(term) for term in terms.values())


@pytest.mark.parametrize("name", ["unet", "style-unet", "fcrn", "batch-unet"])
def test_networks_with_a_head_can_be_aligned(name, tmp_path):
    network = toys.network(name=name)
    method = CrossRegion(toys.adaptation(tmp_path, changes={"network": network}, **SETTINGS))
    optimisers = Optimisers(method.parameter_groups(), FitSettings(**toys.FIT), open_device("cpu", "fp32"))
    assert all(torch.isfinite(term) for term in method.step(next(method.batches(0)), optimisers).values())


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    whole = toys.run(first, CrossRegion, **SETTINGS)
    for done in (1, 3):  # in the first part, and in the second
        toys.run(second / str(done), CrossRegion, steps=done, **SETTINGS)
        state = toys.state_in(second / str(done))
        resumed = toys.run(second / str(done), CrossRegion, resume=state, **SETTINGS)
        weights = resumed.modules.state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in whole.modules.state_dict().items())


def test_a_run_that_is_made_longer_keeps_where_its_second_part_begins(tmp_path):
    method = made(tmp_path)
    longer = CrossRegion(toys.adaptation(tmp_path, changes={"steps": 100}, **SETTINGS))
    assert (method.begin, longer.begin) == (2, 50)
    method.on_step_end(3)
    longer.load_state_dict(method.state_dict())
    assert (longer.begin, longer.steps) == (2, 3)


def test_the_network_is_deployed(tmp_path):
    method = made(tmp_path)
    weights, beside = method.split(method.modules.state_dict())
    network, images = toys.network(seed=5), torch.rand(1, 1, 16, 16)
    network.load_state_dict(weights)
    assert torch.equal(network(images).maps, method.modules(images).maps)
    assert {name.split(".")[0] for name in beside} == {"labeller", "discriminators"}
    assert method.members == 1


def test_the_discriminator_is_the_code_s_with_two_classes():
    judge = PixelDiscriminator(2048, (512, 256), 8)
    layers = [(2048, 512), (512, 256), (256, 4)]
    assert sum(p.numel() for p in judge.parameters()) == sum(9 * a * b + b for a, b in layers)


def test_the_discriminator_judges_each_pixel_at_any_size():
    judge = PixelDiscriminator(3, (4,), 4)
    assert judge(torch.rand(2, 3, 10, 13)).shape == (2, 4, 10, 13)


def test_soft_labels_are_softened_and_bounded():
    soft = soft_labels(torch.tensor([[[0.0, 1.8, 20.0, -20.0]]]), 1.8, 0.9)
    cell = 1 / (1 + math.exp(-1))
    assert soft[0, :, 0].T.flatten().tolist() == pytest.approx([0.5, 0.5, 1 - cell, cell, 0.0, 0.9, 0.9, 0.0], abs=1e-4)


def test_errors_are_least_where_the_discriminator_says_side_and_class():
    soft = torch.tensor([0.1, 0.9]).reshape(1, 2, 1, 1)
    sure = [5 * torch.eye(4)[k].reshape(1, 4, 1, 1) for k in range(4)]
    near, far = ([float(side_errors(judgement, soft, side)) for judgement in sure] for side in (0, 1))
    assert np.argmin(near) == 1
    assert np.argmin(far) == 3


def test_entropy_is_in_bits_and_finite_at_the_ends():
    assert bits(torch.tensor([0.0, math.log(3), 200.0, -200.0])).tolist() == pytest.approx([1.0, 0.8112781, 0.0, 0.0])


class Headless(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x):
        return Output(self.conv(x), x.mean((2, 3)), x)


def test_a_network_without_a_head_is_refused(tmp_path):
    with pytest.raises(ModelError, match="it has no head to see the features of"):
        CrossRegion(toys.adaptation(tmp_path, changes={"network": Headless()}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"region_begin": 1.5}, "region_begin: 1.5 is out of range"),
        ({"region_stride": 0}, "region_stride: 0 is out of range"),
        ({"region_temperature": 0.0}, "region_temperature: 0 is not positive"),
        ({"region_widths": ()}, r"region_widths: \(\) are no widths"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        CrossRegion(toys.adaptation(tmp_path, **settings))
