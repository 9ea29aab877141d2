"""The table of representations."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from cellkit.config import RepresentationName
from cellkit.errors import UsageError
from cellkit.ops.detections import Detections
from cellkit.ops.run_lengths import runs_of_labels
from cellkit.representations import OBJECTS, REPRESENTATIONS, DecodeSettings, representation_of


def test_tables_and_names_agree():
    assert set(REPRESENTATIONS) | set(OBJECTS) == set(get_args(RepresentationName))
    assert not set(REPRESENTATIONS) & set(OBJECTS)
    assert all(representation_of(name).name == name for name in get_args(RepresentationName))


def test_who_needs_maps_and_has_objects_is_told_in_one_line():
    with pytest.raises(UsageError) as error:
        REPRESENTATIONS["boxes"]
    choices = "choose from flow, mask, border, hover, embedding, star"
    assert str(error.value) == f"representation: 'boxes' has no dense maps ({choices})"


@pytest.mark.parametrize("name", OBJECTS)
def test_contract_of_objects(name, two_touching_cells):
    representation = OBJECTS[name]
    settings = representation.settings()
    settings.check()
    assert representation.settings.from_dict(settings.to_dict()) == settings
    ids, runs = runs_of_labels(two_touching_cells)
    found = Detections(
        shape=two_touching_cells.shape,
        boxes=np.zeros((len(ids), 4), np.float32),
        scores=np.ones(len(ids), np.float32),
        categories=np.zeros(len(ids), np.int32),
        masks=runs,
    )
    np.testing.assert_array_equal(representation.flatten(found, settings).labels > 0, two_touching_cells > 0)


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_contract(name, two_touching_cells):
    representation = REPRESENTATIONS[name]
    targets = representation.targets(two_touching_cells)
    assert targets.dtype == np.float32
    assert targets.shape[1:] == two_touching_cells.shape
    outputs = torch.zeros(1, representation.channels, *two_touching_cells.shape, requires_grad=True)
    terms = representation.loss(outputs, torch.from_numpy(targets)[None])
    sum(terms.values()).backward()
    assert torch.isfinite(outputs.grad).all()
    settings = representation.settings()
    settings.check()
    assert representation.settings.from_dict(settings.to_dict()) == settings
    maps = np.zeros((representation.channels, 9, 11), np.float16)
    assert representation.decode(maps, settings).labels.shape == (9, 11)
    assert all(max(pair) < len(targets) for pair in representation.vectors)


def test_settings_without_check_are_refused():
    with pytest.raises(NotImplementedError):
        DecodeSettings().check()


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_what_is_searched_are_settings_that_can_be_meant(name):
    representation = REPRESENTATIONS[name]
    defaults = representation.settings().to_dict()
    for setting, values in representation.searched.items():
        assert defaults[setting] in values
        assert sorted(set(values)) == list(values)
        for value in values:
            representation.settings(**{setting: value}).check()


def test_grids_are_those_of_the_paper():
    cell = tuple(np.arange(-4, 4.1, 0.5).tolist())
    assert REPRESENTATIONS["mask"].searched == {"cell_threshold": cell}
    assert REPRESENTATIONS["border"].searched == {"cell_threshold": cell, "border_threshold": (-2, -1, 0, 1, 2)}
    assert not REPRESENTATIONS["flow"].searched
    assert not REPRESENTATIONS["hover"].searched
