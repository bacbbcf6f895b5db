"""Runs tasks concurrently in this process: one thread per core, each with a single-threaded DuckDB instance.

DuckDB releases the GIL, so this is as fast as one instance with all threads. In addition, each task preserves the order of
its rows without waiting for other tasks, and is limited to its share of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextvars import copy_context
from functools import partial
from typing import TypeVar

from pipeline.batch.retries import result_or_failure
from pipeline.batch.work import Split
from pipeline.kernel.engine import Stop, current_stop

T = TypeVar("T")
Task = Callable[[Split, Callable[[float], None], Stop], T]


def run_local(
    task: Task[T], splits: Sequence[Split], lanes: int, on_progress: Callable[[float], None] = lambda _: None
) -> Iterator[tuple[Split, T]]:
    """Run a task for every split on `lanes` threads, and yield each split with its result.

    A task that could not read or write returns `FailedTask`. Any other error, and Ctrl-C, stops all tasks and is raised.
    `on_progress` receives the completed fraction of all bytes.
    """
    stop = Stop(within=current_stop())
    share = _Share(splits, on_progress)
    with ThreadPoolExecutor(lanes, thread_name_prefix="headwater-lane") as pool:
        futures: dict[Future[T], Split] = {
            pool.submit(copy_context().run, result_or_failure, partial(task, split, share.of(split), stop)): split
            for split in splits
        }
        try:
            for future in as_completed(futures):
                split = futures[future]
                result = future.result()
                share.of(split)(1.0)
                yield split, result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            stop.now()
            raise


class _Share:
    """The total progress of all splits, weighted by size."""

    def __init__(self, splits: Sequence[Split], on_progress: Callable[[float], None]) -> None:
        self._weights = {split.index: max(split.size_bytes, 1) for split in splits}
        self._done = dict.fromkeys(self._weights, 0.0)
        self._on_progress = on_progress

    def of(self, split: Split) -> Callable[[float], None]:
        def report(share: float) -> None:
            self._done[split.index] = share
            done_bytes = sum(self._done[index] * weight for index, weight in self._weights.items())
            self._on_progress(done_bytes / sum(self._weights.values()))

        return report
