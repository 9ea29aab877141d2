"""Blocks: windows tile the plane, and their cells together are the cells of the whole."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest

from cellkit.metrics import score
from cellkit.ops.blocks import Window, assemble, raster_table, windows
from cellkit.ops.instances import Instances
from cellkit.ops.labelling import relabel_in_raster_order
from cellkit.representations.flow import FLOW_SCALE, FlowSettings, decode, targets


def as_instances(labels: np.ndarray) -> Instances:
    """Scores tell the cells apart: one hundredth of the largest pixel value."""
    ordered, former = relabel_in_raster_order(labels)
    return Instances(ordered, (former / 100).astype(np.float32))


def assembled(shape: tuple[int, int], parts: list[tuple[Window, Instances]]) -> tuple[np.ndarray, np.ndarray]:
    bands = list(assemble(shape, parts))
    assert [band.top for band in bands] == np.cumsum([0] + [len(band.labels) for band in bands])[:-1].tolist()
    table = raster_table([band.cells for band in bands])
    labels = np.concatenate([table[band.labels] for band in bands])
    return labels, np.concatenate([band.scores for band in bands])


def perfect_maps(labels: np.ndarray) -> np.ndarray:
    maps = targets(labels)
    return np.concatenate([FLOW_SCALE * maps[:2], 12 * maps[2:] - 6]).astype(np.float16)


def by_blocks(maps: np.ndarray, core: int, halo: int) -> tuple[np.ndarray, np.ndarray]:
    shape = (maps.shape[1], maps.shape[2])
    parts = [(w, decode(maps[:, w.outer[0], w.outer[1]], FlowSettings())) for w in windows(shape, core, halo)]
    return assembled(shape, parts)


@pytest.mark.parametrize("shape", [(100, 100), (97, 130), (1, 1), (10, 500)])
def test_cores_tile_the_plane(shape):
    seen = np.zeros(shape, int)
    for window in windows(shape, 32, 8):
        seen[window.core] += 1
        for core, outer, size in zip(window.core, window.outer, shape, strict=True):
            assert outer.start == max(0, core.start - 8)
            assert outer.stop == min(size, core.stop + 8)
    assert (seen == 1).all()


@pytest.mark.parametrize(("core", "halo"), [(32, 20), (48, 24), (128, 10), (20, 100)])
def test_windows_of_true_labels_give_the_labels_again(core, halo, crowded_field):
    whole = as_instances(crowded_field)
    parts = [(w, as_instances(crowded_field[w.outer])) for w in windows(crowded_field.shape, core, halo)]
    labels, scores = assembled(crowded_field.shape, parts)
    assert np.array_equal(labels, whole.labels)
    assert np.array_equal(scores, whole.scores)


@pytest.mark.parametrize("core", [40, 64, 100])
def test_decoded_by_blocks_as_decoded_whole(core, crowded_field):
    maps = perfect_maps(crowded_field)
    whole = decode(maps, FlowSettings())
    labels, scores = by_blocks(maps, core, 24)
    assert np.array_equal(labels, whole.labels)
    assert np.allclose(scores, whole.scores, atol=1e-6)


def test_real_cells_cut_by_block_edges_are_kept_once(data: Path):
    path = sorted((data / "dsb2018" / "labels").glob("4d09672bcf5a2661*"))[0]
    maps = perfect_maps(imageio.imread(path)[:384, :384].astype(np.int32))
    whole = decode(maps, FlowSettings())
    labels, _ = by_blocks(maps, 128, 96)
    assert score(whole.labels, labels).values["ap_dsb@0.95"] == 1


def test_cell_seen_differently_by_two_windows_is_kept_once():
    left, right = windows((40, 80), 40, 20)
    labels = np.zeros((40, 80), np.int32)
    labels[10:30, 30:49] = 1  # centre of mass at 39: in the left core
    shifted = np.zeros((40, 80), np.int32)
    shifted[10:30, 31:52] = 1  # at 41: in the right core
    kept, scores = assembled(
        (40, 80), [(left, as_instances(labels[left.outer])), (right, as_instances(shifted[right.outer]))]
    )
    assert np.array_equal(kept, labels)
    assert len(scores) == 1


def test_cell_that_each_window_sees_in_the_other_core_is_not_lost():
    left, right = windows((40, 80), 40, 20)
    views = np.zeros((2, 40, 80), np.int32)
    views[0, 10:30, 31:52] = 1
    views[1, 10:30, 30:49] = 1
    kept, _ = assembled(
        (40, 80), [(w, as_instances(view[w.outer])) for w, view in zip((left, right), views, strict=True)]
    )
    assert np.array_equal(kept, views[0])


def test_only_one_row_of_windows_is_in_memory():
    shape, taken = (400, 60), []

    def parts():
        for window in windows(shape, 50, 10):
            taken.append(window.core[0].stop)
            yield window, Instances.none(window.shape)

    for band in assemble(shape, parts()):
        assert taken[-1] - (band.top + len(band.labels)) <= 50 + 10
    assert taken[-1] == 400


def test_no_cells_at_all():
    labels, scores = assembled((30, 30), [(w, Instances.none(w.shape)) for w in windows((30, 30), 16, 4)])
    assert labels.shape == (30, 30)
    assert not labels.any()
    assert len(scores) == 0
