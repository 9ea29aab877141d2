"""Supported supervision: two halves of a batch, their losses weighed; at either end plain supervised learning."""

from __future__ import annotations

import itertools

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cellkit.config import NetworkSpec, Preprocessing
from cellkit.data.augment import Augmentation
from cellkit.data.examples import Targets
from cellkit.data.supported import halves
from cellkit.data.training import Batch, TrainingSet
from cellkit.data.truth import LabelFile
from cellkit.errors import UsageError
from cellkit.io.sources import find_sources
from cellkit.methods import Supervised, Supported
from cellkit.methods.settings import SupportedSettings
from cellkit.methods.supported import SupportedBatch
from cellkit.networks import build
from cellkit.representations import REPRESENTATIONS

FLOW = REPRESENTATIONS["flow"]
SHAPE = (40, 40)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two images with two discs each: one of them labelled, both of them segmented."""
    root = tmp_path_factory.mktemp("supported")
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    labels = {}
    for kind in ("images", "sparse", "pseudo"):
        (root / kind).mkdir()
    for i in range(2):
        one, two = ((y - 12 - i) ** 2 + (x - c) ** 2 < 49 for c in (10, 29))
        grain = np.random.default_rng(i).integers(0, 40, SHAPE)
        iio.imwrite(root / "images" / f"{i}.png", (160 * (one | two) + grain).astype(np.uint8))
        iio.imwrite(root / "sparse" / f"{i}.png", one.astype(np.uint8))
        iio.imwrite(root / "pseudo" / f"{i}.png", (one + 2 * two).astype(np.uint8))
    for kind in ("sparse", "pseudo"):
        labels[kind] = {str(i): LabelFile(str(root / kind / f"{i}.png")) for i in range(2)}
    found = halves(find_sources([str(root / "images")]), 5, **labels)
    targets = Targets(compute=FLOW.targets, vectors=FLOW.vectors)
    return {
        name: TrainingSet(pairs, Preprocessing(channels=1), targets, Augmentation(crop=16))
        for name, pairs in (("sparse", found.sparse), ("pseudo", found.pseudo))
    }


def network():
    torch.manual_seed(0)
    return build(NetworkSpec(name="mini-unet", channels=1, outputs=3, widths=(4, 8)))


def supported(sets, alpha, batch=4, seed=3):
    settings = SupportedSettings(alpha=alpha)
    return Supported(
        network(), FLOW, sparse=sets["sparse"], pseudo=sets["pseudo"], settings=settings, batch=batch, seed=seed
    )


def gradients(method, batch):
    torch.stack(list(method.losses(batch).values())).sum().backward()
    return [parameter.grad for parameter in method.modules.parameters()]


def equal(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.targets, other.targets)


@pytest.mark.parametrize(("alpha", "name"), [(0.0, "sparse"), (1.0, "pseudo")])
def test_at_either_end_it_is_supervised_learning_on_one_kind_of_labels(sets, alpha, name):
    method = supported(sets, alpha)
    batch = next(method.batches(7))
    half = getattr(batch, name)
    assert len(half.images) == 4
    assert sum(part is None for part in batch) == 1
    plain = Supervised(network(), FLOW, sets[name], batch=4, seed=method.seeds[name])
    assert equal(half, next(plain.batches(7)))
    for mine, theirs in zip(gradients(method, batch), gradients(plain, half), strict=True):
        assert torch.equal(mine, theirs)
    assert method.seeds["sparse"] == 3


def test_terms_equal_a_literal_computation(sets):
    method = supported(sets, 0.25)
    batch = next(method.batches(0))
    terms = method.losses(batch)
    assert set(terms) == {"sparse flow", "sparse cell", "pseudo flow", "pseudo cell"}
    for half, name, weight in ((batch.sparse, "sparse", 0.75), (batch.pseudo, "pseudo", 0.25)):
        maps, targets = method.modules(half.images).maps, half.targets
        known = targets[:, 2] >= 0
        cell = F.binary_cross_entropy_with_logits(maps[:, 2][known], targets[:, 2][known])
        errors = (maps[:, :2] - 5 * targets[:, :2]) ** 2
        flow = 0.5 * torch.stack([errors[:, 0][known], errors[:, 1][known]]).mean()
        torch.testing.assert_close(terms[f"{name} cell"], weight * cell)
        torch.testing.assert_close(terms[f"{name} flow"], weight * flow)
    assert (batch.sparse.targets[:, 2] < 0).any()  # the disc that nobody labelled
    assert not (batch.pseudo.targets[:, 2] < 0).any()


def test_gradient_is_the_weighted_sum_of_those_of_the_halves(sets):
    both, first, second = supported(sets, 0.3), supported(sets, 0.0), supported(sets, 1.0)
    batch = next(both.batches(2))
    sums = zip(
        gradients(both, batch),
        gradients(first, SupportedBatch(batch.sparse, None)),
        gradients(second, SupportedBatch(None, batch.pseudo)),
        strict=True,
    )
    for whole, sparse, pseudo in sums:
        torch.testing.assert_close(whole, 0.7 * sparse + 0.3 * pseudo, atol=1e-6, rtol=1e-4)


def test_halves_depend_on_seed_and_step_alone_and_show_other_places(sets):
    method = supported(sets, 0.5)
    third = next(itertools.islice(method.batches(0), 3, None))
    again = next(supported(sets, 0.5).batches(3))
    assert equal(third.sparse, again.sparse)
    assert equal(third.pseudo, again.pseudo)
    assert len(third.sparse.images) == len(third.pseudo.images) == 2
    assert not equal(third.sparse, next(supported(sets, 0.5, seed=4).batches(3)).sparse)
    assert not torch.equal(third.sparse.images, third.pseudo.images)


@pytest.mark.parametrize(
    ("alpha", "batch", "missing", "message"),
    [
        (0.5, 5, None, "batch: 5 crops cannot be halved (give an even number such as 6)"),
        (0.5, 4, "pseudo", "--alpha: 0.5 needs pseudo labels (give them, or another alpha)"),
        (0.0, 4, "sparse", "--alpha: 0 needs sparse labels (give them, or another alpha)"),
    ],
)
def test_what_cannot_be_meant_is_said(sets, alpha, batch, missing, message):
    with pytest.raises(UsageError) as caught:
        supported(sets | {missing: None} if missing else sets, alpha, batch)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alpha": 1.5}, "--alpha: 1.5 is out of range (give a number from 0 to 1)"),
        ({"background": -1.0}, "background: -1 is negative (give pixels, e.g. 30)"),
    ],
)
def test_settings_out_of_range(values, message):
    with pytest.raises(UsageError) as caught:
        SupportedSettings(**values)
    assert str(caught.value) == message
