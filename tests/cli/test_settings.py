"""``--set NAME=VALUE`` is checked against dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from cellkit.cli.settings import apply, assignments, describe, parse, write_settings
from cellkit.config import Spec
from cellkit.errors import InputError, UsageError


@dataclass(frozen=True, kw_only=True)
class Baking(Spec):
    """How a cake is baked.

    Attributes:
        heat: temperature
            in degrees.
        form: of the cake.
    """

    heat: float = 180.0
    form: Literal["round", "square"] = "round"
    layers: tuple[int, ...] = (1, 2)
    timer: int | None = None
    fan: bool = False


def test_values_get_the_type_of_their_field():
    values = assignments(["heat=200", "layers=3,4", "fan=yes", "timer=none", "form=square"], [Baking])
    assert apply(Baking, values) == Baking(heat=200.0, layers=(3, 4), fan=True, timer=None, form="square")


def test_fixed_values_win_unless_none():
    assert apply(Baking, {"heat": 1.0}, heat=2.0, timer=None) == Baking(heat=2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("heat", "--set: 'heat' has no value (write NAME=VALUE; --settings lists the names)"),
        ("heet=1", "--set: there is no setting 'heet' here (did you mean heat?)"),
        ("heat=hot", "--set: heat=hot is not a number (--settings lists names and defaults)"),
        ("form=star", "--set: form=star is not one of round, square (--settings lists names and defaults)"),
        ("timer=x", "--set: timer=x is not a whole number (--settings lists names and defaults)"),
        ("layers=a", "--set: layers=a is not a list like 1,2 (--settings lists names and defaults)"),
        ("fan=maybe", "--set: fan=maybe is not true or false (--settings lists names and defaults)"),
        ("zzz=1", "--set: there is no setting 'zzz' here (choose from fan, form, heat, layers, timer)"),
    ],
)
def test_what_cannot_be_meant_is_said(text, message):
    with pytest.raises(UsageError) as caught:
        assignments([text], [Baking])
    assert str(caught.value) == message


def test_a_file_of_settings_is_read_as_it_was_written(tmp_path):
    values = {"heat": 200.0, "form": "square", "layers": [3, 4], "timer": None, "fan": True}
    write_settings(tmp_path / "baking.txt", values, "good ones")
    assert assignments([f"@{tmp_path / 'baking.txt'}"], [Baking]) == values
    assert assignments([f"@{tmp_path / 'baking.txt'}", "heat=150"], [Baking]) == values | {"heat": 150.0}


def test_comments_and_empty_lines_of_a_file_of_settings(tmp_path):
    (tmp_path / "a.txt").write_text("# mine\n\n  heat = 200 \n")
    assert assignments([f"@{tmp_path / 'a.txt'}"], [Baking]) == {"heat": 200.0}


def test_a_file_of_settings_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError) as caught:
        assignments([f"@{tmp_path / 'none.txt'}"], [Baking])
    assert str(caught.value) == (
        f"{tmp_path / 'none.txt'}: is no file of settings that can be read (give @FILE with lines NAME=VALUE)"
    )


def test_dashes_are_underscores():
    assert parse("x", "1", int) == 1
    assert assignments(["heat=1"], [Baking]) == {"heat": 1.0}


def test_list_shows_defaults_and_meanings():
    lines = describe([Baking]).splitlines()
    assert lines[0] == "heat=180.0\ttemperature in degrees."
    assert lines[1] == "form=round\tof the cake."
    assert lines[2] == "layers=1,2"
    assert lines[4] == "fan=false"


def test_settings_of_another_representation_are_refused(cellkit, tmp_path, crops, model):
    images, output = crops / "images", tmp_path / "out"
    wrong = cellkit("segment", images, "-m", model, "-o", f"{output}/", "--set", "seed_area=3")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "--set: 'seed_area' is no setting of 'flow' (choose from cell_threshold, " in wrong.err
    assert not output.exists()
    command = ("pretrain", crops, "-o", tmp_path / "m.ckpt", "--representation", "mask", "--steps", "1")
    wrong = cellkit(*command, "--set", "flow_threshold=0.3")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "'flow_threshold' is no setting of 'mask'" in wrong.err
