"""Momentum contrast: the loss against a literal one, keys in groups, the key encoder, the queue, a run that goes on."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import tifffile
import torch

from cellkit.config import Preprocessing
from cellkit.data.moco_views import ViewBatch, ViewSet, ViewSettings
from cellkit.data.unlabelled import Deformation, UnlabelledSet
from cellkit.engine import FitSettings, RunFiles, fit, open_device
from cellkit.errors import UsageError
from cellkit.io.sources import find_sources
from cellkit.methods.moco import MoCo, contrast, projection_of
from cellkit.methods.moco_encoder import ImageEncoder
from cellkit.methods.moco_settings import MoCoSettings
from cellkit.networks.batch_unet import BatchUNet
from cellkit.networks.detector import Detector
from cellkit.networks.detector_spec import DetectorSpec
from cellkit.networks.residual_unet import StyleUNet

SIZE = 32
SMALL = MoCoSettings(projection=8, queue=8)
TINY = {
    "trunk": "resnet-tiny",
    "width": 4,
    "pyramid": 8,
    "hidden": 8,
    "channels": 1,
    "classes": 1,
    "box_convs": 1,
    "mask_convs": 1,
    "freeze_at": 0,
}


class Stripes:
    """Stripes of other widths and directions in each image, the steeper the later; their views have noise on them."""

    def __init__(self, images=32):
        y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
        angles, periods = torch.arange(images) % 8 * math.pi / 8, 2.5 + torch.arange(images) // 8 * 2.0
        down, right = torch.sin(angles)[:, None, None] * y, torch.cos(angles)[:, None, None] * x
        steep = torch.linspace(0.2, 3, images)[:, None, None]
        self.images = (steep * torch.sin(2 * math.pi * (down + right) / periods[:, None, None]))[:, None]

    def __len__(self):
        return len(self.images)

    def batches(self, start=0, *, batch=4, seed=0, rank=0, world_size=1):
        step = start
        while True:
            generator = torch.Generator().manual_seed(1000 * seed + step)
            chosen = torch.randperm(len(self.images), generator=generator)[:batch]
            pixels = self.images[chosen]
            noise = [0.1 * torch.randn(pixels.shape, generator=generator) for _ in range(2)]
            yield ViewBatch(pixels + noise[0], pixels + noise[1], seed=step)
            step += 1


def small_unet():
    torch.manual_seed(0)
    return StyleUNet(channels=1, outputs=3, widths=(4, 8))


def tiny_detector(**spec):
    torch.manual_seed(0)
    return Detector(DetectorSpec(**(TINY | spec)))


def made(network=None, settings=SMALL, batch=4, data=None):
    return MoCo(network or small_unet(), data or Stripes(), settings, batch=batch, seed=0)


def literal_loss(queries, keys, negatives, temperature):
    """Query by query, in Python's numbers; the positive is in the denominator."""
    total, right = 0.0, 0
    for query, key in zip(queries.tolist(), keys.tolist(), strict=True):
        others = [sum(a * b for a, b in zip(query, column, strict=True)) for column in negatives.T.tolist()]
        own = sum(a * b for a, b in zip(query, key, strict=True))
        whole = sum(math.exp(each / temperature) for each in [own, *others])
        total -= math.log(math.exp(own / temperature) / whole)
        right += own > max(others)
    return total / len(queries), right / len(queries)


@pytest.mark.parametrize("temperature", [0.2, 0.07])
def test_loss_equals_a_literal_computation(temperature):
    generator = torch.Generator().manual_seed(0)
    queries, keys, negatives = (torch.randn(*size, generator=generator) for size in ((5, 6), (5, 6), (6, 9)))
    queries = torch.nn.functional.normalize(queries, dim=1)
    keys = torch.nn.functional.normalize(queries + 0.6 * keys, dim=1)
    negatives = torch.nn.functional.normalize(negatives, dim=0)
    found = {name: term.item() for name, term in contrast(queries, keys, negatives, temperature).items()}
    loss, accuracy = literal_loss(queries, keys, negatives, temperature)
    assert found == pytest.approx({"contrast": loss, "accuracy": accuracy}, rel=1e-5)
    assert 0 < accuracy < 1


def test_negatives_that_are_the_positive_cost_the_logarithm_of_their_number():
    query = torch.tensor([[1.0, 0.0]])
    assert contrast(query, query, query.T.expand(2, 7), 0.1)["contrast"].item() == pytest.approx(math.log(8))


def literal_vectors(network, projection, images):
    """Encoder, mean over the map, projection, unit length."""
    features = network.encode(images).mean((2, 3))
    vectors = projection(features)
    return vectors / vectors.square().sum(1, keepdim=True).sqrt()


