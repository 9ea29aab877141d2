"""Reptile, first-order MAML and ANIL against slow literal loops; resuming; two processes."""

from __future__ import annotations

import contextlib
import copy
import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cellkit.config import MetaMethodName
from cellkit.errors import ModelError, UsageError
from cellkit.methods import META
from cellkit.methods.meta_tasks import OTHERS, QUERY, SHOTS, Episodes
from cellkit.methods.reptile import mean_of_all

SPEC = importlib.util.spec_from_file_location("meta_toys", Path(__file__).with_name("meta_toys.py"))
toys = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(toys)

ENTROPY = DISTILLATION = 0.01


def literal_loss(network, shots, other, third):
    """The three terms with nothing shared; the passes of other sources go through a copy, which keeps statistics."""
    output = network(shots.images)
    logit = output.maps[:, 1] - output.maps[:, 0]
    total = 0
    for scores, cells in zip(logit, shots.targets[:, 0], strict=True):
        weight = (cells == 0).sum() / cells.sum()
        p = torch.sigmoid(scores)
        total = total - (weight * cells * p.log() + (1 - cells) * (1 - p).log()).mean() / len(logit)
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    maps = network(other).maps
    p = torch.sigmoid(maps[:, 1] - maps[:, 0])
    total = total - ENTROPY * (p * p.log()).mean()
    code = network(third).latent
    for a in output.latent:
        for b in code:
            total = total + DISTILLATION * (a - b).square().mean() / (len(code) * len(output.latent))
    for name, buffer in network.named_buffers():
        buffer.data = kept[name]
    return total


def literal_episode(method, network, episode, kind):
    """Where an episode leads: per task a copy of the network, torch's Adam, and the whole loss."""
    ends = []
    for number, source in enumerate(method.episodes.sources):
        second, third = method.episodes.partners(episode, number)
        images = [
            method.episodes.sources[n].task(episode, 2, stream=OTHERS + 2 * number + i).images
            for i, n in enumerate((second, third))
        ]
        own = copy.deepcopy(network)
        trained = own.head if kind == "anil" else own
        inner = torch.optim.Adam(trained.parameters(), lr=0.01, weight_decay=5e-4)
        for _ in range(3):
            inner.zero_grad()
            literal_loss(own, source.task(episode, 2, stream=SHOTS), *images).backward()
            inner.step()
        if kind != "reptile":
            statistics = {name: buffer.clone() for name, buffer in own.named_buffers()}
            own.zero_grad()
            literal_loss(own, source.task(episode, 2, stream=QUERY), *images).backward()
            for name, buffer in own.named_buffers():
                buffer.data = statistics[name]
        ends.append(own)
    return ends


def literal_run(kind, steps=2):
    method = META[kind](toys.meta())
    network = toys.network()
    outer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for episode in range(steps):
        ends = literal_episode(method, network, episode, kind)
        for name, parameter in network.named_parameters():
            theirs = [dict(end.named_parameters())[name] for end in ends]
            if kind == "reptile":
                parameter.data = parameter.data + 0.5 / 3 * sum(their.data - parameter.data for their in theirs)
            else:
                parameter.grad = sum(their.grad for their in theirs) / 3
        if kind != "reptile":
            outer.step()
        for name, buffer in network.named_buffers():
            if buffer.is_floating_point():
                buffer.data = sum(dict(end.named_buffers())[name] for end in ends) / 3
    return network.state_dict()


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def floats(state):
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


def test_table_and_names_agree():
    assert set(META) == set(MetaMethodName.__args__)


@pytest.mark.parametrize("kind", ["reptile", "fomaml", "anil"])
def test_two_episodes_are_those_of_a_slow_literal_loop(kind, tmp_path):
    ours = floats(toys.run(tmp_path, kind).modules.state_dict())
    theirs = floats(literal_run(kind))
    began = toys.network().state_dict()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-4, atol=2e-5)
        assert not torch.allclose(weight, began[name], rtol=1e-3, atol=1e-4), name


