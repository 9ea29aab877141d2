"""Embeddings: decode of perfect, noisy, empty and odd maps; settings; what labelled cells teach."""

from __future__ import annotations

import math

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu

from cellkit.errors import UsageError
from cellkit.metrics import score
from cellkit.ops.labelling import fill_holes, relabel_in_raster_order
from cellkit.representations.embedding import (
    EmbeddingSettings,
    centre_offsets,
    decode,
    loss,
    spread_threshold,
    targets,
)

PLAIN = EmbeddingSettings(bandwidth=8, min_area=15, post="none")


def maps_of(labels: np.ndarray, noise: float = 0.0, spread: float = 0.2) -> np.ndarray:
    """What a good network and its noisy passes give: offsets to the middle, spread small on cells."""
    random = np.random.default_rng(0)
    offsets = centre_offsets(torch.from_numpy(labels.astype(np.int64))[None])[0].numpy()
    offsets += random.normal(0, noise, offsets.shape)
    spreads = np.where(labels > 0, 1.0, 4.0) + random.uniform(-spread, spread, labels.shape)
    return np.concatenate([offsets, spreads[None]]).astype(np.float16)


@pytest.mark.parametrize("method", ["mean-shift", "greedy"])
@pytest.mark.parametrize("situation", ["two_touching_cells", "cell_on_border"])
def test_perfect_maps_give_back_the_cells(situation, method, request):
    labels = request.getfixturevalue(situation)
    settings = EmbeddingSettings(bandwidth=8, min_area=15, post="none", clustering=method, seed_confidence=0)
    found = decode(maps_of(labels), settings)
    assert np.array_equal(found.labels, relabel_in_raster_order(labels)[0])
    assert ((found.scores > 0) & (found.scores <= 1)).all()


@pytest.mark.parametrize("noise", [1.0, 2.0])
def test_noisy_embeddings_of_real_nuclei(noise, data):
    labels = imageio.imread(data / "dsb2018" / "labels" / "07fb37aafa662660.png")[:256, :256].astype(np.int32)
    found = decode(maps_of(labels, noise), PLAIN)
    assert score(labels, found.labels).values["ap_dsb@0.5"] > 0.9


def test_halo_is_cleared_by_default(two_touching_cells):
    whole = decode(maps_of(two_touching_cells), PLAIN)
    cut = decode(maps_of(two_touching_cells), EmbeddingSettings(bandwidth=8, min_area=15))
    assert len(cut) == len(whole) == 2
    assert set(np.unique(cut.labels - whole.labels)) <= {0, -1, -2}
    assert (cut.labels > 0).sum() < 0.8 * (whole.labels > 0).sum()


def test_bright_part_of_nuclei(two_touching_cells):
    image = np.zeros(two_touching_cells.shape)
    image[27:38, 20:31] = image[27:38, 46:57] = 1
    image[32, 25] = 0  # a hole is filled
    maps = np.concatenate([maps_of(two_touching_cells), image[None]])
    found = decode(maps, EmbeddingSettings(bandwidth=8, min_area=15, post="nucleus"))
    assert np.array_equal(found.labels > 0, fill_holes(image.astype(np.int32)) > 0)


def test_bright_part_without_brightness_is_a_usage_error(two_touching_cells):
    message = (
        r"^post: 'nucleus' needs the brightness of the image, which the prediction has not "
        r"\(give post=cell, or predict again with brightness=true\)$"
    )
    with pytest.raises(UsageError, match=message):
        decode(maps_of(two_touching_cells), EmbeddingSettings(post="nucleus"))


@pytest.mark.parametrize(
    "maps", [np.zeros((3, 9, 11)), np.full((3, 9, 11), np.nan), np.full((3, 9, 11), np.inf), np.ones((4, 1, 1))]
)
def test_one_spread_everywhere_is_no_cells(maps):
    found = decode(maps.astype(np.float16), EmbeddingSettings())
    assert len(found) == 0
    assert found.labels.shape == maps.shape[1:]