def test_losses_are_those_of_query_key_groups_and_queue():
    method = made()
    batch = next(method.batches(0))
    negatives = method.queue.keys.clone()
    query, key = copy.deepcopy(method.modules), copy.deepcopy(method.modules)
    found = {name: term.item() for name, term in method.losses(batch).items()}
    queries = literal_vectors(query, method.query.projection, batch.queries)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(batch.seed)).tolist()
    keys = torch.empty_like(queries)
    for group in (order[:2], order[2:]):  # each is normalised by itself
        keys[group] = literal_vectors(key, method.key.projection, batch.keys[group])
    loss, accuracy = literal_loss(queries, keys, negatives, 0.2)
    assert found == pytest.approx({"contrast": loss, "accuracy": accuracy}, rel=1e-4)
    whole = literal_vectors(copy.deepcopy(method.modules), method.key.projection, batch.keys)
    assert (whole - keys).abs().max() > 1e-3  # groups make a difference


def test_keys_have_no_gradient_and_decoder_none_either():
    method = made()
    sum(method.losses(next(method.batches(0))).values()).backward()
    assert all(weight.grad is None for weight in method.key.parameters())
    network = method.modules
    assert all(weight.grad is not None for weight in network.down.parameters())
    assert all(weight.grad is None for part in (network.up, network.head) for weight in part.parameters())
    owned = {id(weight) for group in method.parameter_groups() for weight in group["params"]}
    projection = list(method.query.projection.parameters())
    assert owned == {id(weight) for weight in (*network.down.parameters(), *projection)}


