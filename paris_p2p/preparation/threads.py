"""Works on several files side by side, each on one thread, to use the cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    work: Callable[[Item], Result], sources: Iterable[Item], threads: int
) -> Iterator[tuple[Item, Result]]:
    """Calls `work` on a few items at a time, in threads, and yields the results in order.

    What was not started is dropped when the caller leaves.
    """
    pool = ThreadPoolExecutor(threads, "prepare")
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for source in sources:
            waiting.append((source, pool.submit(work, source)))
            if len(waiting) > 2 * threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread_per_operation() -> Iterator[None]:
    """Gives each operation one thread, because videos run side by side instead.

    On a busy machine, threads of one operation mostly wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
