"""Class-balanced self-training against slow literal thresholds, labels and losses; its rounds; resuming."""

from __future__ import annotations

import copy
import csv
import importlib.util
import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cellkit.data.training import Batch
from cellkit.errors import UsageError
from cellkit.methods.adapt_settings import AdaptSettings
from cellkit.methods.adaptation import DomainBatch
from cellkit.methods.cbst import ClassBalanced, RoundBatch, class_thresholds, portion_of, round_of
from cellkit.networks import Output
from cellkit.representations import REPRESENTATIONS

SPEC = importlib.util.spec_from_file_location("adapt_toys", Path(__file__).with_name("adapt_toys.py"))
toys = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(toys)

ROUNDS = {"cbst_batches": 2, "cbst_rounds": 3}


def method_of(folder, representation="mask", **settings):
    return ClassBalanced(toys.adaptation(folder, representation, **(ROUNDS | settings)))


def batch_of_round(method, number):
    """The first batch of a round."""
    return next(batch for batch in method.batches(0) if batch.round == number)


def literal_labels(logits, portion, of=None):
    """Per pixel the class, 1 is cell, of the largest p(c) / exp(-k_c) that is not below 1, else -1 (float64).

    k_c comes from the pixels ``of``, the same by default: -log of the last probability of the portion, sorted.
    """
    of = logits if of is None else of
    p = [np.stack([1 / (1 + np.exp(x)), 1 / (1 + np.exp(-x))]) for x in (logits, of)]
    k = []
    for c in (0, 1):
        sure = sorted((q[c] for q in p[1].T if q.argmax() == c), reverse=True)
        count = math.floor(len(sure) * portion)
        k.append(-math.log(sure[count - 1]) if count else -math.inf)
    labels = []
    for q in p[0].T:
        ratios = [q[c] / np.exp(-k[c]) for c in (0, 1)]
        labels.append(int(np.argmax(ratios)) if max(ratios) >= 1 else -1)
    return np.array(labels)


def ours(logits, portion, of=None):
    below, above = class_thresholds(torch.from_numpy(logits if of is None else of), portion).numpy()
    return np.where(logits <= below, 0, np.where(logits >= above, 1, -1))


