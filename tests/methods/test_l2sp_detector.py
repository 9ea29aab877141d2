"""L2-SP of detectors: what is held, by how much, and that nothing else is."""

import itertools

import numpy as np
import pytest
import torch

from cellkit.data.detection import DetectionBatch
from cellkit.data.detection_crops import DetectionTruth
from cellkit.errors import UsageError
from cellkit.methods.detection import Detection
from cellkit.methods.detection_settings import DetectionSettings
from cellkit.methods.l2sp_detector import DetectionL2SP
from cellkit.methods.settings import L2SPSettings
from cellkit.networks.detector import Detector
from cellkit.networks.detector_spec import DetectorSpec

FEW = DetectionSettings(before_nms=50, proposals=30, anchors=32, regions=16)


def spec(**changes):
    parts = {"trunk": "resnet-tiny", "width": 8, "pyramid": 16, "hidden": 32, "box_convs": 1, "mask_convs": 1}
    return DetectorSpec(**{**parts, "cascade_stages": 1, "classes": 1, "freeze_at": 0, **changes})


def one_cell():
    layers = torch.zeros(1, 64, 64, dtype=torch.int32)
    layers[0, 10:40, 20:50] = 1
    return DetectionTruth(
        boxes=torch.tensor([[20.0, 10.0, 50.0, 40.0]]),
        categories=torch.zeros(1, dtype=torch.int64),
        layers=layers,
        places=torch.tensor([[0, 1]]),
    )


class Data:
    """Two crops with one cell each, always the same."""

    def batches(self, start=0, *, batch=2, seed=0, rank=0, world_size=1):
        images = torch.from_numpy(np.random.default_rng(0).random((2, 3, 64, 64), np.float32))
        return itertools.repeat(DetectionBatch(images, (one_cell(), one_cell()), (1, 2)))


def made(balance=1.0, strength=0.5, **changes):
    torch.manual_seed(0)
    penalty = L2SPSettings(strength=strength, balance=balance)
    return DetectionL2SP(Detector(spec(**changes)), Data(), FEW, batch=2, seed=0, penalty=penalty)


def test_nothing_is_lost_before_the_first_step():
    method = made()
    losses = method.losses(next(method.batches(0)))
    assert losses["l2sp"].item() == 0
    torch.manual_seed(0)
    plain = Detection(Detector(spec()), Data(), FEW, batch=2, seed=0)
    expected = plain.losses(next(plain.batches(0)))
    assert {name: value.item() for name, value in expected.items()} == {
        name: value.item() for name, value in losses.items() if name != "l2sp"
    }


@pytest.mark.parametrize("balance", [1.0, 0.25, 0.0])
def test_the_penalty_is_equation_7_on_the_trunk(balance):
    method = made(balance)
    base = [p.detach().clone() for p in method.modules.backbone.bottom_up.parameters()]
    with torch.no_grad():
        for parameter in method.modules.parameters():
            parameter.add_(0.125)
    expected = 0.0
    for parameter, before in zip(method.modules.backbone.bottom_up.parameters(), base, strict=True):
        expected += balance * float((parameter.detach() - before).double().square().sum())
        expected += (1 - balance) * float(parameter.detach().double().square().sum())
    found = method.losses(next(method.batches(0)))["l2sp"]
    assert found.item() == pytest.approx(0.5 * expected, rel=1e-4)


def test_only_the_trunk_is_drawn_back():
    method = made()
    with torch.no_grad():
        for parameter in method.modules.parameters():
            parameter.add_(0.125)
    method.losses(next(method.batches(0)))["l2sp"].backward()
    drawn = {name for name, p in method.modules.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert drawn == {name for name, _ in method.modules.named_parameters() if name.startswith("backbone.bottom_up.")}


def test_frozen_parts_are_not_counted():
    method = made(freeze_at=2)
    held = {id(p) for p in method.held}
    names = {name for name, p in method.modules.named_parameters() if id(p) in held}
    assert names
    assert all(
        name.startswith(("backbone.bottom_up.res3", "backbone.bottom_up.res4", "backbone.bottom_up.res5"))
        for name in names
    )


def test_the_trunk_does_not_decay_twice():
    method = made()
    groups = method.parameter_groups()
    own = {id(p) for p in method.modules.backbone.bottom_up.parameters()}
    assert {id(p) for p in groups[0]["params"]} == own
    assert groups[0]["weight_decay"] == 0
    counted = [id(p) for group in groups for p in group["params"]]
    assert len(counted) == len(set(counted)) == sum(p.requires_grad for p in method.modules.parameters())
    assert any("weight_decay" not in group for group in groups)


def test_a_frozen_trunk_cannot_be_held():
    with pytest.raises(UsageError) as caught:
        made(freeze_at=5)
    assert str(caught.value) == (
        "--method: l2sp holds on to a trunk that learns, and all of it is frozen "
        "(lower freeze_at, or use --method classic)"
    )
