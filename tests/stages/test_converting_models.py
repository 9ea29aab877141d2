"""Files of others become models: names and shapes as they are published, most of them narrower."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from cellkit.config import NetworkSpec, PrecisionName
from cellkit.engine import open_device
from cellkit.errors import ModelError
from cellkit.io.checkpoints import save_checkpoint
from cellkit.io.detections import ObjectPrediction
from cellkit.networks.detector_spec import LEVELS, RESNEST_200_CASCADE, DetectorSpec
from cellkit.stages.arrays import as_image
from cellkit.stages.converting_models import convert_weights
from cellkit.stages.model import load_model
from cellkit.stages.prediction import Command, PredictSettings, prepare, run_network

WIDTH, PYRAMID, HIDDEN = 8, 16, 24
CELL_ANCHORS = ((4, 9, 17, 31, 64, 127), (0.25, 0.5, 1.0, 2.0, 4.0))
COCO_ANCHORS = ((32, 64, 128, 256, 512), (0.5, 1.0, 2.0))


def weight(*shape):
    return torch.randn(shape) * (2 / max(1, int(np.prod(shape[1:])))) ** 0.5


def norm(name, channels, counted=True):
    state = {f"{name}.{part}": torch.ones(channels) for part in ("weight", "running_var")}
    state |= {f"{name}.{part}": torch.zeros(channels) for part in ("bias", "running_mean")}
    return state | ({f"{name}.num_batches_tracked": torch.tensor(5)} if counted else {})


def affine(name, *shape):
    return {f"{name}.weight": weight(*shape), f"{name}.bias": torch.zeros(shape[0])}


def split_attention(name, width, counted):
    inside = max(width // 2, 32)
    state = {f"{name}.conv.weight": weight(2 * width, width // 2, 3, 3)}
    state |= norm(f"{name}.bn0", 2 * width, counted) | norm(f"{name}.bn1", inside, counted)
    return state | affine(f"{name}.fc1", inside, width, 1, 1) | affine(f"{name}.fc2", 2 * width, inside, 1, 1)


def torch_trunk(blocks, width=WIDTH, split=False, basic=False, counted=True, classes=1000):
    """ResNet of torchvision, or with ``split`` of the ResNeSt package."""
    if split:
        stem = width // 2 if blocks == (3, 4, 6, 3) else width
        inputs = 2 * stem
        state = {"conv1.0.weight": weight(stem, 3, 3, 3)} | norm("conv1.1", stem)
        state |= {"conv1.3.weight": weight(stem, stem, 3, 3)} | norm("conv1.4", stem)
        state |= {"conv1.6.weight": weight(inputs, stem, 3, 3)} | norm("bn1", inputs)
    else:
        inputs, state = width, {"conv1.weight": weight(width, 3, 7, 7)} | norm("bn1", width, counted)
    for layer, count in enumerate(blocks, 1):
        own_width = width * 2 ** (layer - 1)
        outputs = own_width if basic else 4 * own_width
        for index in range(count):
            own = f"layer{layer}.{index}"
            kernel = 3 if basic else 1
            state |= {f"{own}.conv1.weight": weight(own_width, inputs, kernel, kernel)}
            state |= norm(f"{own}.bn1", own_width, counted)
            if split:
                state |= split_attention(f"{own}.conv2", own_width, counted)
            else:
                state |= {f"{own}.conv2.weight": weight(own_width, own_width, 3, 3)}
                state |= norm(f"{own}.bn2", own_width, counted)
            if not basic:
                state |= {f"{own}.conv3.weight": weight(outputs, own_width, 1, 1)} | norm(
                    f"{own}.bn3", outputs, counted
                )
            if inputs != outputs:
                place = 1 if split else 0  # the pooling comes before
                state |= {f"{own}.downsample.{place}.weight": weight(outputs, inputs, 1, 1)}
                state |= norm(f"{own}.downsample.{place + 1}", outputs, counted)
            inputs = outputs
    return state | affine("fc", classes, inputs)


def detectron_trunk(blocks, width=WIDTH, split=True, frozen=2):
    """Of detectron2, whose stem and first stages are frozen: their norms count no batches."""
    state, own = {}, "backbone.bottom_up.stem.conv1"
    if split:
        stem = width // 2 if blocks == (3, 4, 6, 3) else width
        inputs = 2 * stem
        for index, shape in enumerate(((stem, 3), (stem, stem), (inputs, stem)), 1):
            state |= {f"{own}_{index}.weight": weight(*shape, 3, 3)} | norm(f"{own}_{index}.norm", shape[0], frozen < 1)
    else:
        inputs = width
        state |= {f"{own}.weight": weight(width, 3, 7, 7)} | norm(f"{own}.norm", width, frozen < 1)
    for stage, count in enumerate(blocks, 2):
        own_width, counted = width * 2 ** (stage - 2), frozen < stage
        for index in range(count):
            own = f"backbone.bottom_up.res{stage}.{index}"
            if not index:
                state |= {f"{own}.shortcut.weight": weight(4 * own_width, inputs, 1, 1)}
                state |= norm(f"{own}.shortcut.norm", 4 * own_width, counted)
            state |= {f"{own}.conv1.weight": weight(own_width, inputs, 1, 1)} | norm(
                f"{own}.conv1.norm", own_width, counted
            )
            if split:
                state |= split_attention(f"{own}.conv2", own_width, counted)
            else:
                state |= {f"{own}.conv2.weight": weight(own_width, own_width, 3, 3)}
                state |= norm(f"{own}.conv2.norm", own_width, counted)
            state |= {f"{own}.conv3.weight": weight(4 * own_width, own_width, 1, 1)}
            state |= norm(f"{own}.conv3.norm", 4 * own_width, counted)
            inputs = 4 * own_width
    return state


def cell_anchors(sizes, ratios):
    """Literal: of each level one box of size^2 pixels for each height / width."""
    state = {}
    for level, size in enumerate(sizes):
        sides = [(size / ratio**0.5, size * ratio**0.5) for ratio in ratios]
        boxes = [(-w / 2, -h / 2, w / 2, h / 2) for w, h in sides]
        state[f"proposal_generator.anchor_generator.cell_anchors.{level}"] = torch.tensor(boxes)
    return state


def cascade(blocks, masks, width=WIDTH, pyramid=PYRAMID, hidden=HIDDEN, classes=3, anchors=COCO_ANCHORS):
    """mask_cascade_rcnn_ResNeSt of detectron2-ResNeSt: SyncBN everywhere, stem and res2 frozen."""
    state = detectron_trunk(blocks, width)
    for level in range(2, 6):
        for kind, shape in (("lateral", (4 * width * 2 ** (level - 2), 1, 1)), ("output", (pyramid, 3, 3))):
            own = f"backbone.fpn_{kind}{level}"
            state |= {f"{own}.weight": weight(pyramid, *shape)} | norm(f"{own}.norm", pyramid)
    count, rpn = len(anchors[1]), "proposal_generator.rpn_head"
    state |= cell_anchors(*anchors) | affine(f"{rpn}.conv", pyramid, pyramid, 3, 3)
    state |= affine(f"{rpn}.objectness_logits", count, pyramid, 1, 1)
    state |= affine(f"{rpn}.anchor_deltas", 4 * count, pyramid, 1, 1)
    for stage in range(3):
        for conv in range(1, 5):
            own = f"roi_heads.box_head.{stage}.conv{conv}"
            state |= {f"{own}.weight": weight(pyramid, pyramid, 3, 3)} | norm(f"{own}.norm", pyramid)
        state |= affine(f"roi_heads.box_head.{stage}.fc1", hidden, 49 * pyramid)
        state |= affine(f"roi_heads.box_predictor.{stage}.cls_score", classes + 1, hidden)
        state |= affine(f"roi_heads.box_predictor.{stage}.bbox_pred", 4, hidden)
    for conv in range(1, masks + 1):
        own = f"roi_heads.mask_head.mask_fcn{conv}"
        state |= {f"{own}.weight": weight(pyramid, pyramid, 3, 3)} | norm(f"{own}.norm", pyramid)
    state |= affine("roi_heads.mask_head.deconv", pyramid, pyramid, 2, 2)
    state |= affine("roi_heads.mask_head.predictor", classes, pyramid, 1, 1)
    timid = ("bbox_pred.weight", "anchor_deltas.weight", "cls_score.weight")  # else all boxes leave the image
    return {name: value / 1000 if name.endswith(timid) else value for name, value in state.items()}


def mask_rcnn_of_detectron(classes=2, agnostic=False):
    """mask_rcnn_R_50_FPN of detectron2's zoo: frozen norms, two fully connected layers, means in blue, green, red."""
    state = detectron_trunk((3, 4, 6, 3), split=False, frozen=5)
    for level in range(2, 6):
        state |= affine(f"backbone.fpn_lateral{level}", PYRAMID, 4 * WIDTH * 2 ** (level - 2), 1, 1)
        state |= affine(f"backbone.fpn_output{level}", PYRAMID, PYRAMID, 3, 3)
    rpn = "proposal_generator.rpn_head"
    state |= affine(f"{rpn}.conv", PYRAMID, PYRAMID, 3, 3) | affine(f"{rpn}.objectness_logits", 3, PYRAMID, 1, 1)
    state |= affine(f"{rpn}.anchor_deltas", 12, PYRAMID, 1, 1)
    state |= affine("roi_heads.box_head.fc1", HIDDEN, 49 * PYRAMID) | affine("roi_heads.box_head.fc2", HIDDEN, HIDDEN)
    state |= affine("roi_heads.box_predictor.cls_score", classes + 1, HIDDEN)
    state |= affine("roi_heads.box_predictor.bbox_pred", 4 if agnostic else 4 * classes, HIDDEN)
    for conv in range(1, 5):
        state |= affine(f"roi_heads.mask_head.mask_fcn{conv}", PYRAMID, PYRAMID, 3, 3)
    state |= affine("roi_heads.mask_head.deconv", PYRAMID, PYRAMID, 2, 2)
    state |= affine("roi_heads.mask_head.predictor", classes, PYRAMID, 1, 1)
    pixels = {"pixel_mean": [103.53, 116.28, 123.675], "pixel_std": [1.0, 1.0, 1.0]}
    return state | {name: torch.tensor(values).view(3, 1, 1) for name, values in pixels.items()}


