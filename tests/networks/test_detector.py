"""The detectors: parameters and names of the published ones, dense passes, heads, anchors, specifications."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from typing import get_args

import pytest
import torch
from torch import nn

from cellkit.errors import ModelError
from cellkit.networks.detector import BLOCKS, Detector, build_trunk
from cellkit.networks.detector_spec import (
    MASK_RCNN_50,
    RESNEST_50_CASCADE,
    RESNEST_200_CASCADE,
    TINY_CASCADE,
    DetectorSpec,
    TrunkName,
)
from cellkit.networks.roi_heads import ConvBoxHead, MaskHead, scale_gradient
from cellkit.networks.rpn import RPNHead, cell_anchors

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def count(module):
    return sum(p.numel() for p in module.parameters())


def on_meta(spec):
    with torch.device("meta"):
        return Detector(spec)


@pytest.fixture(scope="module")
def large():
    return on_meta(RESNEST_200_CASCADE)


def tiny(**changes):
    torch.manual_seed(0)
    return Detector(dataclasses.replace(TINY_CASCADE, **changes))


def image(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_parameter_count_of_the_cascade_with_resnest_200(large):
    assert count(large) == 122_978_302
    assert len(large.state_dict()) == 2009


def test_parameter_count_of_the_cascade_with_resnest_50():
    assert count(on_meta(RESNEST_50_CASCADE)) == 77_898_910


def test_parameter_count_of_torchvisions_mask_r_cnn():
    # torchvision's maskrcnn_resnet50_fpn has 44,401,393, whose boxes are those of each category; here of none
    per_category = (91 * 4 - 4) * (1024 + 1)
    background_mask = 256 + 1
    trained = count(on_meta(dataclasses.replace(MASK_RCNN_50, classes=90, freeze_at=0)))
    assert trained == 44_401_393 - per_category - background_mask


@pytest.mark.parametrize(
    ("part", "parameters"),
    [
        ("backbone.bottom_up", 68_152_544 - 2 * (256 + 3 * (64 + 128 + 32 + 256) + 256)),  # frozen ones are buffers
        ("proposal_generator", 593_935),
        ("roi_heads.box_head", 45_622_272),
        ("roi_heads.box_predictor", 261_375),
        ("roi_heads.mask_head", 5_005_648),
    ],
)
def test_parts_have_the_parameters_of_the_published_detector(large, part, parameters):
    assert count(large.get_submodule(part)) == parameters


def patterns(blocks):
    """How often each pattern of names occurs in detectron2-ResNeSt's cascade, frozen up to res2."""
    affine = r"(weight|bias)"
    frozen, learned = "(weight|bias|running_mean|running_var)", "(" + "|".join(NORM) + ")"
    later = sum(blocks[1:])
    trunk = r"backbone\.bottom_up\."
    return {
        trunk + r"stem\.conv1_[123]\.weight": 3,
        trunk + rf"stem\.conv1_[123]\.norm\.{frozen}": 12,
        trunk + r"res2\.\d+\.conv[13]\.weight": 2 * blocks[0],
        trunk + rf"res2\.\d+\.(conv[13]\.norm|conv2\.bn[01])\.{frozen}": 16 * blocks[0],
        trunk + r"res2\.0\.shortcut\.weight": 1,
        trunk + rf"res2\.0\.shortcut\.norm\.{frozen}": 4,
        trunk + rf"res[2-5]\.\d+\.conv2\.fc[12]\.{affine}": 4 * sum(blocks),
        trunk + r"res[2-5]\.\d+\.conv2\.conv\.weight": sum(blocks),
        trunk + r"res[3-5]\.\d+\.conv[13]\.weight": 2 * later,
        trunk + rf"res[3-5]\.\d+\.(conv[13]\.norm|conv2\.bn[01])\.{learned}": 20 * later,
        trunk + r"res[3-5]\.0\.shortcut\.weight": 3,
        trunk + rf"res[3-5]\.0\.shortcut\.norm\.{learned}": 15,
        r"backbone\.fpn_(lateral|output)[2-5]\.weight": 8,
        rf"backbone\.fpn_(lateral|output)[2-5]\.norm\.{learned}": 40,
        r"proposal_generator\.anchor_generator\.cell_anchors\.[0-4]": 5,
        rf"proposal_generator\.rpn_head\.(conv|objectness_logits|anchor_deltas)\.{affine}": 6,
        r"roi_heads\.box_head\.[0-2]\.conv[1-4]\.weight": 12,
        rf"roi_heads\.box_head\.[0-2]\.conv[1-4]\.norm\.{learned}": 60,
        rf"roi_heads\.box_head\.[0-2]\.fc1\.{affine}": 6,
        rf"roi_heads\.box_predictor\.[0-2]\.(cls_score|bbox_pred)\.{affine}": 12,
        r"roi_heads\.mask_head\.mask_fcn[1-8]\.weight": 8,
        rf"roi_heads\.mask_head\.mask_fcn[1-8]\.norm\.{learned}": 40,
        rf"roi_heads\.mask_head\.(deconv|predictor)\.{affine}": 4,
    }