def test_pixels_that_are_not_finite_are_background(two_touching_cells):
    maps = maps_of(two_touching_cells)
    maps[0, 20:24] = np.nan
    maps[1, 40:44] = np.inf
    maps[2, :, 50] = np.nan
    found = decode(maps, EmbeddingSettings(bandwidth=8, min_area=15, post="none", fill_holes=False)).labels
    assert not found[20:24].any()
    assert not found[40:44].any()
    assert not found[:, 50].any()
    assert found[30, [26, 55]].all()


def test_offsets_out_of_all_bounds_cost_neither_time_nor_memory(two_touching_cells):
    maps = maps_of(two_touching_cells)
    maps[:2] = np.random.default_rng(0).choice([-6e4, 6e4], maps[:2].shape)
    assert decode(maps, PLAIN).labels.shape == two_touching_cells.shape


def test_pieces_of_a_cluster_are_cells_and_small_ones_are_dropped(two_touching_cells):
    labels = np.where(two_touching_cells == 1, 1, 0).astype(np.int32)
    maps = maps_of(labels)
    maps[2, :, 22:24] = 5
    maps[2, 30:33] = 5
    settings = EmbeddingSettings(bandwidth=8, min_area=0, post="none")
    found = decode(maps, settings).labels
    sizes = np.bincount(found.ravel())[1:]
    assert len(sizes) == 4
    large = EmbeddingSettings(bandwidth=8, min_area=int(sizes.max()), post="none")
    assert len(decode(maps, large)) == (sizes == sizes.max()).sum()


def test_sizes_and_edges_select(cell_on_border):
    maps = maps_of(cell_on_border)
    settings = EmbeddingSettings(bandwidth=8, min_area=15, post="none", exclude_border=True)
    assert len(decode(maps, settings)) == 1
    assert len(decode(maps, EmbeddingSettings(bandwidth=8, min_area=15, post="none", max_fraction=0.01))) == 0


def test_the_same_seed_gives_the_same_cells(crowded_field):
    maps = maps_of(crowded_field, 2.0)
    assert np.array_equal(decode(maps, PLAIN).labels, decode(maps, PLAIN).labels)


def test_threshold_is_otsus_or_a_number(two_touching_cells):
    maps = maps_of(two_touching_cells)
    assert spread_threshold(maps[2]) == pytest.approx(threshold_otsu(maps[2].astype(np.float64)))
    none = EmbeddingSettings(threshold=0.5, bandwidth=8)
    assert len(decode(maps, none)) == 0


def test_a_logarithmic_threshold_is_between_cells_and_a_background_that_varies():
    rng = np.random.default_rng(0)
    cells, background = rng.lognormal(-1, 0.3, 500), rng.lognormal(1.5, 0.5, 9500)
    spread = np.concatenate([cells, background]).astype(np.float32)
    assert spread_threshold(spread, "otsu-log") == pytest.approx(math.exp(threshold_otsu(np.log(spread))), rel=1e-3)
    assert cells.max() < spread_threshold(spread, "otsu-log") < np.quantile(background, 0.02)
    assert spread_threshold(spread) > np.quantile(background, 0.5)  # the other cuts the background in two


def test_the_logarithm_of_what_is_no_spread_is_not_taken():
    logits = np.array([-5.0, -4.0, 3.0, 4.0], np.float32)
    assert spread_threshold(logits, "otsu-log") == spread_threshold(logits)
    assert spread_threshold(np.full(4, 2.0, np.float32), "otsu-log") == -math.inf
    assert 0 < spread_threshold(np.array([0.0, 0.0, 5.0, 6.0], np.float32), "otsu-log") < 5


def test_threshold_of_a_plane_is_kept_for_its_windows(two_touching_cells):
    maps = maps_of(two_touching_cells)
    fixed = PLAIN.for_plane(lambda rows, columns: maps[:, rows, columns], (64, 80))
    assert fixed.threshold == pytest.approx(threshold_otsu(maps[2].astype(np.float64)))
    assert fixed.for_plane(None, (64, 80)) is fixed
    window = maps[:, 26:38, 20:30]  # cell alone: its own Otsu would call half of it background
    assert (decode(window, fixed).labels > 0).all()
    assert not (decode(window, PLAIN).labels > 0).all()


