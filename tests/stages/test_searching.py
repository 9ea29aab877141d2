"""Line search on predictions: the settings that give back known cells are found, what was given stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from cellkit.config import RepresentationSpec
from cellkit.errors import InputError, UsageError
from cellkit.io.maps import Prediction
from cellkit.representations.embedding import centre_offsets
from cellkit.stages.searching import Labelled, search_lines


def predicted(labels: np.ndarray, halo: int = 0, **settings) -> Labelled:
    """Embeddings of cells that seem larger than they are by a halo in pixels."""

    grown = ndimage.grey_dilation(labels, size=2 * halo + 1) if halo else labels
    offsets = centre_offsets(torch.from_numpy(grown.astype(np.int64))[None])[0].numpy()
    spread = np.where(grown > 0, 1.0, 4.0)[None]
    prediction = Prediction(
        key="a",
        maps=np.concatenate([offsets, spread]).astype(np.float16),
        representation=RepresentationSpec(name="embedding", settings={"min_area": 20, **settings}),
        source="a.tif",
        shape=(labels.shape[0], labels.shape[1]),
        axes="YX",
        scale=1.0,
        pixel_size=None,
        history=(),
        diameter=None,
    )
    return Labelled(prediction=prediction, labels=labels)


@pytest.fixture
def two_cells() -> np.ndarray:
    """Labels (64, 96): two squares of 22 px, 12 px apart."""
    labels = np.zeros((64, 96), np.int32)
    labels[20:42, 16:38], labels[20:42, 50:72] = 1, 2
    return labels


def test_cells_without_halo_are_not_shrunk(two_cells):
    found = search_lines([predicted(two_cells, grow=0.0)])
    assert found.settings == {"bandwidth": 15.0, "shrink": 0.0}
    assert (found.score, found.images) == (1.0, 1)
    assert found.before == 0.0


def test_halo_is_shrunk_away(two_cells):
    found = search_lines([predicted(two_cells, halo=3, grow=0.0)])
    assert found.settings["shrink"] == 4.0  # what is nearer than 4 px to the background is 3 px wide
    assert found.score == 1.0


def test_bandwidth_is_searched_with_what_was_given_kept(two_cells):
    two_cells[20:42, 38:50] = 1  # now they touch
    image = predicted(two_cells, grow=0.0, bandwidth=60.0)
    found = search_lines([image], {"shrink": 0.0})
    assert list(found.settings) == ["bandwidth"]
    assert found.settings["bandwidth"] <= 21.0
    assert found.before < found.score == 1.0


def test_what_cannot_be_searched(two_cells):
    image = predicted(two_cells)
    with pytest.raises(UsageError, match=r"--search: 'embedding' has no setting left to search \(leave it out, or"):
        search_lines([image], {"shrink": 0.0, "bandwidth": 9.0})
    with pytest.raises(InputError, match=r"a: its labels have 10 x 96 pixels, the image 64 x 96 \(give the labels of"):
        search_lines([replace(image, labels=two_cells[:10])])
    other = replace(image, prediction=replace(image.prediction, representation=RepresentationSpec(name="flow")))
    with pytest.raises(InputError, match=r"a.tif: is of 'flow', but a of 'embedding' \(search on predictions of one"):
        search_lines([image, other])
