"""Losses as they are read, and the metrics file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from cellkit.engine.records import LossRecord, MetricsFile, check_weights
from cellkit.errors import OutputError, TrainingError


def test_losses_are_averaged_by_name_since_the_last_reading():
    record = LossRecord()
    record.add(1, {"flow": torch.tensor(1.0), "cell": torch.tensor(3.0)})
    record.add(2, {"flow": torch.tensor(2.0)})  # a method that alternates
    assert record.read() == {"loss": 3.0, "flow": 1.5, "cell": 3.0}
    record.add(3, {"flow": torch.tensor(8.0)})
    assert record.read() == {"loss": 8.0, "flow": 8.0}
    assert record.read() == {}


def test_terms_without_gradient_are_watched_but_not_summed():
    record = LossRecord()
    record.add(1, {"flow": torch.tensor(1.0, requires_grad=True), "accuracy": torch.tensor(0.5)})
    assert record.read() == {"loss": 1.0, "flow": 1.0, "accuracy": 0.5}


def test_the_step_that_was_not_finite_is_named():
    record = LossRecord()
    record.add(1, {"flow": torch.tensor(1.0), "cell": torch.tensor(2.0)})
    record.add(2, {"flow": torch.tensor(1.0), "cell": torch.tensor(float("inf"))})
    record.add(3, {"flow": torch.tensor(float("nan")), "cell": torch.tensor(float("nan"))})
    with pytest.raises(TrainingError) as caught:
        record.read()
    assert str(caught.value) == (
        "step 2: a loss is not finite: flow 1, cell inf (lower the learning rate or clip gradients)"
    )


def test_weights_that_are_not_finite_are_named():
    bad = {f"layer{i}": torch.tensor([1.0, float("nan")]) for i in range(5)}
    with pytest.raises(TrainingError) as caught:
        check_weights({"good": torch.ones(3), "count": torch.tensor(3)} | bad, 9)
    assert str(caught.value) == (
        "step 9: weights are not finite: layer0, layer1, layer2 and 2 more (lower the learning rate)"
    )
    check_weights({"good": torch.ones(3).half(), "count": torch.tensor(3), "empty": torch.ones(0)}, 9)


def test_rows_are_there_at_once_and_columns_come_when_needed(tmp_path):
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path)
    metrics.append({"step": 1, "loss": 0.25})
    assert path.read_text() == "step,loss\n1,0.25\n"
    metrics.append({"step": 2, "loss": 1 / 3, "f1": 0.5})
    metrics.append({"step": 3, "loss": 0.125})
    assert path.read_text() == "step,loss,f1\n1,0.25,\n2,0.333333,0.5\n3,0.125,\n"


def test_resume_drops_later_and_cut_rows(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,f1\n1,0.5,\n2,0.25,0.5\n3,0.125,\n4,0.0")
    metrics = MetricsFile(path, last_step=2)
    assert path.read_text() == "step,loss,f1\n1,0.5,\n2,0.25,0.5\n"
    metrics.append({"step": 3, "loss": 0.0})
    assert path.read_text().endswith("\n3,0,\n")


def test_resume_without_a_file_begins_one(tmp_path):
    MetricsFile(tmp_path / "metrics.csv", last_step=2).append({"step": 3, "loss": 1.0})
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n3,1\n"


@pytest.mark.skipif(not Path("/dev/full").exists() or os.name != "posix", reason="needs /dev/full")
def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    metrics = MetricsFile(tmp_path / "metrics.csv")
    metrics.append({"step": 1, "loss": 1.0})
    metrics.path = Path("/dev/full")
    with pytest.raises(OutputError, match=r"^/dev/full: could not be written: no space is left on the device \("):
        metrics.append({"step": 2, "loss": 1.0})