def test_names_are_those_of_the_published_checkpoint(large):
    wanted = patterns((3, 24, 36, 3))
    found = Counter(
        next((pattern for pattern in wanted if re.fullmatch(pattern, name)), name) for name in large.state_dict()
    )
    assert found == wanted


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("backbone.bottom_up.stem.conv1_3.weight", (128, 64, 3, 3)),
        ("backbone.bottom_up.res5.0.shortcut.weight", (2048, 1024, 1, 1)),
        ("backbone.bottom_up.res4.35.conv2.conv.weight", (512, 128, 3, 3)),
        ("backbone.bottom_up.res2.0.conv2.fc1.weight", (32, 64, 1, 1)),
        ("backbone.bottom_up.res5.2.conv2.fc2.bias", (1024,)),
        ("backbone.fpn_lateral5.weight", (256, 2048, 1, 1)),
        ("proposal_generator.anchor_generator.cell_anchors.4", (3, 4)),
        ("proposal_generator.rpn_head.objectness_logits.weight", (3, 256, 1, 1)),
        ("proposal_generator.rpn_head.anchor_deltas.weight", (12, 256, 1, 1)),
        ("roi_heads.box_head.2.fc1.weight", (1024, 12544)),
        ("roi_heads.box_predictor.0.cls_score.weight", (81, 1024)),
        ("roi_heads.box_predictor.1.bbox_pred.weight", (4, 1024)),
        ("roi_heads.mask_head.mask_fcn8.weight", (256, 256, 3, 3)),
        ("roi_heads.mask_head.deconv.weight", (256, 256, 2, 2)),
        ("roi_heads.mask_head.predictor.weight", (80, 256, 1, 1)),
    ],
)
def test_shapes_are_those_of_the_published_checkpoint(large, name, shape):
    assert large.state_dict()[name].shape == shape


def test_shapes_of_a_livecell_image(large):
    with torch.device("meta"):
        out = large.eval()(torch.empty(1, 3, 512, 704))
        assert large.boxes(2, torch.empty(300, 256, 7, 7)).scores.shape == (300, 81)
        assert large.boxes(2, torch.empty(300, 256, 7, 7)).deltas.shape == (300, 4)
        assert large.masks(torch.empty(300, 256, 14, 14)).shape == (300, 80, 28, 28)
    grid = [(128, 176), (64, 88), (32, 44), (16, 22), (8, 11)]
    assert [tuple(level.shape) for level in out.pyramid] == [(1, 256, *size) for size in grid]
    assert [tuple(level.shape) for level in out.objectness.logits] == [(1, 3, *size) for size in grid]
    assert [tuple(level.shape) for level in out.objectness.deltas] == [(1, 12, *size) for size in grid]


def test_trunks_and_names_agree():
    assert set(BLOCKS) == set(get_args(TrunkName))


@pytest.mark.parametrize("trunk", get_args(TrunkName))
def test_every_trunk_fits_the_pyramid(trunk):
    with torch.device("meta"):
        network = Detector(dataclasses.replace(TINY_CASCADE, trunk=trunk)).eval()
        assert [level.shape[2] for level in network.features(torch.empty(1, 3, 64, 64))] == [16, 8, 4, 2, 1]


