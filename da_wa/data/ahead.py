"""Compute ahead of use, in threads and in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    function: Callable[[T], R],
    items: Iterable[T],
    threads: int,
    ahead: int,
    stop: threading.Event | None = None,
) -> Generator[tuple[T, R], None, None]:
    """Items and results in order, computed at most ``ahead`` items early (``Executor.map`` would hold them all).

    Closed or interrupted, it drops the items that wait, and ends when those in progress have.

    Args:
        function: computes one item.
        items: in order.
        threads: that compute.
        ahead: items that are computed or wait.
        stop: set at the end, to tell ``function`` that its result is not needed.

    >>> list(in_order(lambda x: x * x, range(4), threads=2, ahead=1))
    [(0, 0), (1, 1), (2, 4), (3, 9)]
    """
    pending: deque[tuple[T, Future[R]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) > ahead:
                done, future = pending.popleft()
                yield done, future.result()
        for done, future in pending:
            yield done, future.result()
    finally:
        if stop is not None:
            stop.set()
        pool.shutdown(cancel_futures=True)