@pytest.mark.parametrize("portion", [0.2, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shift", [-1.5, 0.0, 2.0])
def test_thresholds_label_what_the_formula_does(portion, shift):
    logits = 2 * np.random.default_rng(1).normal(size=101) + shift
    other = 3 * np.random.default_rng(2).normal(size=57) + shift
    assert np.array_equal(ours(logits, portion), literal_labels(logits, portion))
    assert np.array_equal(ours(logits, portion, other), literal_labels(logits, portion, other))


def test_each_class_has_its_portion_however_rare_it_is():
    logits = np.concatenate([-np.arange(1.0, 901), np.arange(1.0, 11)])
    labels = ours(logits, 0.2)
    assert (np.sum(labels == 0), np.sum(labels == 1)) == (180, 2)
    assert set(logits[labels == 1]) == {9.0, 10.0}


def test_a_class_without_pixels_or_with_too_few_is_given_to_none():
    assert np.array_equal(ours(-np.arange(1.0, 6), 0.4), [-1, -1, -1, 0, 0])
    assert np.array_equal(ours(np.array([-3.0, -1, 50, 40, 30]), 0.4), [-1, -1, 1, -1, -1])


def test_probabilities_that_float32_cannot_tell_from_one_are_still_in_order():
    logits = np.array([20.0, 30, 40, 50, -1], np.float32)
    assert len(set(1 / (1 + np.exp(-logits[:4])).astype(np.float32))) == 1
    assert np.array_equal(ours(logits, 0.5), [-1, -1, 1, 1, -1])


def test_a_tie_is_labelled_as_a_whole():
    assert np.array_equal(ours(np.array([3.0, 3, 3, 1, -2, -2]), 0.5), [1, 1, 1, -1, 0, 0])


def test_rounds_share_the_steps_after_the_warm_up(tmp_path):
    method = method_of(tmp_path, changes={"steps": 8})
    assert [batch.round for batch in islice(method.batches(0), 10)] == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]
    assert [batch.round for batch in islice(method.batches(5), 3)] == [2, 3, 3]
    assert [round_of(step, 7, 3) for step in range(9)] == [1, 1, 1, 2, 2, 3, 3, 3, 3]


def test_portions_grow_up_to_the_largest():
    portions = [portion_of(number, AdaptSettings()) for number in range(1, 10)]
    assert portions == pytest.approx([0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.5, 0.5])


def test_batches_are_those_of_the_other_methods_and_do_not_depend_on_the_start(tmp_path):
    method = method_of(tmp_path, changes={"steps": 8})
    whole = list(islice(method.batches(0), 5))
    for start in (1, 3):
        for batch, wanted in zip(method.batches(start), whole[start:], strict=False):
            assert torch.equal(batch.domains.source.images, wanted.domains.source.images)
            assert torch.equal(batch.domains.target, wanted.domains.target)
    assert [len(batch.domains.target) for batch in whole] == [0, 0, 4, 4, 4]


def test_the_warm_up_is_supervised_learning_of_the_source(tmp_path):
    method = method_of(tmp_path)
    batch = next(method.batches(0))
    wanted = copy.deepcopy(method.modules)
    maps = wanted(batch.domains.source.images).maps
    terms = method.losses(batch)
    assert list(terms) == ["source cell"]
    error = nn.functional.cross_entropy(maps, batch.domains.source.targets[:, 0].long())
    torch.testing.assert_close(terms["source cell"], error)
    state = wanted.state_dict()  # the source is recorded: there is no target yet whose statistics could be
    assert all(torch.equal(tensor, state[name]) for name, tensor in method.modules.state_dict().items())


def logits_of(network, images):
    """As the copy sees them: normalised by the batch, without a trace."""
    maps = copy.deepcopy(network)(images).maps.detach().double().numpy()
    return maps[:, 1] - maps[:, 0]


def test_losses_of_a_round_are_the_literal_ones(tmp_path):
    method = method_of(tmp_path, cbst_portion=0.3)
    own, network = method.adaptation, copy.deepcopy(method.modules)
    batch = batch_of_round(method, 1)
    terms = method.losses(batch)
    seed = int(np.random.SeedSequence((own.seed, 2)).generate_state(1)[0])
    crops = [each.images for each in islice(own.target.batches(2, batch=own.batch, seed=seed), 2)]
    of = np.concatenate([logits_of(network, images).ravel() for images in crops])
    logits = logits_of(network, batch.domains.target)
    labels = literal_labels(logits.ravel(), 0.3, of).reshape(logits.shape)
    assert {-1, 0, 1} == set(labels.ravel())
    total = 0.0
    for x, label in zip(logits.ravel(), labels.ravel(), strict=True):
        total += 0.0 if label < 0 else math.log1p(math.exp(-x if label else x))
    assert float(terms["target cell"].detach()) == pytest.approx(total / labels.size, rel=1e-4)
    source = logits_of(network, batch.domains.source.images)
    truth = batch.domains.source.targets[:, 0].numpy()
    errors = [math.log1p(math.exp(-x if y else x)) for x, y in zip(source.ravel(), truth.ravel(), strict=True)]
    assert float(terms["source cell"].detach()) == pytest.approx(np.mean(errors), rel=1e-4)
    for name, c, those in (("kept cells", 1, logits > 0), ("kept background", 0, logits <= 0)):
        assert float(terms[name]) == pytest.approx(np.mean(labels[those] == c), abs=1e-6)
        assert not terms[name].requires_grad
    assert float(terms["pseudo cells"]) == pytest.approx(np.mean(logits > 0))


def test_the_portion_of_the_crops_of_the_thresholds_is_labelled(tmp_path):
    method = method_of(tmp_path)
    method.begin(2)
    own = method.adaptation
    seed = int(np.random.SeedSequence((own.seed, 2)).generate_state(1)[0])
    pseudo = [method.labels(each.images) for each in islice(own.target.batches(4, batch=4, seed=seed), 2)]
    cells, kept = (torch.cat([getattr(each, name) for each in pseudo]) for name in ("cells", "kept"))
    for those in (cells, ~cells):
        assert int((kept & those).sum()) == math.floor(0.25 * int(those.sum())) > 0


def test_labels_stay_as_they_are_for_a_round(tmp_path):
    method = method_of(tmp_path)
    method.begin(1)
    images = batch_of_round(method, 1).domains.target
    before = method.labels(images)
    with torch.no_grad():
        for parameter in method.modules.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    assert all(torch.equal(old, now) for old, now in zip(before, method.labels(images), strict=True))
    method.losses(batch_of_round(method, 1))  # of the same round
    assert all(torch.equal(old, now) for old, now in zip(before, method.labels(images), strict=True))
    method.losses(batch_of_round(method, 2))
    assert not torch.equal(before.cells, method.labels(images).cells)


def test_only_the_target_is_recorded_in_rounds_and_labels_leave_no_trace(tmp_path):
    for statistics, count in (("target", 1), ("both", 2)):
        method = method_of(tmp_path, statistics=statistics)
        batch = batch_of_round(method, 1)
        wanted = copy.deepcopy(method.modules)
        if statistics == "both":
            wanted(batch.domains.source.images)
        wanted(batch.domains.target)
        method.losses(batch)
        state = method.modules.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in wanted.state_dict().items())
        assert int(state["down.0.1.num_batches_tracked"]) == count
        assert not any(parameter.requires_grad for parameter in method.labeller.parameters())


class Shown(nn.Module):
    """Says what it is given."""

    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def forward(self, x):
        return Output(self.maps, x.new_zeros(1, 1), x)