@pytest.mark.parametrize("changes", [{}, {"head_norm": "group-norm"}, {"cascade_stages": 1, "box_convs": 0}])
def test_a_tiny_detector_learns_in_every_part(changes):
    network = tiny(**changes).train()
    dense = network(image(2, 3, 64, 96))
    pooled = dense.pyramid[0]
    loss = sum(m.square().mean() for m in [*dense.objectness.logits, *dense.objectness.deltas])
    for stage in range(network.spec.cascade_stages):
        boxes = network.boxes(stage, pooled[:, :, :7, :7])
        loss = loss + boxes.scores.square().mean() + boxes.deltas.square().mean()
    loss = loss + network.masks(pooled[:, :, :14, :14]).square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("changes", [{}, {"trunk": "resnet-tiny", "norm": "frozen-bn", "head_norm": "none"}])
def test_inference_in_one_pass_equals_the_layers_in_turn(changes):
    network, x = tiny(**changes).eval(), image(1, 3, 64, 96)
    slow = network(x)
    pooled = image(3, 16, 14, 14)
    heads = [*network.boxes(1, pooled[:, :, :7, :7]), network.masks(pooled)]
    with torch.no_grad():
        fast = network(x)
        fast_heads = [*network.boxes(1, pooled[:, :, :7, :7]), network.masks(pooled)]
    pairs = [*zip(fast.pyramid, slow.pyramid, strict=True), *zip(fast_heads, heads, strict=True)]
    pairs += [*zip(fast.objectness.logits, slow.objectness.logits, strict=True)]
    for one_pass, layers in pairs:
        assert layers.requires_grad
        torch.testing.assert_close(one_pass, layers.detach(), rtol=1e-4, atol=1e-5)


def test_no_region_gives_no_word():
    network = tiny().train()
    boxes, masks = network.boxes(0, torch.zeros(0, 16, 7, 7)), network.masks(torch.zeros(0, 16, 14, 14))
    assert (boxes.scores.shape, boxes.deltas.shape, masks.shape) == ((0, 2), (0, 4), (0, 1, 28, 28))
    with torch.no_grad():
        assert network.eval().masks(torch.zeros(0, 16, 14, 14)).shape == (0, 1, 28, 28)