@pytest.mark.parametrize("network", [small_unet, lambda: BatchUNet(1, 2, (4, 8, 8)), tiny_detector])
def test_key_encoder_follows_the_weights_and_has_statistics_of_its_own(network):
    method = made(network(), MoCoSettings(projection=8, queue=8, key_momentum=0.75))
    batches = method.batches(0)
    method.losses(next(batches))
    before = [weight.clone() for weight in method.key.weights()]
    with torch.no_grad():
        for weight in method.query.weights():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    method.on_step_end(1)
    for old, new, query in zip(before, method.key.weights(), method.query.weights(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * query)
    assert len(before) == len(method.query.weights()) > 4
    buffers = {name: value for name, value in method.key.encoder.named_buffers() if name.endswith("running_mean")}
    queries = dict(method.query.encoder.named_buffers())
    assert buffers
    assert all(not torch.equal(value, queries[name]) for name, value in buffers.items())


def test_queue_holds_the_keys_of_the_steps_in_their_order():
    method = made(settings=MoCoSettings(projection=8, queue=12))
    pushed = []
    for step, batch in zip(range(5), method.batches(0), strict=False):
        method.losses(batch)
        pushed.append(method.fresh.clone())
        method.on_step_end(step + 1)
    assert torch.equal(method.queue.keys.T, torch.cat([pushed[3], pushed[4], pushed[2]]))
    assert method.queue.pointer == 5 * 4 % 12


def test_keys_come_back_in_the_order_of_their_crops():
    method = made(tiny_detector(norm="group-norm"))  # groups then make no difference
    batch = next(method.batches(0))
    method.losses(batch)
    torch.testing.assert_close(method.fresh, method.key(batch.keys))


def test_a_detector_learns_in_its_trunk_alone_and_sees_images_as_it_does_elsewhere():
    detector = tiny_detector(mean=(0.4,), std=(0.2,))
    method = made(detector)
    images = next(method.batches(0)).queries
    literal = detector.backbone.bottom_up((images - 0.4) / 0.2)[-1].mean((2, 3))
    torch.testing.assert_close(method.query.encoder(images), literal)
    owned = {id(weight) for group in method.parameter_groups() for weight in group["params"]}
    trunk = set(map(id, detector.backbone.bottom_up.parameters()))
    assert owned == trunk | set(map(id, method.query.projection.parameters()))
    assert len(list(method.key.encoder.parameters())) == len(trunk)  # of pyramid and heads there is no copy


def test_what_is_frozen_is_not_learned():
    detector = tiny_detector(freeze_at=2)
    method = made(detector)
    owned = {id(weight) for group in method.parameter_groups() for weight in group["params"]}
    assert not owned & {id(weight) for weight in detector.backbone.bottom_up.res2.parameters()}
    assert owned >= {id(weight) for weight in detector.backbone.bottom_up.res3.parameters()}


def test_versions_differ_in_projection_and_temperature():
    v1, v2 = (projection_of(6, MoCoSettings(version=version, projection=4), 0) for version in ("v1", "v2"))
    assert [tuple(weight.shape) for weight in v1.parameters()] == [(4, 6), (4,)]
    assert [tuple(weight.shape) for weight in v2.parameters()] == [(6, 6), (6,), (4, 6), (4,)]
    assert (MoCoSettings(version="v1").tau, MoCoSettings().tau, MoCoSettings(temperature=0.5).tau) == (0.07, 0.2, 0.5)


def test_projection_depends_on_the_seed_and_leaves_other_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first, again, other = (projection_of(6, SMALL, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)


def train(method, folder, steps, resume=None, **settings):
    states = []
    fit(
        method,
        FitSettings(**({"optimiser": "adam", "learning_rate": 3e-3, "schedule": "constant"} | settings), steps=steps),
        open_device("cpu", "fp32"),
        files=RunFiles(last=folder / "last", best=folder / "best", metrics=folder / "metrics.csv"),
        save=lambda path, weights, state: states.append((path.name, weights, state)),
        resume=resume,
        quiet=True,
    )
    return states[-1]


def test_loss_falls_once_the_queue_holds_keys(tmp_path):
    method = made(tiny_detector(), MoCoSettings(projection=16, key_momentum=0.9), batch=8)
    assert method.queue.keys.shape == (16, 16)
    train(method, tmp_path, 60, log_every=10)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("contrast")
    losses = [float(row.split(",")[column]) for row in rows[1:]]
    assert losses[-1] < 0.8 * losses[1]  # the first step alone has none but random negatives
    assert "accuracy" in rows[0]


def test_what_is_saved_is_the_network_alone(tmp_path):
    _, weights, state = train(made(), tmp_path, 2)
    assert set(weights) == set(small_unet().state_dict())
    assert set(state["method"]) == {"projection", "key", "queue"}


def test_a_run_that_goes_on_equals_one_that_was_not_interrupted(tmp_path):
    settings = {"save_every": 3}
    _, whole, _ = train(made(), tmp_path, 7, **settings)
    _, _, state = train(made(), tmp_path, 3, **settings)
    other = made()
    with torch.no_grad():
        other.query.projection[0].weight.zero_()  # all comes from the state
    _, resumed, last = train(other, tmp_path, 7, resume=state, **settings)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert last["method"]["queue"]["pointer"] == 7 * 4 % 8


def test_restarting_makes_the_key_encoder_the_query_encoder_and_keeps_the_queue():
    method = made(tiny_detector())
    for batch, step in zip(method.batches(0), range(2), strict=False):
        method.losses(batch)
        method.on_step_end(step + 1)
    with torch.no_grad():
        for weight in method.modules.parameters():
            weight.add_(0.3)
    queue = method.queue.keys.clone()
    method.restart()
    images = next(method.batches(5)).keys
    method.query.eval(), method.key.eval()
    torch.testing.assert_close(method.query(images), method.key(images))
    assert torch.equal(method.queue.keys, queue)


def test_real_views_are_learned_from(tmp_path):
    random = np.random.default_rng(0)
    for i in range(12):
        tifffile.imwrite(tmp_path / f"{i}.tif", random.integers(0, 4095, (50, 60)).astype(np.uint16))
    images = UnlabelledSet(find_sources([str(tmp_path)]), Preprocessing(channels=1), Deformation(crop=8))
    method = made(settings=MoCoSettings(projection=8), data=ViewSet(images, ViewSettings(view_size=32)))
    before = method.modules.down[0].project[1].weight.clone()
    _, weights, state = train(method, tmp_path, 3)
    assert not torch.equal(weights["down.0.project.1.weight"], before)
    assert state["method"]["queue"]["keys"].shape == (8, 4)  # half of the images, whole batches
    assert state["method"]["queue"]["pointer"] == 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: made(batch=3), r"key_groups: 2 groups of 3 keys have fewer than 2 \(give a larger batch, or fewer"),
        (
            lambda: made(tiny_detector(freeze_at=5)),
            r"freeze_at: nothing of the encoder is left to learn \(freeze less of it, e.g. 0\)",
        ),
        (
            lambda: made(torch.nn.Conv2d(1, 1, 1)),
            r"--network: Conv2d has no encoder that learns alone \(take a detector or a U-Net\)",
        ),
        (lambda: MoCoSettings(version="v3"), r"version: 'v3' is unknown \(choose from v2, v1\)"),
        (lambda: MoCoSettings(temperature=0), r"temperature: 0 is not above 0 \(e.g. 0.2\)"),
        (
            lambda: MoCoSettings(key_momentum=2),
            r"key_momentum: 2 is out of range \(give a number up to 1, e.g. 0.999\)",
        ),
        (lambda: MoCoSettings(queue=0), r"queue: 0 is none \(give 1 or more\)"),
    ],
)
def test_what_cannot_be_meant_is_refused(build, message):
    with pytest.raises(UsageError, match=message):
        build()


def test_statistics_can_be_held():
    network = small_unet().train()
    encoder = ImageEncoder(network)
    encoder.measure(measuring=False)
    norms = [module for module in network.down.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert all(module.training for module in network.up.modules())
    encoder.measure(measuring=True)
    assert all(module.training for module in network.modules())
