"""Specifications travel as plain dictionaries."""

from __future__ import annotations

import json

import pytest

from cellkit.config import NetworkSpec, Preprocessing, RepresentationSpec


@pytest.mark.parametrize(
    "spec",
    [
        NetworkSpec(name="style-unet", channels=3, widths=(4, 8)),
        RepresentationSpec(settings={"min_area": 3}),
        Preprocessing(diameter=30.0, percentiles=(0.5, 99.5)),
    ],
)
def test_specification_survives_json(spec):
    assert type(spec).from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_unknown_field_is_refused():
    with pytest.raises(TypeError, match="depth"):
        NetworkSpec.from_dict({"depth": 4})