def test_instances_count_where_their_class_is_sure(tmp_path):
    """Two discs as flows: one is large enough to be a cell, one is dropped in decoding; logits differ by pixel."""
    labels = np.zeros((24, 24), np.int32)
    y, x = np.ogrid[:24, :24]
    labels[np.hypot(y - 8, x - 8) < 6] = 1
    labels[np.hypot(y - 20, x - 20) < 1.5] = 2
    truth = REPRESENTATIONS["flow"].targets(labels)
    sure = np.random.default_rng(0).uniform(1, 5, labels.shape).astype(np.float32)
    maps = torch.from_numpy(np.concatenate([5 * truth[:2], np.where(labels > 0, sure, -sure)[None]]))[None]
    method = method_of(tmp_path, "flow")
    method.labeller, method.thresholds = Shown(maps), torch.tensor([-2.0, 3.0])
    pseudo = method.labels(torch.zeros(1, 1, 24, 24))
    assert np.array_equal(pseudo.cells[0].numpy(), labels == 1)
    wanted = np.where(labels == 1, sure >= 3, (labels == 0) & (sure >= 2))  # the dropped disc says cell, and is none
    assert np.array_equal(pseudo.kept[0].numpy(), wanted)
    kept = REPRESENTATIONS["flow"].targets(np.where(labels == 1, 1, 0))
    assert np.array_equal(pseudo.targets[0].numpy(), kept)


@pytest.mark.parametrize("representation", ["border", "flow", "hover", "star"])
def test_any_representation_with_a_probability_learns(representation, tmp_path):
    method = method_of(tmp_path, representation)
    terms = method.losses(batch_of_round(method, 1))
    assert all(bool(term.isfinite()) for term in terms.values())
    assert {name for name, term in terms.items() if name.startswith("target") and term.requires_grad}


def test_thresholds_are_the_same_in_every_process(tmp_path, monkeypatch):
    method = method_of(tmp_path)
    method.begin(1)
    alone = method.thresholds
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    method.begin(1)
    assert torch.equal(method.thresholds, alone)


def test_shares_of_a_batch_have_the_loss_of_the_whole_on_average(tmp_path, monkeypatch):
    method = ClassBalanced(toys.adaptation(tmp_path, norms=False, **ROUNDS))
    batch = batch_of_round(method, 1)
    whole = method.losses(batch)["target cell"]
    images, targets = batch.domains.source
    shares = []
    for part in (slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4)):
        domains = DomainBatch(Batch(images[part], targets[part]), batch.domains.target[part], ())
        shares.append(method.losses(RoundBatch(domains, 1))["target cell"])
    torch.testing.assert_close(torch.stack(shares).mean(), whole)


@pytest.mark.parametrize("saved", [2, 3, 4, 5])
def test_a_resumed_run_equals_an_uninterrupted_one(saved, tmp_path):
    """Interrupted in the warm-up's last step, within a round, and where one begins."""
    given = {**ROUNDS, "changes": {"steps": 6}, "cbst_warmup": 0.4, "cbst_rounds": 2}
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    for folder in (whole, parted):
        folder.mkdir()
    wanted = toys.run(whole, ClassBalanced, steps=6, **given)
    toys.run(parted, ClassBalanced, steps=saved, **given)
    again = toys.run(parted, ClassBalanced, steps=6, resume=toys.state_in(parted), **given)
    state = wanted.modules.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.modules.state_dict().items())
    assert again.round == wanted.round == 2
    assert torch.equal(again.thresholds, wanted.thresholds)
    tables = [(folder / "metrics.csv").read_text().splitlines() for folder in (whole, parted)]
    kept = [[row["kept cells"] for row in csv.DictReader(table)] for table in tables]
    assert kept[0] == kept[1]
    assert kept[0][:2] == ["", ""]


def test_two_processes_do_what_one_does(tmp_path):
    first, second = toys.share(tmp_path, "cbst.ClassBalanced")
    alone = toys.run(tmp_path, ClassBalanced, norms=False).modules.state_dict()
    for name, weight in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], weight, rtol=1e-3, atol=1e-4)


def test_the_network_is_the_model(tmp_path):
    method = method_of(tmp_path)
    state = method.modules.state_dict()
    weights, extra = method.split(state)
    assert (weights, extra) == (dict(state), {})


def test_a_representation_without_probability_is_one_line(tmp_path):
    given = toys.adaptation(tmp_path)
    with pytest.raises(UsageError) as error:
        ClassBalanced(replace(given, representation=REPRESENTATIONS["embedding"]))
    assert str(error.value).startswith("--representation: 'embedding' has no map of the probability of a cell (choose ")


def test_with_nothing_but_warm_up_there_are_no_rounds(tmp_path):
    method = method_of(tmp_path, cbst_warmup=1.0)
    assert [batch.round for batch in islice(method.batches(0), 4)] == [0, 0, 0, 0]
    assert method.settled


def test_weights_may_be_chosen_when_rounds_have_begun(tmp_path):
    method = method_of(tmp_path, changes={"steps": 8})
    seen = []
    for batch in islice(method.batches(0), 4):
        method.losses(batch)
        seen.append(method.settled)
    assert seen == [False, False, True, True]