def test_a_box_head_reads_channels_whatever_their_order_in_memory():
    torch.manual_seed(0)
    head, x = ConvBoxHead(4, 8, convs=0, norm="none").eval(), image(2, 4, 7, 7)
    expected = x.reshape(2, -1)
    for layer in (head.fc1, head.fc2):
        expected = (expected @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(head(x.contiguous(memory_format=torch.channels_last)), expected)


def test_a_mask_head_doubles_the_side_by_four_weights_a_pixel():
    torch.manual_seed(0)
    head, x = MaskHead(3, 2, convs=1, norm="none").eval(), image(1, 3, 14, 14)
    y = head.mask_fcn1(x)
    up = torch.zeros(1, 3, 28, 28)
    for row in range(28):
        for column in range(28):
            weight = head.deconv.weight[:, :, row % 2, column % 2]  # (inputs, outputs)
            up[0, :, row, column] = y[0, :, row // 2, column // 2] @ weight + head.deconv.bias
    expected = torch.einsum("oc,bchw->bohw", head.predictor.weight[:, :, 0, 0], up.clamp(min=0))
    torch.testing.assert_close(head(x), expected + head.predictor.bias[:, None, None])


def test_first_proposals_are_near_even():
    torch.manual_seed(0)
    head = RPNHead(16, 3)
    logits, deltas = head(image(1, 16, 8, 8))
    assert (logits.shape, deltas.shape) == ((1, 3, 8, 8), (1, 12, 8, 8))
    assert max(logits.abs().max(), deltas.abs().max()) < 0.05
    assert head.conv.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_a_level_that_proposes_twice_gives_the_same_maps_twice():
    # LIVECell's detector: six sizes, P2 for the two smallest
    sizes, ratios = (4, 9, 17, 31, 64, 127), (0.25, 0.5, 1, 2, 4)
    network = tiny(anchor_sizes=sizes, anchor_ratios=ratios, anchor_levels=(2, 2, 3, 4, 5, 6)).eval()
    objectness = network(image(1, 3, 64, 64)).objectness
    assert [m.shape[1:] for m in objectness.logits] == [(5, s, s) for s in (16, 16, 8, 4, 2, 1)]
    assert objectness.deltas[0] is objectness.deltas[1]
    anchors = network.proposal_generator.anchor_generator.anchors()
    assert [len(level) for level in anchors] == [5] * 6
    for size, level in zip(sizes, anchors, strict=True):
        extent = level[:, 2:] - level[:, :2]
        torch.testing.assert_close(extent.prod(1), torch.full((5,), float(size**2)))
        torch.testing.assert_close(extent[:, 1] / extent[:, 0], torch.tensor(ratios))
        torch.testing.assert_close(level[:, :2], -level[:, 2:])


def test_anchors_of_coco():
    side = 32 / math.sqrt(2)
    flat, square, tall = cell_anchors((32,), (0.5, 1, 2)).tolist()
    assert flat == pytest.approx([-side, -side / 2, side, side / 2])
    assert square == [-16, -16, 16, 16]
    assert tall == pytest.approx([-side / 2, -side, side / 2, side])


def test_the_trunk_sees_the_mean_of_the_stages_gradients():
    network = tiny(freeze_at=5, head_norm="none")
    gradients = []
    for stages in ([0], [0, 0, 0]):  # three times the same head has the gradient of one
        pooled = image(2, 16, 7, 7).requires_grad_()
        sum(network.boxes(stage, pooled).scores.sum() for stage in stages).backward()
        gradients.append(pooled.grad)
    single = image(2, 16, 7, 7).requires_grad_()
    heads = network.roi_heads
    heads.box_predictor[0](heads.box_head[0](single)).scores.sum().backward()
    torch.testing.assert_close(gradients[0] * 3, single.grad)
    torch.testing.assert_close(gradients[1], single.grad)


def test_only_the_gradient_is_scaled():
    x = torch.ones(3, requires_grad=True)
    y = scale_gradient(x, 0.25)
    y.sum().backward()
    assert y.tolist() == [1, 1, 1]
    assert x.grad.tolist() == [0.25] * 3
    assert scale_gradient(x, 1) is x


def test_checkpointing_and_freezing_reach_the_trunk():
    trunk = build_trunk(dataclasses.replace(TINY_CASCADE, checkpointing=True, freeze_at=1))
    assert trunk.checkpointing
    assert not any(p.requires_grad for p in trunk.stem.parameters())
    assert all(p.requires_grad for p in trunk.res2.parameters())


def test_other_channels_and_sizes_name_the_repair():
    with pytest.raises(ModelError, match="takes 3 channels, but the image has 1"):
        tiny()(torch.zeros(1, 1, 64, 64))
    with pytest.raises(ModelError, match="pad images to multiples of 32 pixels"):
        tiny()(torch.zeros(1, 3, 64, 65))


def test_a_specification_survives_its_dictionary():
    spec = dataclasses.replace(RESNEST_50_CASCADE, classes=1, anchor_sizes=(4, 8, 16, 32, 64))
    assert DetectorSpec.from_dict(spec.to_dict()) == spec
    assert RESNEST_200_CASCADE == DetectorSpec()
    assert spec.anchors_per_cell == 3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"norm": "none"}, r"a trunk without normalisation does not train \(norm: bn, sync-bn"),
        ({"cascade_stages": 2}, r"2 cascade stages \(1 or 3\)"),
        ({"freeze_at": 6}, r"freeze_at 6 \(0 \(nothing\) to 5 \(the whole trunk\)\)"),
        ({"classes": 0}, "a size below 1"),
        ({"box_convs": -1}, "a size below 1"),
        ({"anchor_ratios": ()}, "anchors without extent"),
        ({"anchor_sizes": (0, 1, 2, 3, 4)}, "anchors without extent"),
        ({"anchor_sizes": (32, 64)}, r"2 anchor sizes for 5 anchor levels \(give one size a level\)"),
        ({"anchor_levels": (1, 2, 3, 4, 5)}, r"anchor levels \(1, 2, 3, 4, 5\) \(levels are 2 to 6\)"),
    ],
)
def test_a_specification_that_no_detector_has_is_refused(changes, text):
    with pytest.raises(ModelError, match=text):
        DetectorSpec(**changes)


def test_normalisations_of_trunk_and_heads_are_chosen_apart():
    network = on_meta(dataclasses.replace(TINY_CASCADE, norm="sync-bn", head_norm="none"))
    kinds = {type(m) for m in network.roi_heads.modules()} | {type(network.backbone.fpn_output2.norm)}
    assert not kinds & {nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm}
    assert network.roi_heads.mask_head.mask_fcn1.bias is not None
    assert isinstance(network.backbone.bottom_up.res2[0].conv1.norm, nn.SyncBatchNorm)
