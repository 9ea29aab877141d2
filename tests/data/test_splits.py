import pytest

from cellkit.data.splits import draw_shots, split
from cellkit.errors import UsageError

KEYS = [f"image{i}" for i in range(20)]


def test_split_is_a_partition_that_keeps_the_order():
    kept, held = split(KEYS, 0.2, seed=3)
    assert len(held) == 4
    assert sorted(kept + held) == sorted(KEYS)
    assert kept == [key for key in KEYS if key in kept]


def test_split_depends_on_the_seed_and_not_on_the_order():
    assert set(split(KEYS, 0.3, 1)[1]) == set(split(KEYS[::-1], 0.3, 1)[1])
    assert split(KEYS, 0.3, 1) != split(KEYS, 0.3, 2)


def test_a_small_share_holds_back_one_at_least_and_leaves_one_at_least():
    assert len(split(KEYS, 0.001)[1]) == 1
    assert len(split(KEYS, 0.999)[0]) == 1
    assert split(KEYS, 0) == (KEYS, [])


def test_fewer_shots_are_among_more_shots():
    assert draw_shots(KEYS, 3, seed=5) == draw_shots(KEYS, 7, seed=5)[:3]
    assert draw_shots(KEYS, 3, seed=5) != draw_shots(KEYS, 3, seed=6)
    assert len(set(draw_shots(KEYS, 20))) == 20


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: split(KEYS, 1.0), "fraction: 1 is no share of the images (give a number from 0 to below 1)"),
        (lambda: split(["a"], 0.5), "fraction: 1 images cannot be split (give at least 2 images, or 0)"),
        (lambda: draw_shots(KEYS, 21), "shots: 21 asked for, 20 annotated images there (1 to 20)"),
        (lambda: draw_shots(KEYS, 0), "shots: 0 asked for, 20 annotated images there (1 to 20)"),
    ],
)
def test_impossible_draws_are_usage_errors(call, text):
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value) == text
