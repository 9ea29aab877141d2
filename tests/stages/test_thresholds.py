"""Search of thresholds: on maps whose best thresholds are known, and against a slow loop."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from cellkit.config import Preprocessing
from cellkit.data.dataset import Pair
from cellkit.data.truth import LabelFile
from cellkit.engine.device import Device
from cellkit.errors import InputError
from cellkit.ops.labelling import resize_labels
from cellkit.representations import REPRESENTATIONS
from cellkit.stages.thresholds import agreement, search, try_grid
from cellkit.stages.validation import Held

CPU = Device(torch.device("cpu"), "fp32")
MASK, BORDER = REPRESENTATIONS["mask"], REPRESENTATIONS["border"]
RAW = Preprocessing(channels=2, normalisation="none")


class Passing(nn.Module):
    """Puts out its input: images are their own maps."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x


def mask_maps(logit: np.ndarray) -> np.ndarray:
    return np.stack([np.zeros_like(logit), logit]).astype(np.float32)


def two_cells() -> np.ndarray:
    labels = np.zeros((48, 64), np.int32)
    labels[10:40, 6:30] = 1
    labels[10:40, 32:58] = 2
    return labels


def bridged(strength: float = 1.25) -> np.ndarray:
    """Logits of two cells that a faint bridge joins: only above its strength are they two."""
    logit = np.where(two_cells() > 0, 3.0, -6.0)
    logit[10:40, 30:32] = strength
    return mask_maps(logit)


def border_maps() -> np.ndarray:
    """Two cells whose seeds are one below an inner logit of 2.2, and whose rims are lost above a border one of -0.5."""
    labels = two_cells()
    inner, border, background = (np.full(labels.shape, -8.0) for _ in range(3))
    background[labels == 0] = 4.0
    inside = np.zeros(labels.shape, bool)
    inside[12:38, 8:28] = inside[12:38, 34:56] = True
    rim = (labels > 0) & ~inside
    inner[inside], background[inside], border[inside] = 5.0, -2.0, -2.0
    inner[20:24, 28:34], border[20:24, 28:34], background[20:24, 28:34] = 2.0, -0.2, -0.2
    rim[20:24, 28:34] = False
    border[rim], background[rim], inner[rim] = 0.0, 0.5, -3.0
    return np.stack([background, inner, border]).astype(np.float32)


def held(pixels: np.ndarray, labels: np.ndarray, key: str = "shot") -> Held:
    return Held(key=key, pixels=pixels, labels=labels)


def noisy(channels: int, seed: int) -> Held:
    """Blurred noise around the truth: every point of the grid decodes it otherwise."""
    random = np.random.default_rng(seed)
    labels = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((24, 24), int)).astype(np.int32)
    labels[np.logical_or.outer(np.arange(72) % 24 < 4, np.arange(96) % 24 < 4)] = 0
    coarse = random.normal(0, 2, (channels, 18, 24))
    maps = np.kron(coarse, np.ones((1, 4, 4))) + random.normal(0, 1, (channels, 72, 96))
    maps[1] += np.where(labels > 0, 4, -4)
    return held(maps.astype(np.float32), labels, f"noisy{seed}")


def slow_agreement(truth: np.ndarray, found: np.ndarray) -> float:
    """IoU of every pair of masks; above one half a cell has one partner at most."""
    ious = [
        ((truth == t) & (found == f)).sum() / ((truth == t) | (found == f)).sum()
        for t in set(truth[truth > 0].tolist())
        for f in set(found[found > 0].tolist())
    ]
    cells = len(set(truth[truth > 0].tolist())) + len(set(found[found > 0].tolist()))
    hits = [sum(iou >= threshold for iou in ious) for threshold in (0.5, 0.75, 0.9)]
    return float(np.mean([hit / (cells - hit) for hit in hits]))


def test_bridge_is_cut_by_the_lowest_threshold_above_it():
    tried = try_grid(Passing(), [held(bridged(), two_cells())], MASK, MASK.settings(), CPU)
    assert tried[0].settings == MASK.settings(cell_threshold=1.5)  # 1.5 to 2.5 are perfect, 1.5 is nearest to 0
    assert tried[0].score == 1
    assert len(tried) == 17


def test_nearest_is_counted_from_the_thresholds_given():
    given = MASK.settings(cell_threshold=4.0, min_area=3)
    tried = try_grid(Passing(), [held(bridged(), two_cells())], MASK, given, CPU)
    assert tried[0].settings == MASK.settings(cell_threshold=2.5, min_area=3)


def test_perfect_thresholds_stay():
    given = MASK.settings(cell_threshold=1.3)  # between the values of the grid
    tried = try_grid(Passing(), [held(bridged(), two_cells())], MASK, given, CPU)
    assert tried[0].settings == given
    assert len(tried) == 18


