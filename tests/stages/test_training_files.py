"""The files of a training run: known again by their history, and told from those of other runs."""

from __future__ import annotations

import pytest
import torch

from cellkit.config import NetworkSpec, Preprocessing, RepresentationSpec
from cellkit.errors import UsageError
from cellkit.io.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from cellkit.provenance import Record
from cellkit.stages.training_files import TrainingFiles, Writer


def history(steps=10, **arguments):
    return (Record(verb="pretrain", arguments={"steps": steps, "rate": 0.1} | arguments),)


@pytest.fixture
def model():
    return Checkpoint(
        network=NetworkSpec(),
        representation=RepresentationSpec(),
        preprocessing=Preprocessing(),
        weights={"a": torch.ones(2)},
        history=history(),
    )


@pytest.fixture
def files(tmp_path):
    return TrainingFiles(output=tmp_path / "m.ckpt")


def test_names_stand_beside_the_output(files):
    assert [path.name for path in (files.run.last, files.run.best, files.run.metrics)] == [
        "m.last.ckpt",
        "m.best.ckpt",
        "m.metrics.csv",
    ]


def test_an_output_is_done_when_its_history_is_the_same(files, model):
    assert not files.is_done(history())
    save_checkpoint(files.output, model)
    assert files.is_done(history())
    with pytest.raises(UsageError, match=r"exists and was made by other settings \(use --on-exists overwrite"):
        files.is_done(history(rate=0.2))


def test_a_run_made_longer_goes_on_and_another_is_refused(files, model):
    assert files.state(history()) is None
    Writer(model=model).save(files.last, {"a": torch.ones(2)}, {"step": 10})
    assert files.state(history(steps=20)) == {"step": 10}
    with pytest.raises(UsageError, match=r"m\.last\.ckpt: belongs to a run with other settings"):
        files.state(history(rate=0.2))


def test_weights_that_became_an_output_and_went_with_it_are_missed(files, model):
    with pytest.raises(UsageError, match=r"is of a finished run, whose weights are gone"):
        files.finished()
    save_checkpoint(files.best, model)
    assert files.finished() == files.best


def test_what_is_no_weight_of_the_network_is_kept_apart(files, model):
    writer = Writer(model=model, half=True, split=lambda state: ({"a": state["n.a"]}, {"alpha": state["alpha"]}))
    state = {"n.a": torch.full((2,), 1 / 3), "alpha": torch.tensor(0.2)}
    writer.save(files.best, state, None)
    found = load_checkpoint(files.best)
    assert found.weights["a"][0] == torch.tensor(1 / 3).half().float()
    assert found.extra["alpha"] == torch.tensor(0.2)
    writer.save(files.last, state, {"step": 1})
    assert load_checkpoint(files.last).weights["a"][0] == torch.tensor(1 / 3)  # exact, for going on
