"""Bounded work in threads, results in order: reading, computing and writing overlap.

Threads suffice: the work between them (files, compression, NumPy, torch) releases the interpreter lock.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

POLL_SECONDS = 0.1  # how soon a reader notices that nobody wants its items any more


class _End:
    """Marks the end of a queue, with the error that ended it, if any."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Fetcher(Generic[T]):
    """Puts items into a bounded queue from a thread until they end or nobody wants them any more."""

    def __init__(self, items: Iterable[T], count: int) -> None:
        self.items = items
        self.waiting: queue.Queue[T | _End] = queue.Queue(maxsize=count)
        self.abandoned = threading.Event()
        self.thread = threading.Thread(target=self.fetch, name="cellkit-ahead", daemon=True)

    def fetch(self) -> None:
        """Run in the thread; whatever error ends the items is handed over to the consumer."""
        end = _End()
        try:
            for item in self.items:
                if not self.offer(item):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again by the consumer
            end = _End(error)
        self.offer(end)

    def offer(self, item: T | _End) -> bool:
        """Wait for a place in the queue; False when nobody wants items any more."""
        while not self.abandoned.is_set():
            try:
                self.waiting.put(item, timeout=POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False


def ahead(items: Iterable[T], count: int = 2) -> Iterator[T]:
    """Yield items while a background thread already fetches the next ones.

    Args:
        items: fetched one by one in the thread; its errors are raised here, in their place.
        count: how many items may wait at most.
    """
    fetcher = _Fetcher(items, count)
    fetcher.thread.start()
    try:
        while not isinstance(item := fetcher.waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        fetcher.abandoned.set()
        fetcher.thread.join(timeout=10 * POLL_SECONDS)


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], workers: int, pending: int | None = None
) -> Iterator[R]:
    """``map`` in threads: results in input order, at most ``pending`` in flight (default ``workers + 1``).

    With no workers it is the plain ``map``.
    """
    if workers <= 0:
        yield from map(function, items)
        return
    limit = pending or workers + 1
    futures: deque[Future[R]] = deque()
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="cellkit-map") as pool:
        try:
            for item in items:
                futures.append(pool.submit(function, item))
                if len(futures) >= limit:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()
