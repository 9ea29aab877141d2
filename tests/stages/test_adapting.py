"""Adaptation from folders to a checkpoint: what is chosen, what is watched, what is refused."""

from __future__ import annotations

import csv
import importlib.util
import io
from dataclasses import replace
from pathlib import Path
from typing import get_args

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from torch import nn

from cellkit.config import AdaptMethodName, NetworkSpec, Preprocessing, RepresentationSpec
from cellkit.data.layouts import find_pairs
from cellkit.engine import open_device
from cellkit.errors import NoInputError, UsageError
from cellkit.io.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from cellkit.methods import ADAPT
from cellkit.methods.adaptation import domain_batches, under
from cellkit.networks import build
from cellkit.stages import adapting
from cellkit.stages.adapt_recipe import base_parts
from cellkit.stages.adapting import Watch, adapt
from cellkit.stages.model import load_model

SPEC_OF_SCENES = importlib.util.spec_from_file_location("adapt_scenes", Path(__file__).with_name("adapt_scenes.py"))
scenes = importlib.util.module_from_spec(SPEC_OF_SCENES)
SPEC_OF_SCENES.loader.exec_module(scenes)
domains, recipe = scenes.domains, scenes.recipe

CPU = open_device("cpu", "fp32")
SPEC = NetworkSpec(name="batch-unet", channels=1, outputs=2, widths=(4, 8))


class Plain:
    """A method of one network that learns from the source, and keeps a second one aside."""

    members = 1
    settled = True

    def __init__(self, adaptation):
        self.adaptation = adaptation
        self.modules = nn.ModuleDict({"learns": adaptation.network, "waits": adaptation.another(1)})

    def batches(self, start):
        return domain_batches(self.adaptation, start)

    def losses(self, batch):
        maps = self.modules["learns"](batch.source.images).maps
        return self.adaptation.representation.loss(maps, batch.source.targets)

    def split(self, state):
        return under(state, "learns."), under(state, "waits.")


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setitem(adapting.ADAPT, "culpico", Plain)


def rows(path):
    return list(csv.DictReader(io.StringIO(path.with_suffix(".metrics.csv").read_text())))