def mask_rcnn_of_torchvision(classes=4):
    """maskrcnn_resnet50_fpn: background is the first category, frozen norms."""
    trunk = torch_trunk((3, 4, 6, 3), counted=False)
    state = {f"backbone.body.{name}": value for name, value in trunk.items() if not name.startswith("fc.")}
    for level in range(4):
        state |= affine(f"backbone.fpn.inner_blocks.{level}.0", PYRAMID, 4 * WIDTH * 2**level, 1, 1)
        state |= affine(f"backbone.fpn.layer_blocks.{level}.0", PYRAMID, PYRAMID, 3, 3)
        state |= affine(f"roi_heads.mask_head.{level}.0", PYRAMID, PYRAMID, 3, 3)
    state |= affine("rpn.head.conv.0.0", PYRAMID, PYRAMID, 3, 3) | affine("rpn.head.cls_logits", 3, PYRAMID, 1, 1)
    state |= affine("rpn.head.bbox_pred", 12, PYRAMID, 1, 1)
    state |= affine("roi_heads.box_head.fc6", HIDDEN, 49 * PYRAMID) | affine("roi_heads.box_head.fc7", HIDDEN, HIDDEN)
    state |= affine("roi_heads.box_predictor.cls_score", classes + 1, HIDDEN)
    state |= affine("roi_heads.box_predictor.bbox_pred", 4 * (classes + 1), HIDDEN)
    state |= affine("roi_heads.mask_predictor.conv5_mask", PYRAMID, PYRAMID, 2, 2)
    return state | affine("roi_heads.mask_predictor.mask_fcn_logits", classes + 1, PYRAMID, 1, 1)


