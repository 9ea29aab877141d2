"""Ranges of many lengths: the integers that loops would list, and parts that hold few of them."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from cellkit.ops.boxes_ranges import parts, spread

LENGTHS = st.lists(st.integers(0, 9), max_size=30)


@given(LENGTHS, st.integers(0, 1000))
def test_spread_lists_the_ranges_one_after_another(lengths, seed):
    starts = torch.randint(-50, 50, (len(lengths),), generator=torch.Generator().manual_seed(seed))
    expected = [int(start) + i for start, length in zip(starts, lengths, strict=True) for i in range(length)]
    assert spread(starts, torch.tensor(lengths, dtype=torch.int64)).tolist() == expected


@given(LENGTHS, st.integers(1, 12))
def test_parts_take_all_and_hold_few(lengths, most):
    taken = parts(torch.tensor(lengths, dtype=torch.int64), most)
    assert sum(taken) == len(lengths)
    assert len(taken) >= 1
    begin = 0
    for count in taken:
        assert sum(lengths[begin + 1 : begin + count]) <= most
        begin += count


def test_parts_are_as_few_as_the_sum_allows():
    assert parts(torch.tensor([4, 4, 4, 4, 4]), 8) == [2, 2, 1]
    assert parts(torch.tensor([30, 1, 1]), 100) == [3]
