"""AMT2: what comes when, w0 and the penalty, a frozen trunk, a run that goes on inside a round, any network."""

from __future__ import annotations

import copy
import math
from itertools import islice

import pytest
import torch

from cellkit.data.detection import DetectionBatch, DetectionTruth
from cellkit.data.moco_views import ViewBatch
from cellkit.data.training import Batch
from cellkit.engine import FitSettings, RunFiles, fit, open_device
from cellkit.engine.optimisers import Optimisers
from cellkit.errors import UsageError
from cellkit.methods.cupre import Cupre, Tasks
from cellkit.methods.cupre_settings import CupreSettings, Place, Plan
from cellkit.methods.detection import Detection
from cellkit.methods.detection_settings import DetectionSettings
from cellkit.methods.moco import MoCo
from cellkit.methods.moco_settings import MoCoSettings
from cellkit.methods.supervised import Supervised
from cellkit.networks.detector import Detector
from cellkit.networks.detector_spec import DetectorSpec
from cellkit.networks.residual_unet import ResidualUNet
from cellkit.representations import REPRESENTATIONS

SIZE, PARTS = 32, 3
PLAN = Plan(warm=2, rounds=2, contrast=2, labelled=3)
FLOW = REPRESENTATIONS["flow"]
TINY = DetectorSpec(
    trunk="resnet-tiny", width=4, pyramid=8, hidden=8, channels=1, classes=1, freeze_at=0,
    anchor_sizes=(8, 12, 16, 24, 32), box_convs=1, mask_convs=1,
)  # fmt: skip


def noise(*shape, seed):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class Cells:
    """Unlabelled images."""

    def __len__(self):
        return 16

    def batches(self, start=0, *, batch=4, seed=0, rank=0, world_size=1):
        step = start
        while True:
            first = noise(batch, 1, SIZE, SIZE, seed=10 + step)
            yield ViewBatch(first, first + 0.1 * noise(batch, 1, SIZE, SIZE, seed=1000 + step), seed=step)
            step += 1


class Common:
    """A part of the labelled images, with a square in each."""

    def __init__(self, part, asked=None):
        self.part, self.asked = part, asked

    def batches(self, start=0, *, batch=2, seed=0, rank=0, world_size=1):
        if self.asked is not None:
            self.asked.append((self.part, start))
        step = start
        while True:
            yield self.batch(batch, 10_000 * (self.part + 1) + step)
            step += 1

    def batch(self, batch, seed):
        images = noise(batch, 1, SIZE, SIZE, seed=seed)
        images[:, :, 8:24, 8:24] += 2
        targets = torch.zeros(batch, 3, SIZE, SIZE)
        targets[:, 2, 8:24, 8:24] = 1
        return Batch(images, targets)


class Objects(Common):
    """The same for a detector."""

    def batch(self, batch, seed):
        images = super().batch(batch, seed).images
        layers = torch.zeros(1, SIZE, SIZE, dtype=torch.int32)
        layers[:, 8:24, 8:24] = 1
        truth = DetectionTruth(
            boxes=torch.tensor([[8.0, 8, 24, 24]]),
            categories=torch.zeros(1, dtype=torch.int64),
            layers=layers,
            places=torch.tensor([[0, 1]]),
        )
        return DetectionBatch(images, (truth,) * batch, tuple(range(seed, seed + batch)))


def dense():
    torch.manual_seed(0)
    return ResidualUNet(channels=1, outputs=3, widths=(4, 8)).train()


def dense_learner(network, part, asked=None):
    return Supervised(network, FLOW, Common(part, asked), batch=2, seed=0)


def detector():
    torch.manual_seed(0)
    return Detector(TINY).train()


def detector_learner(network, part, asked=None):
    few = DetectionSettings(anchors=32, before_nms=50, proposals=20, regions=16)
    return Detection(network, Objects(part, asked), few, batch=2, seed=0)


KINDS = {"dense": (dense, dense_learner), "detector": (detector, detector_learner)}


