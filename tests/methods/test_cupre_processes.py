"""Two processes that share batches: what they learn by MoCo and by AMT2; as a script one of them: FOLDER.

Each has its share of the crops of a batch, while both have the queue of all keys. Without batch normalisation it makes
no difference who computes what, nor with statistics of all processes and one group of keys. Batch normalisation has
statistics of the crops of its own process, as on GPUs.
"""

from __future__ import annotations

import csv
import importlib.util
import itertools
import math
import os
import sys
from pathlib import Path

import pytest
import torch

from cellkit.cli.app import leave
from cellkit.data.moco_views import ViewBatch
from cellkit.engine import FitSettings, RunFiles, distributed, fit, open_device
from cellkit.methods.cupre import Cupre, Tasks
from cellkit.methods.cupre_settings import CupreSettings, Plan
from cellkit.methods.detection import Detection
from cellkit.methods.moco import MoCo, contrast
from cellkit.methods.moco_settings import MoCoSettings

SPEC = importlib.util.spec_from_file_location("detection_toys", Path(__file__).with_name("detection_toys.py"))
toys = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(toys)

BATCH, SIDE, RATE = 8, 64, 0.05
SCENES = ("two overlapping", "no object")
PLAN = Plan(warm=1, rounds=2, contrast=2, labelled=1)
SAME = ("group-norm", "frozen-bn", "sync-bn", "cupre")  # of which two processes equal one


