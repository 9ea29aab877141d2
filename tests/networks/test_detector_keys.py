"""Files of others: names and shapes as they are published, written out here from their layout, not from our modules."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import nn

from cellkit.errors import ModelError
from cellkit.networks.detector import Detector, build_trunk
from cellkit.networks.detector_keys import IMAGENET, kind_of, translate, weights_of
from cellkit.networks.detector_spec import (
    MASK_RCNN_50,
    RESNEST_50_CASCADE,
    RESNEST_200_CASCADE,
    TINY_CASCADE,
    DetectorSpec,
)

WIDTHS = (64, 128, 256, 512)
STATISTICS = ("weight", "bias", "running_mean", "running_var")


def weight(*shape):
    return torch.empty(shape, device="meta")


def norm(name, channels, counted=True):
    state = {f"{name}.{statistic}": weight(channels) for statistic in STATISTICS}
    return state | ({f"{name}.num_batches_tracked": weight()} if counted else {})


def affine(name, *shape):
    return {f"{name}.weight": weight(*shape), f"{name}.bias": weight(shape[0])}


def torch_blocks(blocks, first, split):
    """layer1 to layer4 of torchvision's ResNet or of the ResNeSt package."""
    state, inputs = {}, first
    for layer, (count, width) in enumerate(zip(blocks, WIDTHS, strict=True), 1):
        for index in range(count):
            own = f"layer{layer}.{index}"
            state |= {f"{own}.conv1.weight": weight(width, inputs, 1, 1)} | norm(f"{own}.bn1", width)
            if split:
                inside = max(width // 2, 32)
                state |= {f"{own}.conv2.conv.weight": weight(2 * width, width // 2, 3, 3)}
                state |= norm(f"{own}.conv2.bn0", 2 * width) | norm(f"{own}.conv2.bn1", inside)
                state |= affine(f"{own}.conv2.fc1", inside, width, 1, 1)
                state |= affine(f"{own}.conv2.fc2", 2 * width, inside, 1, 1)
            else:
                state |= {f"{own}.conv2.weight": weight(width, width, 3, 3)} | norm(f"{own}.bn2", width)
            state |= {f"{own}.conv3.weight": weight(4 * width, width, 1, 1)} | norm(f"{own}.bn3", 4 * width)
            if not index:
                first_of = 1 if split else 0  # the pooling comes before
                state |= {f"{own}.downsample.{first_of}.weight": weight(4 * width, inputs, 1, 1)}
                state |= norm(f"{own}.downsample.{first_of + 1}", 4 * width)
            inputs = 4 * width
    return state


def imagenet_resnest(blocks, stem):
    state = {"conv1.0.weight": weight(stem, 3, 3, 3)} | norm("conv1.1", stem)
    state |= {"conv1.3.weight": weight(stem, stem, 3, 3)} | norm("conv1.4", stem)
    state |= {"conv1.6.weight": weight(2 * stem, stem, 3, 3)} | norm("bn1", 2 * stem)
    return state | torch_blocks(blocks, 2 * stem, split=True) | affine("fc", 1000, 2048)


def torchvision_resnet50(counted=True):
    state = {"conv1.weight": weight(64, 3, 7, 7)} | norm("bn1", 64) | torch_blocks((3, 4, 6, 3), 64, split=False)
    state |= affine("fc", 1000, 2048)
    return state if counted else {k: v for k, v in state.items() if "num_batches" not in k}


def torchvision_mask_rcnn(newer):
    """maskrcnn_resnet50_fpn; newer versions of torchvision wrap the convolutions of pyramid and heads."""
    state = {f"backbone.body.{k}": v for k, v in torchvision_resnet50(counted=False).items() if k[:2] != "fc"}
    wrap = ".0" if newer else ""
    for level, width in enumerate((256, 512, 1024, 2048)):
        state |= affine(f"backbone.fpn.inner_blocks.{level}{wrap}", 256, width, 1, 1)
        state |= affine(f"backbone.fpn.layer_blocks.{level}{wrap}", 256, 256, 3, 3)
    state |= affine("rpn.head.conv" + (".0.0" if newer else ""), 256, 256, 3, 3)
    state |= affine("rpn.head.cls_logits", 3, 256, 1, 1) | affine("rpn.head.bbox_pred", 12, 256, 1, 1)
    state |= affine("roi_heads.box_head.fc6", 1024, 12544) | affine("roi_heads.box_head.fc7", 1024, 1024)
    state |= affine("roi_heads.box_predictor.cls_score", 91, 1024)
    state |= affine("roi_heads.box_predictor.bbox_pred", 364, 1024)
    for index in range(4):
        name = f"roi_heads.mask_head.{index}.0" if newer else f"roi_heads.mask_head.mask_fcn{index + 1}"
        state |= affine(name, 256, 256, 3, 3)
    state |= affine("roi_heads.mask_predictor.conv5_mask", 256, 256, 2, 2)
    return state | affine("roi_heads.mask_predictor.mask_fcn_logits", 91, 256, 1, 1)


def detectron_cascade(blocks, stem, masks):
    """mask_cascade_rcnn_ResNeSt: the trunk under detectron2's names, then pyramid, proposals and heads."""
    state = {}
    for index, shape in enumerate(((stem, 3), (stem, stem), (2 * stem, stem)), 1):
        own = f"backbone.bottom_up.stem.conv1_{index}"
        state |= {f"{own}.weight": weight(*shape, 3, 3)} | norm(f"{own}.norm", shape[0], counted=False)
    inputs = 2 * stem
    for stage, (count, width) in enumerate(zip(blocks, WIDTHS, strict=True), 2):
        for index in range(count):
            own, counted, inside = f"backbone.bottom_up.res{stage}.{index}", stage > 2, max(width // 2, 32)
            if not index:
                state |= {f"{own}.shortcut.weight": weight(4 * width, inputs, 1, 1)}
                state |= norm(f"{own}.shortcut.norm", 4 * width, counted)
            state |= {f"{own}.conv1.weight": weight(width, inputs, 1, 1)} | norm(f"{own}.conv1.norm", width, counted)
            state |= {f"{own}.conv2.conv.weight": weight(2 * width, width // 2, 3, 3)}
            state |= norm(f"{own}.conv2.bn0", 2 * width, counted) | norm(f"{own}.conv2.bn1", inside, counted)
            state |= affine(f"{own}.conv2.fc1", inside, width, 1, 1)
            state |= affine(f"{own}.conv2.fc2", 2 * width, inside, 1, 1)
            state |= {f"{own}.conv3.weight": weight(4 * width, width, 1, 1)}
            state |= norm(f"{own}.conv3.norm", 4 * width, counted)
            inputs = 4 * width
    for level, width in enumerate((256, 512, 1024, 2048), 2):
        for kind, shape in (("lateral", (width, 1, 1)), ("output", (256, 3, 3))):
            own = f"backbone.fpn_{kind}{level}"
            state |= {f"{own}.weight": weight(256, *shape)} | norm(f"{own}.norm", 256)
    return state | detectron_heads(masks)


def detectron_heads(masks):
    state = {f"proposal_generator.anchor_generator.cell_anchors.{index}": weight(3, 4) for index in range(5)}
    rpn = "proposal_generator.rpn_head"
    state |= affine(f"{rpn}.conv", 256, 256, 3, 3) | affine(f"{rpn}.objectness_logits", 3, 256, 1, 1)
    state |= affine(f"{rpn}.anchor_deltas", 12, 256, 1, 1)
    for stage in range(3):
        for conv in range(1, 5):
            own = f"roi_heads.box_head.{stage}.conv{conv}"
            state |= {f"{own}.weight": weight(256, 256, 3, 3)} | norm(f"{own}.norm", 256)
        state |= affine(f"roi_heads.box_head.{stage}.fc1", 1024, 12544)
        state |= affine(f"roi_heads.box_predictor.{stage}.cls_score", 81, 1024)
        state |= affine(f"roi_heads.box_predictor.{stage}.bbox_pred", 4, 1024)
    for conv in range(1, masks + 1):
        own = f"roi_heads.mask_head.mask_fcn{conv}"
        state |= {f"{own}.weight": weight(256, 256, 3, 3)} | norm(f"{own}.norm", 256)
    state |= affine("roi_heads.mask_head.deconv", 256, 256, 2, 2)
    return state | affine("roi_heads.mask_head.predictor", 80, 256, 1, 1)


@functools.cache
def wanted(spec, trunk_alone=False):
    with torch.device("meta"):
        return (build_trunk(spec) if trunk_alone else Detector(spec)).state_dict()


@pytest.fixture(scope="module")
def large():
    return wanted(RESNEST_200_CASCADE)


def test_the_published_cascade_fits_whole(large):
    state = detectron_cascade((3, 24, 36, 3), 64, 8)
    assert len(state) == 2009
    found = translate(state, large)
    assert found.kind == "detectron"
    assert set(found.dropped.values()) == {"anchors are those of the specification"}
    assert len(found.dropped) == 5
    assert found.missing == []
    assert all(found.mapped[name] is state[name] for name in found.mapped)
    assert len(found.mapped) == 2004
    assert found.pixels.order == "RGB"
    assert found.pixels.mean == (123.68, 116.779, 103.939)


def test_resnest_of_imagenet_fills_the_trunk(large):
    state = imagenet_resnest((3, 24, 36, 3), 64)
    found = translate(state, large)
    assert found.kind == "resnest"
    assert len(found.mapped) == 1808
    assert set(found.mapped) == {name for name in large if name.startswith("backbone.bottom_up.")}
    counters = {name for name, reason in found.dropped.items() if reason == "frozen normalisation counts no batches"}
    assert len(counters) == 16
    assert set(found.dropped) - counters == {"fc.weight", "fc.bias"}
    assert found.dropped["fc.bias"] == "a classifier or projection, which the model has not"
    assert {name.partition(".")[0] for name in found.missing} == {"backbone", "proposal_generator", "roi_heads"}
    assert not any("bottom_up" in name or "num_batches" in name or "cell_anchors" in name for name in found.missing)
    assert found.pixels == IMAGENET


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv1.0.weight", "stem.conv1_1.weight"),
        ("conv1.1.running_var", "stem.conv1_1.norm.running_var"),
        ("conv1.3.weight", "stem.conv1_2.weight"),
        ("conv1.4.bias", "stem.conv1_2.norm.bias"),
        ("conv1.6.weight", "stem.conv1_3.weight"),
        ("bn1.weight", "stem.conv1_3.norm.weight"),
        ("layer1.0.downsample.1.weight", "res2.0.shortcut.weight"),
        ("layer2.0.downsample.2.running_mean", "res3.0.shortcut.norm.running_mean"),
        ("layer3.5.bn3.bias", "res4.5.conv3.norm.bias"),
        ("layer4.2.bn1.weight", "res5.2.conv1.norm.weight"),
        ("layer4.1.conv2.bn1.running_mean", "res5.1.conv2.bn1.running_mean"),
        ("layer1.2.conv2.fc1.bias", "res2.2.conv2.fc1.bias"),
        ("layer2.3.conv3.weight", "res3.3.conv3.weight"),
    ],
)
def test_each_name_of_resnest_has_its_place(theirs, ours):
    state = imagenet_resnest((3, 4, 6, 3), 32)
    assert translate(state, wanted(RESNEST_50_CASCADE, trunk_alone=True)).mapped[ours] is state[theirs]


def test_resnet_of_torchvision_fills_the_trunk():
    model = wanted(MASK_RCNN_50)
    state = torchvision_resnet50()
    found = translate(state, model)
    assert found.kind == "resnet"
    assert set(found.mapped) == {name for name in model if name.startswith("backbone.bottom_up.")}
    place = "backbone.bottom_up."
    assert found.mapped[place + "stem.conv1.norm.weight"] is state["bn1.weight"]
    assert found.mapped[place + "res3.0.shortcut.weight"] is state["layer2.0.downsample.0.weight"]
    assert found.mapped[place + "res3.0.shortcut.norm.bias"] is state["layer2.0.downsample.1.bias"]
    assert found.mapped[place + "res4.3.conv2.norm.running_mean"] is state["layer3.3.bn2.running_mean"]


@pytest.mark.parametrize("newer", [False, True])
def test_mask_r_cnn_of_torchvision_fits_but_for_its_boxes(newer):
    model, state = wanted(dataclasses.replace(MASK_RCNN_50, classes=90)), torchvision_mask_rcnn(newer)
    found = translate(state, model)
    assert found.kind == "mask-rcnn"
    assert found.dropped == {
        "roi_heads.box_predictor.bbox_pred.weight": "shape (364, 1024), the model has (4, 1024)",
        "roi_heads.box_predictor.bbox_pred.bias": "shape (364,), the model has (4,)",
    }
    assert found.missing == [f"roi_heads.box_predictor.0.bbox_pred.{name}" for name in ("weight", "bias")]
    wrapped = ".0" if newer else ""
    assert found.mapped["backbone.fpn_lateral4.weight"] is state[f"backbone.fpn.inner_blocks.2{wrapped}.weight"]
    assert found.mapped["backbone.fpn_output2.bias"] is state[f"backbone.fpn.layer_blocks.0{wrapped}.bias"]
    third = "roi_heads.mask_head.2.0" if newer else "roi_heads.mask_head.mask_fcn3"
    assert found.mapped["roi_heads.mask_head.mask_fcn3.weight"] is state[f"{third}.weight"]
    assert found.mapped["roi_heads.box_head.0.fc2.bias"] is state["roi_heads.box_head.fc7.bias"]


def test_the_background_of_torchvision_moves_to_the_end_and_loses_its_mask():
    state = torchvision_mask_rcnn(newer=True)
    state["roi_heads.box_predictor.cls_score.bias"] = torch.arange(91.0)  # background is 0
    state["roi_heads.mask_predictor.mask_fcn_logits.bias"] = torch.arange(91.0)
    mapped = translate(state, wanted(dataclasses.replace(MASK_RCNN_50, classes=90))).mapped
    assert mapped["roi_heads.box_predictor.0.cls_score.bias"].tolist() == [*range(1, 91), 0]
    assert mapped["roi_heads.mask_head.predictor.bias"].tolist() == list(range(1, 91))


def moco(version, state):
    state = {k: v for k, v in state.items() if not k.startswith("fc.")}
    if version == 1:
        state |= affine("fc", 128, 2048)
    else:
        state |= affine("fc.0", 2048, 2048) | affine("fc.2", 128, 2048)
    both = {f"module.encoder_{which}.{k}": v for which in "qk" for k, v in state.items()}
    return both | {"module.queue": weight(128, 65536), "module.queue_ptr": weight(1)}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("family", ["resnet", "resnest"])
def test_moco_fills_the_trunk_with_its_query_encoder(version, family):
    spec = MASK_RCNN_50 if family == "resnet" else RESNEST_50_CASCADE
    state = torchvision_resnet50() if family == "resnet" else imagenet_resnest((3, 4, 6, 3), 32)
    model = wanted(dataclasses.replace(spec, norm="bn", freeze_at=0))
    found = translate(moco(version, state), model)
    assert found.kind == "moco"
    assert set(found.mapped) == {name for name in model if name.startswith("backbone.bottom_up.")}
    reasons = {name: reason for name, reason in found.dropped.items() if "encoder_k" not in name}
    layers = ["fc"] if version == 1 else ["fc.0", "fc.2"]
    assert set(reasons) == {"queue", "queue_ptr"} | {f"encoder_q.{fc}.{n}" for fc in layers for n in ("weight", "bias")}
    assert reasons["queue"] == "the queue belongs to the training that is over"
    assert found.dropped["encoder_k.conv1.weight" if family == "resnet" else "encoder_k.conv1.0.weight"] == (
        "the key encoder is a mean of the query encoder"
    )


def test_mocos_projection_fits_a_pooled_trunk():
    with torch.device("meta"):
        trunk = build_trunk(dataclasses.replace(MASK_RCNN_50, norm="bn", freeze_at=0))
        projection = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 128))
        model = nn.ModuleDict({"trunk": trunk, "fc": projection}).state_dict()
    found = translate(moco(2, torchvision_resnet50()), model)
    assert found.missing == []
    assert set(found.mapped) == set(model)


def test_another_number_of_classes_and_of_anchors_keeps_the_rest():
    spec = dataclasses.replace(RESNEST_50_CASCADE, classes=1, anchor_ratios=(0.25, 0.5, 1, 2, 4))
    found = translate(detectron_cascade((3, 4, 6, 3), 32, 4), wanted(spec))
    reasons = {name: reason for name, reason in found.dropped.items() if "cell_anchors" not in name}
    layers = [f"roi_heads.box_predictor.{stage}.cls_score" for stage in range(3)] + ["roi_heads.mask_head.predictor"]
    layers += [f"proposal_generator.rpn_head.{kind}" for kind in ("objectness_logits", "anchor_deltas")]
    assert set(reasons) == set(found.missing) == {f"{layer}.{n}" for layer in layers for n in ("weight", "bias")}
    assert reasons["roi_heads.box_predictor.2.cls_score.weight"] == "shape (81, 1024), the model has (2, 1024)"


def test_a_head_of_one_stage_has_no_number_in_detectron2():
    spec = dataclasses.replace(MASK_RCNN_50, classes=80)
    model = wanted(spec)
    state = {
        name.replace("box_head.0.", "box_head.").replace("predictor.0.", "predictor."): v for name, v in model.items()
    }
    assert "roi_heads.box_head.fc2.weight" in state
    found = translate(state, model)
    assert found.missing == []
    assert found.pixels is None
    assert found.mapped["roi_heads.box_predictor.0.cls_score.bias"] is state["roi_heads.box_predictor.cls_score.bias"]


def test_a_trunk_in_detectron2s_names_alone():
    model = wanted(RESNEST_50_CASCADE)
    state = {f"{name.removeprefix('backbone.bottom_up.')}": v for name, v in model.items() if ".bottom_up." in name}
    found = translate(state | affine("linear", 1000, 2048), model)
    assert (found.kind, set(found.mapped)) == ("detectron", {name for name in model if ".bottom_up." in name})
    assert found.dropped["linear.weight"] == "a classifier or projection, which the model has not"


def test_statistics_of_pixels_come_from_the_file():
    state = detectron_cascade((3, 4, 6, 3), 32, 4)
    state |= {"pixel_mean": torch.tensor([103.5, 116.25, 123.75])[:, None, None], "pixel_std": torch.ones(3, 1, 1)}
    found = translate(state, wanted(RESNEST_50_CASCADE))
    assert found.pixels == ("BGR", (103.5, 116.25, 123.75), (1, 1, 1))
    assert found.dropped["pixel_mean"] == "a statistic of pixels, not a weight"


@pytest.mark.parametrize("theirs_is_group", [False, True])
def test_scales_of_another_normalisation_are_not_taken(theirs_is_group):
    group, batch = (wanted(dataclasses.replace(TINY_CASCADE, norm=name), True) for name in ("group-norm", "bn"))
    state, model = (group, batch) if theirs_is_group else (batch, group)
    found = translate(state, model)
    scale = "res3.0.conv1.norm.weight"
    assert found.dropped[scale] == "of another kind of normalisation"
    assert scale in found.missing
    assert "res3.0.conv1.weight" in found.mapped
    assert not any("norm" in name or "bn" in name for name in found.mapped)


def test_weights_load_and_give_the_maps_that_they_gave():
    torch.manual_seed(0)
    spec = DetectorSpec(**{**TINY_CASCADE.to_dict(), "anchor_sizes": (4, 8, 16, 32, 64)})
    one, other = Detector(spec).eval(), Detector(spec).eval()
    found = translate(
        weights_of({"model": {f"module.{k}": v for k, v in one.state_dict().items()}}), other.state_dict()
    )
    other.load_state_dict(found.mapped, strict=False)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(one(x).pyramid[0], other(x).pyramid[0])


def test_arrays_of_numpy_become_tensors():
    array = np.arange(3.0)
    array.setflags(write=False)
    state = weights_of({"model": {"stem.conv1.bias": array}, "__author__": "someone"})
    assert state["stem.conv1.bias"].tolist() == [0, 1, 2]
    assert weights_of({"state_dict": {"a": torch.ones(2)}, "epoch": 3})["a"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"backbone.bottom_up.res3.0.conv2_offset.weight": weight(54, 128, 3, 3)}, "has deformable convolutions"),
        ({"rpn.head.conv.1.0.weight": weight(1)}, "torchvision's second Mask R-CNN"),
        ({"encoder.layer.0.weight": weight(1)}, r"no network that can be converted \(known are ResNet and ResNeSt"),
        ({}, "no network that can be converted"),
    ],
)
def test_files_that_cannot_be_converted_are_told_in_one_line(state, text):
    with pytest.raises(ModelError, match=rf"^model_final\.pth: .*{text}") as caught:
        kind_of(state, "model_final.pth")
    assert "\n" not in str(caught.value)


def test_a_file_without_weights_is_told():
    with pytest.raises(ModelError, match=r"^a\.pth: holds no weights \(known are"):
        weights_of({"epoch": 3}, "a.pth")


def test_a_file_of_which_nothing_fits_is_told():
    with pytest.raises(ModelError, match=r"none of its weights fits the model \(choose the trunk"):
        translate(torchvision_resnet50(), {"stem.conv1_1.weight": weight(1)})