def test_inner_steps_of_anil_leave_the_body_where_it_was(tmp_path):
    method = META["anil"](toys.meta())
    head = {id(p) for p in method.modules.head.parameters()}
    before = [p.detach().clone() for p in method.parameters]

    class Alone:
        def autocast(self):
            return contextlib.nullcontext()

    method.tune(method.episodes.task(0, 0), Alone())
    for parameter, old in zip(method.parameters, before, strict=True):
        assert torch.equal(parameter, old) == (id(parameter) not in head)
        assert parameter.requires_grad


def test_statistics_can_stay_as_they_were(tmp_path):
    kept = toys.run(tmp_path, statistics="kept").modules
    for name, buffer in kept.named_buffers():
        assert torch.equal(buffer, dict(toys.network().named_buffers())[name])


@pytest.mark.parametrize("kind", ["reptile", "fomaml"])
def test_resumed_is_uninterrupted(kind, tmp_path):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    whole.mkdir()
    parted.mkdir()
    wanted = toys.run(whole, kind, steps=3).modules.state_dict()
    toys.run(parted, kind, steps=2)
    state = torch.load(parted / "last", weights_only=True)["training"]
    assert same(toys.run(parted, kind, steps=3, resume=state).modules.state_dict(), wanted)


def test_two_processes_are_one_to_the_bit(tmp_path, two_processes):
    two_processes(toys.__file__, tmp_path, "reptile")
    (tmp_path / "alone").mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = toys.run(tmp_path / "alone").modules.state_dict()
    torch.set_num_threads(threads)
    for rank in range(2):
        assert same(torch.load(tmp_path / f"weights{rank}", weights_only=True), alone)
    tables = [(folder / "metrics.csv").read_text().splitlines() for folder in (tmp_path, tmp_path / "alone")]
    losses = [[{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(t)] for t in tables]
    assert losses[0] == losses[1]


def test_more_processes_than_sources_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError) as error:
        META["reptile"](toys.meta(sources=2))
    assert str(error.value) == "processes: 3 processes cannot share 2 sources (start 2 at most)"


def test_one_source_is_refused():
    with pytest.raises(UsageError) as error:
        META["reptile"](toys.meta(sources=1))
    expected = "source0: one source alone is no meta-training (name two or more, or use cellkit pretrain)"
    assert str(error.value) == expected


def test_anil_needs_a_head():
    with pytest.raises(ModelError) as error:
        META["anil"](toys.meta(trained=nn.Conv2d(1, 2, 3), distillation=0))
    assert str(error.value) == "network: has no head that could be tuned alone (use --method fomaml or reptile)"


def test_partners_are_all_others_equally_often():
    episodes = Episodes([toys.Noise(n) for n in range(4)], toys.meta().settings, shots=1, seed=0)
    drawn = np.array([episodes.partners(episode, 2) for episode in range(900)])
    for column in drawn.T:
        numbers, counts = np.unique(column, return_counts=True)
        assert numbers.tolist() == [0, 1, 3]
        assert counts.min() > 240
    assert (drawn[:, 0] != drawn[:, 1]).any()  # n and p are drawn apart


def test_images_that_no_term_asks_for_are_not_drawn():
    settings = toys.meta(entropy=0, distillation=0).settings
    task = Episodes([toys.Noise(n) for n in range(2)], settings, shots=2, seed=0).task(0, 1)
    assert (task.views.confident, task.views.alike, task.query) == (None, None, None)


def test_mean_is_summed_in_the_order_of_the_tasks():
    vectors = {0: torch.tensor([1e8]), 1: torch.tensor([1.0]), 2: torch.tensor([-1e8])}
    assert float(mean_of_all(vectors, 3)) == 0.0  # 1e8 + 1 is 1e8 in float32
    assert float(mean_of_all({0: vectors[0], 1: vectors[2], 2: vectors[1]}, 3)) == pytest.approx(1 / 3)
