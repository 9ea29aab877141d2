import importlib.util
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cellkit.config import NetworkSpec, Preprocessing, RepresentationSpec
from cellkit.errors import ModelError
from cellkit.io.checkpoints import Checkpoint
from cellkit.networks.detector import Detector, build_trunk
from cellkit.stages.detector_weights import adopt, categories_of

SPEC_OF_SCENES = importlib.util.spec_from_file_location(
    "detection_scenes", Path(__file__).with_name("detection_scenes.py")
)
scenes = importlib.util.module_from_spec(SPEC_OF_SCENES)
SPEC_OF_SCENES.loader.exec_module(scenes)
PLAIN = scenes.PLAIN


def checkpoint(weights, categories=("cell",), spec=PLAIN):
    return Checkpoint(
        network=NetworkSpec(name="detector", channels=3, outputs=0, widths=(), settings=spec.to_dict()),
        representation=RepresentationSpec(name="boxes"),
        preprocessing=Preprocessing(channels=3, colour="rgb"),
        weights=weights,
        card={"categories": list(categories)},
    )


def filled(spec, value):
    """A detector all of whose numbers are one number."""
    detector = Detector(spec)
    with torch.no_grad():
        for tensor in detector.state_dict().values():
            tensor.fill_(value)
    return detector


def names_at(detector, value):
    return {name for name, tensor in detector.state_dict().items() if bool((tensor == value).all())}


@pytest.fixture(autouse=True)
def heard(caplog):
    caplog.set_level(logging.WARNING, "cellkit")


def test_the_same_detector_is_taken_whole(caplog):
    own = Detector(PLAIN)
    adopt(own, checkpoint(filled(PLAIN, 3.0).state_dict()), "base.ckpt", ("cell",))
    constants = {name for name in own.state_dict() if ".cell_anchors." in name}
    assert names_at(own, 3.0) == set(own.state_dict()) - constants
    assert constants
    assert caplog.messages == []


def test_other_categories_begin_anew_in_one_line(caplog):
    eighty = replace(PLAIN, classes=80)
    own = Detector(PLAIN)
    base = checkpoint(filled(eighty, 3.0).state_dict(), [f"kind {i}" for i in range(80)], eighty)
    adopt(own, base, "coco.ckpt", ("cell",))
    anew = {name for name in own.state_dict() if name not in names_at(own, 3.0) and ".cell_anchors." not in name}
    assert anew == {
        f"roi_heads.{layer}.{kind}"
        for layer in ("box_predictor.0.cls_score", "mask_head.predictor")
        for kind in ("weight", "bias")
    }
    assert caplog.messages == [
        "coco.ckpt: does not fit everywhere; the layers of the categories (81 outputs there, 2 here) begin anew",
        "coco.ckpt: has learned kind 0, kind 1, kind 2 and 77 more categories; cell is learned here",
    ]


def test_other_anchors_begin_anew_and_are_kept(caplog):
    slender = replace(PLAIN, anchor_ratios=(0.25, 0.5, 1, 2, 4), anchor_sizes=(4, 9, 17, 31, 64))
    own = Detector(slender)
    adopt(own, checkpoint(filled(PLAIN, 3.0).state_dict()), "base.ckpt", ("cell",))
    assert own.proposal_generator.anchor_generator.anchors()[0].shape == (5, 4)
    assert (own.proposal_generator.anchor_generator.anchors()[0][2] == torch.tensor([-2.0, -2, 2, 2])).all()
    assert caplog.messages == [
        "base.ckpt: does not fit everywhere; "
        "the last layers of the proposal network (3 outputs there, 5 here) begin anew"
    ]


def test_categories_of_other_names_are_taken_and_told(caplog):
    own = Detector(PLAIN)
    adopt(own, checkpoint(filled(PLAIN, 3.0).state_dict(), ("person",)), "base.ckpt", ("cell",))
    assert bool((own.state_dict()["roi_heads.mask_head.predictor.bias"] == 3).all())
    assert caplog.messages == ["base.ckpt: has learned person; cell is learned here"]


@pytest.mark.parametrize("before", ["", "trunk.", "backbone.bottom_up."])
def test_a_trunk_alone_is_known_by_its_names(caplog, before):
    trunk = build_trunk(PLAIN)
    weights = {f"{before}{name}": torch.full_like(value, 3) for name, value in trunk.state_dict().items()}
    own = Detector(PLAIN)
    adopt(own, checkpoint(weights | {"fc.weight": torch.ones(2, 2)}, ()), "trunk.ckpt", ("cell",))
    assert names_at(own, 3.0) == {f"backbone.bottom_up.{name}" for name in trunk.state_dict()}
    (line,) = caplog.messages
    rest = len(own.state_dict()) - len(trunk.state_dict()) - 5
    total = len(own.state_dict())
    assert line.startswith(f"trunk.ckpt: does not fit everywhere; {rest} of {total} tensors, e.g. backbone.fpn_")
    assert line.endswith(" begin anew")


def test_a_model_of_which_nothing_fits():
    with pytest.raises(ModelError) as caught:
        adopt(Detector(PLAIN), checkpoint({"encoder.weight": torch.ones(3)}), "unet.ckpt", ("cell",))
    assert str(caught.value) == (
        "unet.ckpt: none of its weights fits the detector (choose trunk, width, pyramid and norms as it has them)"
    )


def test_a_card_that_says_nothing():
    assert categories_of(replace(checkpoint({}), card={})) == ()