def same(one, other):
    first, second = (load_checkpoint(path).weights for path in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def run(tmp_path, name="m", *, held=1, watch=None, chosen=None, **options):
    path = tmp_path / f"{name}.ckpt"
    more = options | ({} if watch is None else {"watch": watch})
    return path, adapt(domains(tmp_path, held=held), chosen or recipe(), CPU, path, quiet=True, **more)


def target_pairs(tmp_path):
    domains(tmp_path)
    return find_pairs(str(tmp_path / "target")).pairs


def test_table_and_names_agree():
    assert set(ADAPT) == set(get_args(AdaptMethodName))


@pytest.mark.parametrize("method", ADAPT)
def test_every_method_writes_a_model_that_can_be_loaded(tmp_path, method):
    path, result = run(tmp_path, chosen=recipe(method=method, steps=2, validate_every=2))
    assert result.finished
    model = load_model(path, CPU)
    members = 2 if method in ("culpico", "mcd") else 1
    assert model.checkpoint.network.members == members
    assert load_checkpoint(path).history[-1].arguments["method"] == method
    with torch.no_grad():
        assert model.network(torch.rand(1, 1, 16, 16)).maps.shape == (1, 2, 16, 16)


def test_what_is_beside_the_network_is_kept_apart(tmp_path, plain):
    path, _ = run(tmp_path)
    found = load_checkpoint(path)
    assert set(found.weights) == set(build(SPEC).state_dict()) == set(found.extra)


@pytest.mark.parametrize("held", [0, 1])
def test_what_is_watched_chooses_nothing(tmp_path, plain, held):
    alone, _ = run(tmp_path, "alone", held=held)
    watch = Watch(pairs=target_pairs(tmp_path), pictures=tmp_path / "pictures")
    watched, result = run(tmp_path, "watched", held=held, watch=watch)
    assert same(alone, watched)
    assert load_checkpoint(alone).history == load_checkpoint(watched).history
    assert [float(row["pseudo_iou"]) >= 0 for row in rows(watched)] == [True] * 4
    assert [row["loss"] for row in rows(alone)] == [row["loss"] for row in rows(watched)]
    assert len(list((tmp_path / "pictures").iterdir())) == 3 * 4
    assert (result.best_score is None) == (held == 0)


def test_smallest_loss_on_held_out_images_chooses(tmp_path, plain, monkeypatch):
    """The second of four validations is the best: its weights are those of a run of two steps."""
    losses = iter([3.0, 1.0, 2.0, 2.0])
    monkeypatch.setattr(adapting.HeldLoss, "__call__", lambda *_: next(losses))
    path, result = run(tmp_path)
    assert result.best_score == -1
    assert [float(row["held_score"]) for row in rows(path)] == [-3, -1, -2, -2]
    short, _ = run(tmp_path, "short", held=0, chosen=recipe(steps=2))
    monkeypatch.undo()
    monkeypatch.setitem(adapting.ADAPT, "culpico", Plain)
    learn_from_two = replace(domains(tmp_path), held=())
    adapt(learn_from_two, recipe(steps=2), CPU, tmp_path / "two.ckpt", quiet=True)
    assert same(path, tmp_path / "two.ckpt")
    assert not same(path, short)


@pytest.mark.parametrize("held", [0, 1])
def test_resumed_run_ends_as_an_uninterrupted_one(tmp_path, plain, held):
    watch = Watch(pairs=target_pairs(tmp_path))
    whole, _ = run(tmp_path, "whole", held=held, watch=watch)
    _, first = run(tmp_path, "cut", held=held, watch=watch, chosen=recipe(minutes=0))
    assert not first.finished
    cut, last = run(tmp_path, "cut", held=held, watch=watch)
    assert last.finished
    assert same(whole, cut)
    assert [row["loss"] for row in rows(whole)] == [row["loss"] for row in rows(cut)]
    assert adapt(domains(tmp_path, held=held), recipe(), CPU, cut) is None


def test_other_domains_are_another_run(tmp_path, plain):
    path, _ = run(tmp_path)
    found = domains(tmp_path)
    with pytest.raises(UsageError, match="exists and was made by other settings"):
        adapt(replace(found, images=found.images[:2]), recipe(), CPU, path)


def test_history_and_card_tell_of_both_domains(tmp_path, plain):
    path, _ = run(tmp_path)
    found = load_checkpoint(path)
    (record,) = found.history
    assert (record.verb, record.model) == ("adapt", None)
    wanted = {"method": "culpico", "source": "source", "target": "target", "images": 2, "validation_images": 1}
    more = {"target_images": 3, "normalisation": "minmax", "colour": "grey", "schedule": "constant", "rotate": False}
    assert (wanted | more).items() <= record.arguments.items()
    assert {"ramp", "flip_rows"} <= record.arguments.keys()
    assert not {"mcd_n", "teacher_decay", "bound_statistics"} & record.arguments.keys()  # of other methods
    assert found.card == {
        "method": "culpico",
        "source": {"name": "source", "images": 2, "held out": 1},
        "target": {"name": "target", "images": 3},
    }


def saved_base(tmp_path, **changes):
    torch.manual_seed(5)
    parts = {
        "network": SPEC,
        "representation": RepresentationSpec(name="mask", settings={"min_area": 3}),
        "preprocessing": Preprocessing(channels=1, diameter=20.0, typical=10.0),
        "weights": build(SPEC).state_dict(),
        "card": {"data": "squares"},
    }
    save_checkpoint(tmp_path / "base.ckpt", Checkpoint(**(parts | changes)))
    return str(tmp_path / "base.ckpt")


def test_base_brings_its_weights_and_all_that_goes_with_them(tmp_path, plain):
    base = saved_base(tmp_path)
    model, preprocessing, decoding = base_parts(base, {"cell_threshold": 1.0})
    assert (model.network, model.widths, model.init) == ("batch-unet", (4, 8), base)
    assert (preprocessing.diameter, preprocessing.typical) == (20.0, 10.0)
    assert decoding == {"min_area": 3, "cell_threshold": 1.0}
    chosen = replace(recipe(learning_rate=0.0, steps=1), model=replace(model, batch=2), preprocessing=preprocessing)
    path, _ = run(tmp_path, chosen=chosen, held=0)
    found, start = load_checkpoint(path), load_checkpoint(tmp_path / "base.ckpt").weights
    learned = [name for name in start if "running" not in name and "tracked" not in name]
    assert all(torch.equal(found.weights[name], start[name]) for name in learned)
    assert {name for name in learned if not torch.equal(found.extra[name], start[name])} == {"head.weight", "head.bias"}
    assert found.card["base"] == base
    assert found.card["card of the base"] == {"data": "squares"}
    assert found.history[-1].model == base
    assert found.history[-1].model_digest is not None


def test_source_without_a_labelled_cell_is_refused(tmp_path):
    found = domains(tmp_path)
    for path in (tmp_path / "source" / "labels").iterdir():
        iio.imwrite(path, np.zeros((32, 32), np.uint8))
    with pytest.raises(NoInputError) as error:
        adapt(found, recipe(), CPU, tmp_path / "m.ckpt")
    assert str(error.value) == "source: no image shows a labelled cell (outline some cells first)"


def test_batch_that_cannot_be_shared_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError) as error:
        run(tmp_path)
    assert str(error.value) == "batch: 2 crops cannot be shared by 3 processes (give a multiple of 3)"
