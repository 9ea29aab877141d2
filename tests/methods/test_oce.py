"""Object-centric embeddings: pairs, the loss against a slow literal one, and a toy world that is learnt."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch

from cellkit.config import Preprocessing
from cellkit.data.unlabelled import Deformation, UnlabelledBatch, UnlabelledSet
from cellkit.engine import Tiling, infer, open_device
from cellkit.errors import UsageError
from cellkit.io.sources import find_sources
from cellkit.methods.oce import ObjectCentric, draw_pairs, oce_loss
from cellkit.methods.oce_settings import OceSettings
from cellkit.networks import initialise
from cellkit.networks.mini_unet import MiniUNet
from cellkit.ops.noisy_passes import Noise, mean_and_spread
from cellkit.representations.embedding import EMBEDDING, EmbeddingSettings

CPU = torch.device("cpu")
BATCH, HEIGHT, WIDTH = 2, 30, 27
FEW = OceSettings(kappa=4.0, density=0.2)


def offsets_of(*shape):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def places(pairs, height=HEIGHT, width=WIDTH):
    """Anchors (B * A, 3) and references (B * A, R, 3) as crop, row, column."""
    return tuple(
        torch.stack([p // (height * width), p // width % height, p % width], -1).long()
        for p in (pairs.anchors, pairs.references)
    )


def literal_loss(offsets, pairs, settings):
    """Equation 5, pair by pair, in Python's numbers."""
    anchors, references = places(pairs)
    embedding = regulariser = 0.0
    for (b, y, x), own in zip(anchors.tolist(), references.tolist(), strict=True):
        anchor = offsets[b, :, y, x].tolist()
        for c, v, u in own:
            other = offsets[c, :, v, u].tolist()
            square = (y + anchor[0] - v - other[0]) ** 2 + (x + anchor[1] - u - other[1]) ** 2
            near = math.exp(-square / settings.temperature)
            embedding += 1 - near if settings.damping == "gaussian" else 1 / (1 + near)
            regulariser += settings.regularisation * math.hypot(*anchor)
    count = references[..., 0].numel() if settings.reduction == "mean" else 1
    return {"embedding": embedding / count, "regulariser": regulariser / count}