def made(kind="dense", plan=PLAN, asked=None, parts=PARTS, **settings):
    build, learner = KINDS[kind]
    network = build()
    moco = MoCo(network, Cells(), MoCoSettings(projection=8, queue=8), batch=4, seed=0)
    labelled = [learner(network, part, asked) for part in range(parts)]
    return Cupre(Tasks(unlabelled=moco, labelled=labelled), plan, CupreSettings(**settings))


def trunk_of(network):
    return network.down if isinstance(network, ResidualUNet) else network.backbone.bottom_up


def state_of(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def run(method, folder, steps, resume=None, save_every=100):
    saved = {}
    fit(
        method,
        FitSettings(steps=steps, optimiser="sgd", learning_rate=1e-2, schedule="constant", save_every=save_every),
        open_device("cpu", "fp32"),
        files=RunFiles(last=folder / "last", best=folder / "best", metrics=folder / "metrics.csv"),
        save=lambda path, *now: saved.update({(path.name, now[1] and now[1]["step"]): copy.deepcopy(now)}),
        resume=resume,
        quiet=True,
    )
    return {step: content for (name, step), content in saved.items() if name == "last"}


def advance(method, steps, start=0):
    """Steps by hand; gives the terms of each, with the place that it had."""
    optimisers = Optimisers(method.parameter_groups(), FitSettings(learning_rate=1e-2), open_device("cpu", "fp32"))
    terms = []
    for step, batch in zip(range(start, start + steps), method.batches(start), strict=False):
        terms.append((batch.place, {name: term.item() for name, term in method.step(batch, optimisers).items()}))
        method.on_step_end(step + 1)
    return terms


def test_tasks_take_turns_as_planned():
    literal = [Place("warm-up", 0, i) for i in range(2)]
    for number in range(2):
        literal += [Place("contrast", number, i) for i in range(2)]
        literal += [Place("labelled", number, i) for i in range(3)]
    assert [PLAN.at(step) for step in range(PLAN.steps)] == literal
    assert PLAN.steps == 12
    assert PLAN.at(12) == Place("labelled", 1, 3)  # beyond the end nothing new begins


def test_each_round_learns_from_its_own_part_and_goes_on_where_it_was():
    plan = Plan(warm=7, rounds=5, contrast=1, labelled=2)
    seen = dict.fromkeys(range(3), 0)
    unlabelled = 0
    for step in range(plan.steps):
        place = plan.at(step)
        if place.phase == "contrast":
            assert plan.unlabelled_before(place) == unlabelled
            unlabelled += 1
            continue
        part, number = plan.labelled_before(place, 3)
        assert part == (place.number if place.phase == "warm-up" else place.round) % 3
        assert number == seen[part]
        seen[part] += 1
    assert sum(seen.values()) == 7 + 5 * 2


@pytest.mark.parametrize("start", [0, 1, 5, 8, 11])
def test_batches_do_not_depend_on_where_a_run_begins(start):
    whole = list(islice(made(asked=(asked := [])).batches(0), PLAN.steps))
    assert asked == [(0, 0), (1, 0), (1, 1)]  # images of other parts are not read ahead
    later = list(islice(made().batches(start), PLAN.steps - start))
    for ours, theirs in zip(whole[start:], later, strict=True):
        assert (ours.place, ours.part) == (theirs.place, theirs.part)
        assert torch.equal(ours.batch[0], theirs.batch[0])


@pytest.mark.parametrize(
    ("steps", "settings", "plan"),
    [
        (1000, {}, Plan(warm=250, rounds=10, contrast=38, labelled=37)),
        (
            1000,
            {"rounds": 4, "warm_part": 0.1, "contrast_part": 0.8},
            Plan(warm=100, rounds=4, contrast=180, labelled=45),
        ),
        (107, {"rounds": 5, "warm_part": 0.0}, Plan(warm=2, rounds=5, contrast=10, labelled=11)),
        (40, {"rounds": 6, "contrast_part": 0.01}, Plan(warm=10, rounds=6, contrast=1, labelled=4)),
    ],
)
def test_all_steps_are_divided(steps, settings, plan):
    found = CupreSettings(**settings).plan(steps)
    assert found == plan
    assert found.steps == steps


def literal_penalty(weights, base, balance):
    total = 0.0
    for weight, old in zip(weights, base, strict=True):
        for w, w0 in zip(weight.flatten().tolist(), old.flatten().tolist(), strict=True):
            total += balance * (w - w0) ** 2 + (1 - balance) * w**2
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_penalty_is_that_of_the_weights_after_the_unlabelled_images_of_the_round(kind):
    method = made(kind, sp_strength=0.3, sp_balance=0.8)
    trunk = trunk_of(method.modules)
    terms = advance(method, 4)  # warm-up and the first contrast
    assert not any("l2sp" in each for _, each in terms)
    base = [weight.detach().clone() for weight in trunk.parameters()]
    (_, first), (_, second) = advance(method, 2, start=4)
    assert first["l2sp"] == pytest.approx(0.3 * literal_penalty(base, base, 0.8), rel=1e-4)
    method_later = made(kind, sp_strength=0.3, sp_balance=0.8)
    advance(method_later, 5)
    moved = [weight.detach() for weight in trunk_of(method_later.modules).parameters()]
    base_later = method_later.base
    weights = torch.cat([weight.flatten() for weight in moved])
    expected = 0.8 * (weights - base_later).square().sum() + 0.2 * weights.square().sum()
    found = method_later.losses(next(method_later.batches(5)))["l2sp"].item()
    assert found == pytest.approx(0.3 * expected.item(), rel=1e-5)
    assert not torch.equal(weights, base_later)
    assert second["l2sp"] > 0
    advance(method, 4, start=6)
    assert not torch.equal(method.base, base_later)  # that of the second round


def test_without_strength_there_is_no_penalty():
    assert all("l2sp" not in terms for _, terms in advance(made(sp_strength=0.0), PLAN.steps))


@pytest.mark.parametrize("kind", KINDS)
def test_unlabelled_images_change_the_trunk_alone(kind):
    method = made(kind)
    advance(method, 2)
    before = state_of(method.modules)
    advance(method, 2, start=2)
    after, prefix = method.modules.state_dict(), "down." if kind == "dense" else "backbone.bottom_up."
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert {name for name in changed if not name.startswith(prefix)} == set()
    weights = [name for name in before if name.startswith(prefix) and name.endswith("weight")]
    assert set(weights) <= changed


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_trunk_stays_with_its_statistics_and_learns_again_afterwards(kind):
    method = made(kind, freeze_trunk=True)
    trunk = trunk_of(method.modules)
    advance(method, 4)
    before, whole = state_of(trunk), state_of(method.modules)
    terms = advance(method, 3, start=4)
    assert all(place.phase == "labelled" and "l2sp" not in each for place, each in terms)
    assert all(torch.equal(before[name], tensor) for name, tensor in trunk.state_dict().items())
    assert any(not torch.equal(whole[name], tensor) for name, tensor in method.modules.state_dict().items())
    advance(method, 1, start=7)
    after = trunk.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert any(name.endswith("weight") for name in changed)
    assert any(name.endswith("running_mean") for name in changed)


def test_the_warm_up_trains_a_trunk_that_is_frozen_later():
    method = made(freeze_trunk=True)
    before = state_of(trunk_of(method.modules))
    advance(method, 2)
    after = trunk_of(method.modules).state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith("0.weight"))