def test_settings_for_an_object():
    settings = EmbeddingSettings.for_object(30)
    assert (settings.bandwidth, settings.min_area) == (15, 70)
    assert settings == EmbeddingSettings(threshold="otsu-log")
    with pytest.raises(UsageError, match=r"^object_size: cannot be 0 \(give the diameter of an object in pixels"):
        EmbeddingSettings.for_object(0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bandwidth": 0}, r"bandwidth: cannot be 0 \(give a number of pixels above 0, about half"),
        ({"bandwidth": float("nan")}, r"bandwidth: cannot be nan"),
        ({"clustering": "k-means"}, r"clustering: cannot be k-means \(give mean-shift or greedy\)"),
        ({"post": "cells"}, r"post: cannot be cells \(give cell, nucleus or none\)"),
        ({"threshold": "mean"}, r"threshold: cannot be mean \(give otsu, otsu-log or a finite number, a spread\)"),
        ({"threshold": float("inf")}, r"threshold: cannot be inf"),
        ({"sample": 0}, r"sample: cannot be 0 \(give a fraction of the cells' pixels above 0 and up to 1 \(all\)\)"),
        ({"sample_seed": -1}, r"sample_seed: cannot be -1"),
        ({"seed_confidence": 2}, r"seed_confidence: cannot be 2"),
        ({"grow": -1}, r"grow: cannot be -1 \(give a number of pixels from 0 on\)"),
        ({"shrink": -1}, r"shrink: cannot be -1"),
        ({"min_area": 1.5}, r"min_area: cannot be 1.5"),
        ({"max_fraction": 0}, r"max_fraction: cannot be 0"),
    ],
)
def test_settings_that_cannot_be_meant(settings, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        EmbeddingSettings(**settings).check()


def test_settings_survive_a_checkpoint_and_windows():
    settings = EmbeddingSettings(threshold=1.5, max_fraction=0.1)
    settings.check()
    assert EmbeddingSettings.from_dict(settings.to_dict()) == settings
    assert settings.for_window((10, 10), (20, 20)).max_fraction == pytest.approx(0.4)


def test_offsets_lead_to_the_mean_place_of_a_cell(crowded_field, cell_on_border):
    batch = np.stack([crowded_field[:48, :48], cell_on_border])
    offsets = centre_offsets(torch.from_numpy(batch)).numpy()
    for labels, own in zip(batch, offsets, strict=True):
        assert not own[:, labels == 0].any()
        for cell in set(labels[labels > 0].tolist()):
            places = np.stack(np.nonzero(labels == cell))
            ends = places + own[:, labels == cell]
            assert np.allclose(ends, places.mean(1, keepdims=True), atol=1e-4)


def test_loss_is_least_for_perfect_maps(two_touching_cells):
    wanted = torch.from_numpy(targets(two_touching_cells))[None]
    maps = torch.from_numpy(maps_of(two_touching_cells, spread=0).astype(np.float32))[None]
    maps[:, 2] = torch.where(torch.from_numpy(two_touching_cells) > 0, -20.0, 20.0)
    perfect = loss(maps, wanted)
    assert perfect["offset"] < 1e-4
    assert perfect["cell"] < 1e-6
    shifted = maps.clone()
    shifted[:, 0] += 3
    assert loss(shifted, wanted)["offset"].item() == pytest.approx(2.5, abs=0.02)  # Huber: |3| - 1/2
    empty = torch.zeros(1, 3, 4, 4)
    assert loss(empty, empty)["offset"] == 0


def test_decoding_what_the_loss_asks_for(two_touching_cells):
    maps = maps_of(two_touching_cells)
    maps[2] = np.where(two_touching_cells > 0, -6, 6)
    settings = EmbeddingSettings(bandwidth=8, min_area=15, post="none", threshold=0)
    assert np.array_equal(decode(maps, settings).labels, two_touching_cells)