class Cells:
    """Views of unlabelled images; a process has its share, and a seed of its own."""

    def __len__(self):
        return 40

    def batches(self, start=0, *, batch=BATCH, seed=0, rank=0, world_size=1):
        for step in itertools.count(start):
            first = torch.rand(batch, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(step))
            second = first + 0.2 * torch.rand(first.shape, generator=torch.Generator().manual_seed(1000 + step))
            share = slice(rank * batch // world_size, (rank + 1) * batch // world_size)
            yield ViewBatch(first[share], second[share], seed=10 * step + rank)


class Common:
    """Two labelled crops in each step, of which a process has its share."""

    def __init__(self, part):
        self.part = part

    def batches(self, start, *, batch, seed, rank, world_size):
        truths = toys.situations()
        for step in itertools.count(start):
            seeds = [100 * self.part + batch * step + i for i in range(batch)]
            whole = toys.batch_of(*(truths[name] for name in SCENES), seeds=seeds)
            share = slice(rank * batch // world_size, (rank + 1) * batch // world_size)
            yield whole._replace(images=whole.images[share], truth=whole.truth[share], seeds=whole.seeds[share])


def method_of(kind):
    norm = "group-norm" if kind == "cupre" else kind
    head = "group-norm" if kind == "cupre" else "none"
    detector = toys.restless(norm=norm, head_norm=head, freeze_at=0).train()
    groups = 1 if kind == "sync-bn" else 2
    settings = MoCoSettings(projection=8, queue=16, key_groups=groups, key_momentum=0.9)
    moco = MoCo(detector, Cells(), settings, batch=BATCH, seed=3)
    if kind != "cupre":
        return moco, moco
    parts = [Detection(detector, Common(part), toys.SETTINGS, batch=len(SCENES), seed=3) for part in range(2)]
    return Cupre(Tasks(unlabelled=moco, labelled=parts), PLAN, CupreSettings(rounds=2, sp_strength=0.01)), moco


def steps_of(kind):
    """Statistics of batches make rounding grow tenfold with each step."""
    return {"cupre": PLAN.steps, "bn": 1, "sync-bn": 1}.get(kind, 3)


def learned(kind, folder):
    """What a run leaves: weights, queue, what was saved, and the losses of each step."""
    method, moco = method_of(kind)
    settings = FitSettings(
        steps=steps_of(kind), optimiser="sgd", learning_rate=RATE if kind == "bn" else 0.01, momentum=0.0,
        weight_decay=0.0, schedule="constant", log_every=1, clip=None,
    )  # fmt: skip
    files = RunFiles(last=folder / "last", best=folder / "best", metrics=folder / f"{kind}.csv")
    saved = []
    save = lambda path, weights, state: saved.append(path.name)  # noqa: E731
    fit(method, settings, open_device("cpu", "fp32"), files=files, save=save, quiet=True)
    weights = {name: tensor.detach().clone() for name, tensor in moco.modules.state_dict().items()}
    return {"weights": weights, "queue": moco.queue.state_dict(), "saved": saved}


def losses_of(folder, kind):
    rows = list(csv.DictReader((folder / f"{kind}.csv").read_text().splitlines()))
    return [float(row["contrast"]) for row in rows if row["contrast"]]


KINDS = (*SAME, "bn")


@pytest.fixture(scope="module")
def pair(tmp_path_factory, two_processes):
    """What both processes have learned, by kind, and their folder."""
    folder = tmp_path_factory.mktemp("pair")
    two_processes(__file__, folder, ports=len(KINDS))
    found = {kind: [torch.load(folder / f"{kind}{rank}", weights_only=True) for rank in range(2)] for kind in KINDS}
    return found, folder


def distance(one, other):
    return sum((one[name] - other[name]).abs().sum().item() for name in one if one[name].is_floating_point())


@pytest.mark.parametrize("kind", SAME)
def test_two_processes_learn_what_one_does(pair, tmp_path, kind):
    both, folder = pair
    before, alone = method_of(kind)[1].modules.state_dict(), learned(kind, tmp_path)
    moved = distance(before, alone["weights"])
    for each in both[kind]:
        assert distance(alone["weights"], each["weights"]) < 1e-3 * moved
        assert each["queue"]["pointer"] == alone["queue"]["pointer"]
        torch.testing.assert_close(each["queue"]["keys"], alone["queue"]["keys"], rtol=1e-3, atol=1e-4)
    assert losses_of(folder, kind) == pytest.approx(losses_of(tmp_path, kind), rel=0.1)  # those of the first's crops


@pytest.mark.parametrize("kind", KINDS)
def test_both_have_the_same_weights_and_queue_and_one_of_them_writes(pair, kind):
    both, folder = pair
    first, second = both[kind]
    statistics = ("running_mean", "running_var")  # of the crops of each
    names = [name for name in first["weights"] if not name.endswith(statistics)]
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in names)
    assert torch.equal(first["queue"]["keys"], second["queue"]["keys"])
    assert first["queue"]["pointer"] == second["queue"]["pointer"]
    assert (first["saved"], second["saved"]) == (["best", "last"], [])
    losses = losses_of(folder, kind)
    assert len(losses) == (PLAN.rounds * PLAN.contrast if kind == "cupre" else steps_of(kind))
    assert all(0 < loss < 2 * math.log(1 + 16) for loss in losses)


def test_batch_normalisation_has_statistics_of_the_crops_of_its_process(pair):
    """One step by hand: queries of each share, keys of halves of each share in the share's own order."""
    _, moco = method_of("bn")
    keys, losses = [], []
    for rank in range(2):
        batch = next(moco.data.batches(0, batch=BATCH, rank=rank, world_size=2))
        order = torch.randperm(4, generator=torch.Generator().manual_seed(batch.seed)).tolist()
        own = torch.empty(4, 8)
        for group in (order[:2], order[2:]):
            own[group] = moco.key(batch.keys[group]).detach()
        keys.append(own)
        losses.append(contrast(moco.query(batch.queries), own, moco.queue.keys, 0.2)["contrast"])
    before = [weight.detach().clone() for weight in moco.query.encoder.weights()]
    (sum(losses) / 2).backward()
    expected = [weight.detach() - RATE * weight.grad for weight in moco.query.encoder.weights()]
    names = [name for name, _ in moco.modules.backbone.bottom_up.named_parameters()]
    for each in pair[0]["bn"]:
        found = [each["weights"][f"backbone.bottom_up.{name}"] for name in names]
        apart = sum((a - b).abs().sum() for a, b in zip(found, expected, strict=True))
        assert apart < 1e-3 * sum((a - b).abs().sum() for a, b in zip(before, expected, strict=True))
        torch.testing.assert_close(each["queue"]["keys"][:, :BATCH], torch.cat(keys).T, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    for name, port in zip(KINDS, sys.argv[2].split(","), strict=True):
        os.environ["MASTER_PORT"] = port
        torch.save(learned(name, place), place / f"{name}{distributed.rank()}")
    leave(0)
