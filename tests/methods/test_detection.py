"""Learning to detect as the engine does it: batches, parameters without decay, steps, what stops it."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from cellkit.engine import FitSettings, RunFiles, fit, open_device
from cellkit.errors import TrainingError, UsageError
from cellkit.methods import PRETRAIN
from cellkit.methods.detection import Detection, decay_groups
from cellkit.methods.detection_losses import detection_losses

SPEC = importlib.util.spec_from_file_location("detection_toys", Path(__file__).with_name("detection_toys.py"))
toys = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(toys)

TRUTHS = toys.situations()
FIT = {"optimiser": "sgd", "learning_rate": 0.01, "schedule": "constant", "weight_decay": 0.1, "log_every": 1}


class Crops:
    """Two crops for ever, with other seeds in each step; notes what it is asked for."""

    def batches(self, start, **options):
        self.asked = {"start": start} | options
        for step in itertools.count(start):
            yield toys.batch_of(TRUTHS["two overlapping"], TRUTHS["no object"], seeds=(2 * step, 2 * step + 1))


def method_of(**changes):
    return Detection(toys.restless(**changes), Crops(), toys.SETTINGS, batch=2, seed=3)


def run(method, tmp_path, steps, *, resume=None):
    """Fits; returns the last weights and the states by step."""
    saved, states = {}, {}

    def save(path, weights, training):
        saved["weights"] = copy.deepcopy(weights)
        if training is not None:
            states[training["step"]] = copy.deepcopy(training)

    files = RunFiles(last=tmp_path / "last", best=tmp_path / "best", metrics=tmp_path / "metrics.csv")
    settings = FitSettings(steps=steps, save_every=1, **FIT)
    fit(method, settings, open_device("cpu", "fp32"), files=files, save=save, resume=resume, quiet=True)
    return saved["weights"], states


def test_the_table_names_it():
    assert PRETRAIN["detection"] is Detection


def test_batches_depend_on_seed_and_step_and_are_shared_by_processes():
    method = method_of()
    batch = next(method.batches(5))
    assert method.data.asked == {"start": 5, "batch": 2, "seed": 3, "rank": 0, "world_size": 1}
    assert batch.seeds == (10, 11)


def test_losses_are_those_of_the_batch():
    method = method_of()
    batch = next(method.batches(0))
    losses = method.losses(batch)
    expected = detection_losses(method.modules, batch, toys.SETTINGS)
    assert list(losses) == list(expected)
    assert all(value == expected[term] for term, value in losses.items())


def test_normalisations_do_not_decay_and_frozen_parts_are_not_trained():
    network = toys.restless(freeze_at=2, head_norm="group-norm")
    decaying, kept = decay_groups(network)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    assert {id(p) for p in kept["params"]} == {id(p) for norm in norms for p in norm.parameters()}
    assert kept["weight_decay"] == 0
    assert "weight_decay" not in decaying
    trained = [p for p in network.parameters() if p.requires_grad]
    assert sorted(map(id, trained)) == sorted(map(id, decaying["params"] + kept["params"]))
    frozen = [*network.backbone.bottom_up.stem.parameters(), *network.backbone.bottom_up.res2.parameters()]
    assert frozen
    assert not {id(p) for p in frozen} & {id(p) for p in trained}


def test_a_network_without_normalisation_has_one_group():
    assert len(decay_groups(nn.Linear(2, 2))) == 1


def test_a_step_of_the_engine_is_a_literal_step(tmp_path):
    method = method_of(norm="frozen-bn", head_norm="group-norm")
    literal = copy.deepcopy(method.modules)
    weights, _ = run(method, tmp_path, 1)
    sum(detection_losses(literal, next(method.batches(0)), toys.SETTINGS).values()).backward()
    norms = {id(p) for m in literal.modules() if isinstance(m, nn.GroupNorm) for p in m.parameters()}
    for name, parameter in literal.named_parameters():
        decay = 0.0 if id(parameter) in norms else 0.1
        expected = parameter.detach() - 0.01 * (parameter.grad + decay * parameter.detach())
        torch.testing.assert_close(weights[name], expected, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    whole, _ = run(method_of(), tmp_path, 3)
    _, states = run(method_of(), tmp_path, 1)
    resumed, _ = run(method_of(), tmp_path, 3, resume=states[1])
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_losses_that_are_no_numbers_stop_the_engine_with_their_names(tmp_path):
    method = method_of()
    nn.init.constant_(method.modules.proposal_generator.rpn_head.objectness_logits.weight, torch.nan)
    with pytest.raises(TrainingError, match=r"^step 1: a loss is not finite: .*rpn_objectness nan"):
        run(method, tmp_path, 1)


def test_too_few_overlaps_for_the_stages_are_refused():
    settings = dataclasses.replace(toys.SETTINGS, region_overlaps=(0.5, 0.6))
    with pytest.raises(
        UsageError, match=r"^region_overlaps: 2 for the 3 stages of the detector \(give one a stage, e.g."
    ):
        Detection(toys.restless(), Crops(), settings, batch=2, seed=0)
    Detection(toys.restless(cascade_stages=1), Crops(), settings, batch=2, seed=0)