@pytest.mark.parametrize("damping", ["gaussian", "sigmoid"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_loss_equals_a_slow_literal_computation(damping, reduction):
    settings = OceSettings(
        kappa=4, density=0.1, temperature=7, regularisation=0.02, damping=damping, reduction=reduction
    )
    offsets = offsets_of(BATCH, 2, HEIGHT, WIDTH)
    pairs = draw_pairs((5, 6), (HEIGHT, WIDTH), settings, CPU)
    losses = {name: term.item() for name, term in oce_loss(offsets, pairs, settings).items()}
    assert losses == pytest.approx(literal_loss(offsets, pairs, settings), rel=1e-4)


@pytest.mark.parametrize("detach", [False, True])
def test_gradient_equals_that_of_a_literal_computation(detach):
    settings = OceSettings(kappa=3, density=0.1, temperature=7, regularisation=0.02, detach_reference=detach)
    ours, literal = (offsets_of(1, 2, 12, 11).double().requires_grad_() for _ in range(2))
    pairs = draw_pairs((5,), (12, 11), settings, CPU)
    sum(oce_loss(ours, pairs, settings).values()).backward()
    total = 0
    for (_, y, x), own in zip(*places(pairs, 12, 11), strict=True):
        for _, v, u in own:
            other = literal[0, :, v, u].detach() if detach else literal[0, :, v, u]
            difference = literal[0, :, y, x] - other + torch.stack([y - v, x - u])
            total = total + 1 - torch.exp(-(difference**2).sum() / 7) + 0.02 * literal[0, :, y, x].norm()
    total.backward()
    torch.testing.assert_close(ours.grad, literal.grad)


def test_embeddings_that_agree_cost_nothing():
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    middle = torch.stack([14 - y, 9 - x])[None].float()  # all pixels point to (14, 9)
    pairs = draw_pairs((1,), (HEIGHT, WIDTH), FEW, CPU)
    assert oce_loss(middle, pairs, FEW)["embedding"].item() == pytest.approx(0, abs=1e-3)
    apart = oce_loss(-middle, pairs, FEW)["embedding"].item()
    assert apart > 0.3 * pairs.references.numel()


def test_offsets_of_zero_have_a_finite_gradient():
    offsets = torch.zeros(1, 2, HEIGHT, WIDTH, requires_grad=True)
    settings = OceSettings(kappa=4, regularisation=1.0)
    oce_loss(offsets, draw_pairs((1,), (HEIGHT, WIDTH), settings, CPU), settings)["regulariser"].backward()
    assert torch.isfinite(offsets.grad).all()


def test_numbers_of_pairs_are_those_of_the_authors():
    pairs = draw_pairs((1, 2), (236, 236), OceSettings(), CPU)
    assert pairs.anchors.shape == (2 * 4665,)
    assert pairs.references.shape == (2 * 4665, 31)
    assert pairs.shifts.shape == (2, 2 * 4665, 31)


def test_references_lie_in_the_disc_around_their_anchor_and_in_its_crop():
    pairs = draw_pairs((7, 8), (HEIGHT, WIDTH), FEW, CPU)
    anchors, references = places(pairs)
    shifts = references - anchors[:, None]
    assert (shifts[..., 0] == 0).all()
    torch.testing.assert_close(shifts[..., 1:].permute(2, 0, 1).float(), pairs.shifts)
    squares = shifts[..., 1].square() + shifts[..., 2].square()
    assert set(squares.flatten().tolist()) == {1, 2, 4, 5, 8, 9, 10, 13, 16}  # all of radius 4, without the anchor
    assert anchors[:, 1].min() == 4
    assert anchors[:, 1].max() == HEIGHT - 5
    assert (anchors[:, 2].min(), anchors[:, 2].max()) == (4, WIDTH - 5)


def test_every_pixel_of_the_disc_is_as_likely_as_any_other():
    pairs = draw_pairs((7,), (200, 200), OceSettings(kappa=3, density=0.3), CPU)
    counts = torch.stack(list(pairs.shifts)).flatten(1).unique(dim=1, return_counts=True)[1].float()
    assert len(counts) == 28
    assert (counts / counts.mean() - 1).abs().max() < 0.1


def test_equal_seeds_give_equal_pairs_wherever_the_crop_is_in_its_batch():
    first = draw_pairs((3, 4), (HEIGHT, WIDTH), FEW, CPU)
    second = draw_pairs((4,), (HEIGHT, WIDTH), FEW, CPU)
    half = len(first.anchors) // 2
    assert torch.equal(first.anchors[half:] - HEIGHT * WIDTH, second.anchors)
    assert torch.equal(first.references[half:] - HEIGHT * WIDTH, second.references)
    assert not torch.equal(first.anchors[:half], second.anchors)


def test_losses_are_those_of_the_valid_maps_and_depend_on_the_seeds_of_the_batch():
    network = initialise(MiniUNet(widths=(4, 12)))
    method = ObjectCentric(network, SimpleNamespace(crop=60), FEW, batch=2, seed=0)
    images = torch.rand(2, 1, 60, 44, generator=torch.Generator().manual_seed(0))
    losses = method.losses(UnlabelledBatch(images, (1, 2)))
    pairs = draw_pairs((1, 2), (44, 28), FEW, CPU)
    expected = oce_loss(network.valid(images).maps, pairs, FEW)
    assert {n: v.item() for n, v in losses.items()} == {n: v.item() for n, v in expected.items()}
    assert method.losses(UnlabelledBatch(images, (1, 3)))["embedding"].item() != losses["embedding"].item()


def test_batches_are_asked_for_by_seed_and_step():
    asked = {}
    data = SimpleNamespace(crop=60, batches=lambda start, **options: asked.update(start=start, **options) or iter(()))
    method = ObjectCentric(MiniUNet(widths=(4, 12)), data, FEW, batch=8, seed=3)
    assert list(method.batches(5)) == []
    assert asked == {"start": 5, "batch": 8, "seed": 3, "rank": 0, "world_size": 1}


def test_a_crop_without_room_for_pairs_is_refused():
    with pytest.raises(UsageError, match=r"crop: 36 pixels leave no room for pairs \(use a crop of 37 or more\)"):
        ObjectCentric(MiniUNet(), SimpleNamespace(crop=36), OceSettings(), batch=1, seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"kappa": 0.5}, r"kappa: 0.5 px reach no neighbour \(give 1 or more, e.g. 10\)"),
        ({"density": 0}, r"density: 0 is out of range \(give a number up to 1, e.g. 0.1\)"),
        ({"temperature": 0}, r"temperature: 0 is not above 0 \(give a number such as 10\)"),
        ({"regularisation": -1}, r"regularisation: -1 is negative \(give 0 or more, e.g. 1e-5\)"),
        ({"damping": "relu"}, r"damping: 'relu' is unknown \(choose from gaussian, sigmoid\)"),
        ({"reduction": "max"}, r"reduction: 'max' is unknown \(choose from sum, mean\)"),
    ],
)
def test_settings_that_give_no_loss_are_refused(setting, message):
    with pytest.raises(UsageError, match=message):
        OceSettings(**setting)