def moco(state, version=2):
    """A file of MoCo: both encoders under ``module.``, and the queue."""
    trunk = {name: value for name, value in state.items() if not name.startswith("fc.")}
    head = affine("fc.0", 32, 32) | affine("fc.2", 128, 32) if version == 2 else affine("fc", 128, 32)
    both = {f"module.encoder_{kind}.{name}": v for kind in "qk" for name, v in (trunk | head).items()}
    queue = {"module.queue": torch.randn(128, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": both | queue,
        "optimizer": {"state": {}, "param_groups": []},
    }


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def converted(tmp_path):
    """A function from what a file holds to the model it becomes."""

    def convert(content, name="model.pth"):
        if name.endswith(".pkl"):
            arrays = {key: value.numpy() for key, value in content.items()}
            (tmp_path / name).write_bytes(pickle.dumps({"model": arrays, "__author__": "zoo"}))
        else:
            torch.save(content, tmp_path / name)
        return convert_weights(tmp_path / name)

    return convert


def spec_in(found) -> DetectorSpec:
    return DetectorSpec.from_dict(found.checkpoint.network.settings)


@pytest.mark.parametrize(
    ("blocks", "changes", "trunk"),
    [
        ((3, 4, 6, 3), {"split": True}, "resnest-50"),
        ((3, 4, 23, 3), {"split": True, "width": 4}, "resnest-101"),
        ((3, 4, 6, 3), {}, "resnet-50"),
        ((2, 2, 2, 2), {"basic": True}, "resnet-18"),
        ((3, 4, 6, 3), {"basic": True}, "resnet-34"),
    ],
)
def test_a_trunk_of_imagenet_is_that_of_a_detector(converted, blocks, changes, trunk):
    state = torch_trunk(blocks, **changes)
    found = converted(state)
    width = changes.get("width", WIDTH)
    spec = spec_in(found)
    assert (spec.trunk, spec.width, spec.channels, spec.freeze_at, spec.classes) == (trunk, width, 3, 0, 1)
    assert spec.mean == pytest.approx((0.485, 0.456, 0.406))
    assert spec.std == pytest.approx((0.229, 0.224, 0.225), abs=1e-4)
    assert set(found.translation.dropped) == {"fc.weight", "fc.bias"}
    assert not any("bottom_up" in name for name in found.translation.missing)
    weights = found.checkpoint.weights
    assert torch.equal(weights["backbone.bottom_up.res4.1.conv1.weight"], state["layer3.1.conv1.weight"])
    assert found.checkpoint.card["limits"] == "finds nothing before it is fine-tuned"
    assert found.checkpoint.preprocessing.normalisation == "range"


@pytest.mark.parametrize("version", [1, 2])
def test_the_query_encoder_of_moco(converted, version):
    state = torch_trunk((3, 4, 6, 3))
    found = converted(moco(state, version))
    assert spec_in(found).trunk == "resnet-50"
    assert torch.equal(
        found.checkpoint.weights["backbone.bottom_up.res2.0.shortcut.weight"], state["layer1.0.downsample.0.weight"]
    )
    dropped = found.translation.dropped
    assert dropped["queue"] == "the queue belongs to the training that is over"
    assert dropped["encoder_k.conv1.weight"] == "the key encoder is a mean of the query encoder"
    assert not any("bottom_up" in name for name in found.translation.missing)


@pytest.mark.parametrize(
    ("blocks", "masks", "trunk"), [((3, 4, 6, 3), 4, "resnest-50"), ((3, 24, 36, 3), 8, "resnest-200")]
)
@pytest.mark.parametrize(("anchors", "levels"), [(COCO_ANCHORS, LEVELS), (CELL_ANCHORS, (2, 2, 3, 4, 5, 6))])
def test_a_whole_cascade(converted, blocks, masks, trunk, anchors, levels):
    state = cascade(blocks, masks, width=4, anchors=anchors)
    found = converted({"model": state})
    mean, std = (tuple(v / 255 for v in values) for values in ((123.68, 116.779, 103.939), (58.393, 57.12, 57.375)))
    assert spec_in(found) == DetectorSpec(
        trunk=trunk, width=4, pyramid=PYRAMID, hidden=HIDDEN, freeze_at=2, classes=3, anchor_sizes=anchors[0],
        anchor_ratios=anchors[1], anchor_levels=levels, mask_convs=masks, mean=mean, std=std,
    )  # fmt: skip
    assert not found.translation.missing
    assert set(found.translation.dropped) == {name for name in state if ".cell_anchors." in name}
    assert found.checkpoint.card["categories"] == ["category 1", "category 2", "category 3"]
    assert "limits" not in found.checkpoint.card
    for name, value in state.items():
        assert torch.allclose(found.checkpoint.weights[name].double(), value.double(), atol=1e-4), name
    statuses = {row.status for row in found.rows()}
    assert statuses == {"mapped", "dropped"}


@pytest.mark.parametrize("name", ["model.pth", "model_final.pkl"])
def test_weights_for_blue_green_red_take_red_green_blue(converted, name):
    state = mask_rcnn_of_detectron(agnostic=True)
    found = converted(state, name)
    stem = found.checkpoint.weights["backbone.bottom_up.stem.conv1.weight"]
    assert torch.equal(stem, state["backbone.bottom_up.stem.conv1.weight"][:, [2, 1, 0]])
    spec = spec_in(found)
    assert spec.mean == pytest.approx((123.675 / 255, 116.28 / 255, 103.53 / 255))
    assert spec.std == pytest.approx((1 / 255,) * 3)
    assert (spec.norm, spec.head_norm, spec.cascade_stages, spec.box_convs, spec.mask_convs) == (
        "frozen-bn",
        "none",
        1,
        0,
        4,
    )
    assert (spec.classes, spec.anchor_sizes, spec.freeze_at) == (2, COCO_ANCHORS[0], 2)
    assert not found.translation.missing
    assert set(found.translation.dropped) == {"pixel_mean", "pixel_std"}


def test_boxes_of_each_category_are_dropped_and_said(converted):
    found = converted(mask_rcnn_of_detectron())
    assert (
        found.translation.dropped["roi_heads.box_predictor.bbox_pred.weight"] == "shape (8, 24), the model has (4, 24)"
    )
    assert found.checkpoint.card["limits"] == "fine-tune it: a part is at random"
    assert [row.name for row in found.rows() if row.status == "random"] == [
        "roi_heads.box_predictor.0.bbox_pred.weight",
        "roi_heads.box_predictor.0.bbox_pred.bias",
    ]


def test_mask_rcnn_of_torchvision(converted):
    state = mask_rcnn_of_torchvision()
    found = converted(state)
    spec = spec_in(found)
    assert (spec.trunk, spec.norm, spec.head_norm, spec.classes, spec.mask_convs) == (
        "resnet-50",
        "frozen-bn",
        "none",
        4,
        4,
    )
    scores = found.checkpoint.weights["roi_heads.box_predictor.0.cls_score.weight"]
    assert torch.equal(scores, state["roi_heads.box_predictor.cls_score.weight"][[1, 2, 3, 4, 0]])
    assert spec.mean == pytest.approx((0.485, 0.456, 0.406))


def changed(**weights):
    return cascade((3, 4, 6, 3), 4, width=4) | {name.replace("__", "."): value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (
            changed(backbone__bottom_up__res3__0__conv2_offset__weight=torch.zeros(54, 4, 3, 3)),
            "has deformable convolutions (conv2_offset), which these networks do not compute "
            "(convert a checkpoint without 'dcn' in its name)",
        ),
        (
            torch_trunk((3, 8, 36, 3)),
            "its trunk of 3-8-36-3 blocks is none that is known (known are resnet-18, resnet-34, resnet-50, "
            "resnet-101, resnet-tiny, resnest-50, resnest-101, resnest-200, resnest-tiny)",
        ),
        (
            {"encoder.weight": torch.zeros(3)},
            "holds weights of no network that can be converted (known are ResNet and ResNeSt of ImageNet, MoCo, "
            "detectron2's detectors and torchvision's Mask R-CNN)",
        ),
        (
            torch_trunk((3, 4, 6, 3)) | {"layer1.0.conv2.weight": torch.zeros(WIDTH, 1, 3, 3)},
            "has grouped convolutions (ResNeXt), which these networks do not compute",
        ),
        (detectron_trunk((3, 4, 6, 3)), "has no proposal network (give a whole checkpoint)"),
        (
            changed(proposal_generator__anchor_generator__cell_anchors__0=torch.tensor([[0.0, 0, 1, 1], [0, 0, 4, 4]])),
            "has anchors of several sizes at one level, which these networks do not have",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_converted(converted, tmp_path, state, text):
    with pytest.raises(ModelError) as error:
        converted(state)
    assert str(error.value) == f"{tmp_path / 'model.pth'}: {text}"


def predicted(path, image, precision: PrecisionName = "fp32"):
    model = load_model(path, open_device("cpu", precision))
    command = Command(
        verb="predict", model=model, settings=PredictSettings(), overrides={"least_score": 0.0, "most": 20}
    )
    (found,) = run_network([prepare(as_image(image), model, command.settings, ())], command)
    assert isinstance(found, ObjectPrediction)
    return found


def test_a_converted_model_is_saved_loaded_and_used(converted, tmp_path):
    found = converted(cascade((3, 4, 6, 3), 4, width=4))
    save_checkpoint(tmp_path / "model.ckpt", found.checkpoint)
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    objects = predicted(tmp_path / "model.ckpt", image)
    assert objects.count == 20
    assert objects.names == ("category 1", "category 2", "category 3")
    assert np.isfinite(objects.boxes).all()


def test_of_a_trunk_the_rest_is_the_same_for_the_same_seed(tmp_path):
    torch.save(torch_trunk((2, 2, 2, 2), basic=True), tmp_path / "a.pth")
    one, same, other = (convert_weights(tmp_path / "a.pth", seed=seed).checkpoint.weights for seed in (1, 1, 2))
    name = "roi_heads.box_head.0.fc1.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


@pytest.mark.slow
def test_the_detector_of_cupre_from_a_file_with_its_names(converted, tmp_path):
    from cellkit.cli.showing import SAMPLES  # a real image
    from cellkit.io.images import read_images

    state = cascade((3, 24, 36, 3), 8, width=64, pyramid=256, hidden=1024, classes=80)
    for name in [name for name in state if name.endswith("conv3.norm.weight")]:
        state[name] = state[name] / 10  # else what is added in 66 blocks grows without bound
    found = converted({"model": state})
    mean, std = spec_in(found).mean, spec_in(found).std
    spec = RESNEST_200_CASCADE.to_dict() | {"mean": list(mean), "std": list(std)}
    assert found.checkpoint.network == NetworkSpec(name="detector", channels=3, outputs=0, widths=(), settings=spec)
    assert not found.translation.missing
    save_checkpoint(tmp_path / "cupre.ckpt", found.checkpoint)
    image = next(read_images(str(SAMPLES / "images" / "2cfa61bef6542dd3.png"))).pixels[:, :, :]
    objects = predicted(tmp_path / "cupre.ckpt", image, "auto")
    assert objects.count == 20
    assert np.isfinite(objects.boxes).all()
