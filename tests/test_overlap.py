"""Bounded, ordered work in threads."""

from __future__ import annotations

import threading

import pytest

from cellkit.overlap import ahead, ordered_map


def test_ahead_keeps_order():
    assert list(ahead(range(50), 3)) == list(range(50))


def test_ahead_raises_the_error_in_its_place():
    def failing():
        yield 1
        yield 2
        raise ValueError("third")

    items = ahead(failing())
    assert next(items) == 1
    assert next(items) == 2
    with pytest.raises(ValueError, match="third"):
        next(items)


def test_ahead_is_bounded():
    fetched = []

    def counting():
        for i in range(100):
            fetched.append(i)
            yield i

    items = ahead(counting(), 2)
    next(items)
    assert len(fetched) <= 5  # one taken, two waiting, one in hand, one to spare
    items.close()


def test_abandoned_thread_ends():
    items = ahead(iter(int, 1), 1)  # endless
    next(items)
    items.close()
    assert not any(t.name == "cellkit-ahead" and t.is_alive() for t in threading.enumerate())


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_ordered_map_equals_map(workers):
    assert list(ordered_map(lambda x: x * x, range(20), workers)) == [x * x for x in range(20)]


def test_ordered_map_raises_the_error_of_an_item():
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda x: 1 // x, [1, 0, 1], 2))