def test_settings_survive_their_way_through_a_checkpoint():
    settings = OceSettings(kappa=7.5, damping="sigmoid")
    assert OceSettings.from_dict(settings.to_dict()) == settings


RADIUS = 10


def toy_world(seed):
    """Image (128, 128) of twelve equal objects at random places, and their labels."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]
    inside = y**2 + x**2 <= RADIUS**2
    pattern = (
        0.6 + 0.4 * np.exp(-((y + 4) ** 2 + (x + 3) ** 2) / 18) - 0.3 * np.exp(-((y - 5) ** 2 + (x - 2) ** 2) / 12)
    )
    image, labels = random.normal(0, 0.02, (128, 128)), np.zeros((128, 128), int)
    while labels.max() < 12:
        top, left = random.integers(0, 128 - 2 * RADIUS, 2)
        window = (slice(top, top + 2 * RADIUS + 1), slice(left, left + 2 * RADIUS + 1))
        if not labels[window][inside].any():
            image[window] += np.where(inside, pattern, 0)
            labels[window][inside] = labels.max() + 1
    return image.astype(np.float32), labels


@pytest.mark.slow
def test_a_world_of_equal_objects_at_random_places_is_learnt(tmp_path):
    for seed in range(40):
        tifffile.imwrite(tmp_path / f"{seed}.tif", toy_world(seed)[0])
    preprocessing = Preprocessing(channels=1, percentiles=(1.0, 99.8))
    still = Deformation(crop=128, scale=(1.0, 1.0), rotate=False, flip=False, jitter=0.0)
    data = UnlabelledSet(find_sources([str(tmp_path)]), preprocessing, still)
    torch.manual_seed(0)
    network = initialise(MiniUNet(widths=(12, 36)))
    method = ObjectCentric(network, data, OceSettings(), batch=4, seed=0)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _, batch in zip(range(150), method.batches(0), strict=False):
        optimiser.zero_grad()
        sum(method.losses(batch).values()).backward()
        optimiser.step()
    image, labels = toy_world(99)
    low, high = np.percentile(image, preprocessing.percentiles)
    pixels = ((image - low) / (high - low))[None].astype(np.float32)
    device = open_device("cpu", "fp32")
    ((_, maps),) = mean_and_spread([("a", pixels)], lambda c: infer(network, c, device, Tiling()), Noise(repeats=8))
    y, x = np.mgrid[:128, :128]
    for place in (y + maps[0], x + maps[1]):
        assert np.median([place[labels == cell].std() for cell in range(1, 13)]) < 0.6  # px; 5 where nothing is learnt
    settings = EmbeddingSettings(bandwidth=10.0, min_area=30, threshold="otsu-log", post="nucleus")
    found = EMBEDDING.decode(np.concatenate([maps, pixels.astype(maps.dtype)]), settings).labels
    main = [np.bincount(found[labels == cell]).argmax() for cell in range(1, 13)]
    assert found.max() == 12
    assert set(main) == set(range(1, 13))  # one for one
    for cell, own in enumerate(main, 1):
        assert ((labels == cell) & (found == own)).sum() > 0.95 * ((labels == cell) | (found == own)).sum()