def test_each_task_has_an_optimiser_and_a_rate_of_its_own():
    method = made(contrast_rate=0.03)
    groups = method.parameter_groups()
    assert [group["optimiser"] for group in groups] == ["contrast", "labelled"]
    assert [group.get("lr") for group in groups] == [0.03, None]
    assert "lr" not in made().parameter_groups()[0]


def test_the_key_encoder_begins_each_round_as_the_encoder_is_then():
    method = made()
    key = method.tasks.unlabelled.key.encoder
    advance(method, 2)
    for ours, theirs in zip(key.weights(), method.encoder.weights(), strict=True):
        assert torch.equal(ours, theirs)
    advance(method, 3, start=2)  # labelled images have moved the encoder
    moved = [torch.equal(a, b) for a, b in zip(key.weights(), method.encoder.weights(), strict=True)]
    assert not all(moved)
    advance(method, 2, start=5)
    for ours, theirs in zip(key.weights(), method.encoder.weights(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("kind", "freeze_trunk", "cuts"),
    [("dense", False, range(1, PLAN.steps)), ("dense", True, (4, 5, 7)), ("detector", False, (3, 4, 7))],
)
def test_a_run_that_goes_on_from_any_step_equals_one_that_was_not_interrupted(tmp_path, kind, freeze_trunk, cuts):
    saved = run(made(kind, freeze_trunk=freeze_trunk), tmp_path, PLAN.steps, save_every=1)
    whole, last = saved[PLAN.steps]
    assert sorted(saved) == list(range(1, PLAN.steps + 1))
    for step in cuts:
        again = run(made(kind, freeze_trunk=freeze_trunk), tmp_path, PLAN.steps, resume=saved[step][1])
        resumed, state = again[PLAN.steps]
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
        assert torch.equal(last["method"]["base"], state["method"]["base"])
        queues = [each["method"]["unlabelled"]["queue"] for each in (last, state)]
        assert torch.equal(queues[0]["keys"], queues[1]["keys"])
        assert queues[0]["pointer"] == queues[1]["pointer"]


def test_terms_of_both_tasks_are_logged_and_the_network_alone_is_saved(tmp_path):
    weights, state = run(made("detector"), tmp_path, PLAN.steps)[PLAN.steps]
    assert set(weights) == set(detector().state_dict())
    names = set((tmp_path / "metrics.csv").read_text().splitlines()[0].split(","))
    assert names >= {"contrast", "accuracy", "l2sp", "rpn_objectness", "rpn_box", "class_0", "box_2", "mask"}
    assert set(state["method"]) == {"plan", "base", "unlabelled"}


def test_a_run_with_other_rounds_is_not_gone_on_with(tmp_path):
    _, state = run(made(), tmp_path, 3)[3]
    other = made(plan=Plan(warm=3, rounds=2, contrast=2, labelled=3))
    message = (
        r"--steps: 13 here, but 12 in the run to go on with, which sets when rounds begin "
        r"\(use the same number, or start another run\)"
    )
    with pytest.raises(UsageError, match=message):
        run(other, tmp_path, 13, resume=state)


def test_one_part_serves_all_rounds():
    terms = advance(made(parts=1), PLAN.steps)
    assert len(terms) == PLAN.steps
    assert all(math.isfinite(value) for _, each in terms for value in each.values())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: made(parts=0), r"--labelled: there is no part of labelled images \(give images with labels\)"),
        (
            lambda: CupreSettings().plan(11),
            r"--steps: 11 are too few for 10 rounds of two tasks after the warm-up \(give",
        ),
        (
            lambda: Plan(warm=0, rounds=1, contrast=0, labelled=2),
            r"plan: 1 rounds of 0 and 2 steps leave a task out \(",
        ),
        (lambda: CupreSettings(rounds=0), r"rounds: 0 is none \(give 1 or more\)"),
        (lambda: CupreSettings(warm_part=1), r"warm_part: 1 is out of range \(give a part of all steps below 1\)"),
        (lambda: CupreSettings(contrast_part=0), r"contrast_part: 0 is out of range \(give a part between 0 and 1\)"),
        (lambda: CupreSettings(contrast_rate=0), r"contrast_rate: 0 is not above 0 \(e.g. 0.03\)"),
        (lambda: CupreSettings(sp_strength=-1), r"sp_strength: -1 is negative \(give 0 or more\)"),
        (lambda: CupreSettings(sp_balance=2), r"sp_balance: 2 is out of range \(give a number from 0 to 1\)"),
    ],
)
def test_what_cannot_be_meant_is_refused(build, message):
    with pytest.raises(UsageError, match=message):
        build()