def test_border_needs_both_thresholds():
    image = held(border_maps(), two_cells())
    tried = try_grid(Passing(), [image], BORDER, BORDER.settings(), CPU)
    assert tried[0].settings == BORDER.settings(cell_threshold=2.5, border_threshold=-1.0)
    assert tried[0].score == 1
    assert len(tried) == 17 * 5
    for worse in (BORDER.settings(), BORDER.settings(cell_threshold=2.5), BORDER.settings(border_threshold=-1.0)):
        assert next(one.score for one in tried if one.settings == worse) < 1


@pytest.mark.parametrize(("representation", "channels"), [(MASK, 2), (BORDER, 3)])
def test_same_as_a_slow_loop(representation, channels):
    images = [noisy(channels, seed) for seed in range(2)]
    tried = try_grid(Passing(), images, representation, representation.settings(), CPU)
    scores = {}
    for values in itertools.product(*representation.searched.values()):
        settings = representation.settings(**dict(zip(representation.searched, values, strict=True)))
        decoded = [representation.decode(image.pixels.astype(np.float16), settings).labels for image in images]
        each = [slow_agreement(image.labels, found) for image, found in zip(images, decoded, strict=True)]
        scores[settings] = np.mean(each)
    assert len(set(scores.values())) > 10  # they differ
    assert {one.settings: one.score for one in tried} == pytest.approx(scores)
    assert tried[0].score == pytest.approx(max(scores.values()))
    assert tried[0].score > scores[representation.settings()]


def test_network_runs_once_per_image():
    network = Passing()
    try_grid(network, [held(bridged(), two_cells(), str(n)) for n in range(3)], MASK, MASK.settings(), CPU)
    assert network.calls == 3


def test_image_without_cells_speaks_against_what_is_found_there(empty_field):
    speck = mask_maps(np.where(np.logical_and.outer(np.arange(40) < 9, np.arange(56) < 9), 2.25, -6.0))
    images = [held(bridged(), two_cells()), held(speck, empty_field, "empty")]
    tried = try_grid(Passing(), images, MASK, MASK.settings(), CPU)
    assert tried[0].settings.cell_threshold == 2.5
    assert tried[0].score == 1
    assert next(one.score for one in tried if one.settings.cell_threshold == 1.5) == 0.5


def test_nothing_found_where_nothing_is_counts_as_right(empty_field, two_touching_cells):
    assert agreement(empty_field, empty_field, "empty") == 1
    assert agreement(two_touching_cells, np.zeros_like(two_touching_cells), "missed") == 0


@pytest.fixture
def pair(tmp_path):
    """The bridged cells as files, with channels of logits."""

    def write(maps: np.ndarray, labels: np.ndarray) -> Pair:
        tifffile.imwrite(tmp_path / "shot.tif", maps, metadata={"axes": "CYX"})
        tifffile.imwrite(tmp_path / "labels.tif", labels.astype(np.uint16))
        return Pair(key="shot", image=str(tmp_path / "shot.tif"), labels=LabelFile(str(tmp_path / "labels.tif")))

    return write


def test_search_reads_images_and_says_what_it_found(pair, caplog):
    with caplog.at_level(logging.INFO, "cellkit.stages.thresholds"):
        found = search(Passing(), [pair(bridged(), two_cells())], RAW, MASK, MASK.settings(), CPU)
    assert found == MASK.settings(cell_threshold=1.5)
    assert caplog.messages == ["searched on 1 labelled images: cell_threshold 1.5 (score 1.000)"]


def test_search_works_at_the_scale_of_the_model(pair):
    """Cells of twice the working diameter: the network sees the maps at half the size."""
    maps = np.kron(bridged(), np.ones((1, 2, 2), np.float32))
    labels = resize_labels(two_cells(), (96, 128))
    network = Passing()
    sizes = []
    network.register_forward_pre_hook(lambda _, arguments: sizes.append(tuple(arguments[0].shape)))
    half = Preprocessing(channels=2, normalisation="none", diameter=20.0, typical=40.0)
    assert search(network, [pair(maps, labels)], half, MASK, MASK.settings(), CPU).cell_threshold == 1.5
    assert sizes == [(1, 2, 48, 64)]


def test_what_a_user_chose_stays(pair):
    shot = pair(bridged(), two_cells())
    given = MASK.settings(cell_threshold=-2.0)
    assert search(Passing(), [shot], RAW, MASK, given, CPU, fixed=("cell_threshold",)) == given


@pytest.mark.parametrize("name", ["flow", "hover"])
def test_nothing_to_search_costs_nothing(name):
    representation = REPRESENTATIONS[name]
    missing = Pair(key="none", image="none.tif", labels=LabelFile("none.tif"))
    settings = representation.settings()
    assert search(Passing(), [missing], RAW, representation, settings, CPU) == settings


def test_labels_of_another_shape_are_refused(pair):
    with pytest.raises(InputError, match=r"the labels have 40 x 64 pixels, the image has 48 x 64 \(pair them anew\)"):
        search(Passing(), [pair(bridged(), two_cells()[:40])], RAW, MASK, MASK.settings(), CPU)
