"""Runs tasks concurrently in this process: one thread per core, each with a single-threaded DuckDB instance.

DuckDB releases the GIL, so this is as fast as one instance with all threads. In addition, each task preserves the order of
its rows without waiting for other tasks, and is limited to its share of memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextvars import copy_context
from functools import partial
from typing import Any

from pipeline.batch.retries import OnProgress, SplitTask, result_or_failure
from pipeline.batch.work import Split
from pipeline.kernel.engine import Stop, current_stop


def run_local(tasks: Sequence[SplitTask], lanes: int, on_progress: OnProgress) -> Iterator[tuple[Split, Any]]:
    """Run tasks on `lanes` threads, and yield each split with its result; a single task runs in this thread.

    A task that could not read or write returns `FailedTask`. Any other error, and Ctrl-C, stops all tasks and is raised.
    `on_progress` receives the completed fraction of all bytes.
    """
    if len(tasks) == 1:
        (task,) = tasks
        yield task.split, result_or_failure(partial(task.run, task.split, on_progress))
        return
    stop = Stop(within=current_stop())
    share = _Share([task.split for task in tasks], on_progress)
    with ThreadPoolExecutor(lanes, thread_name_prefix="headwater-lane") as pool:
        futures: dict[Future[Any], Split] = {}
        for task in tasks:
            call = partial(task.run, task.split, share.of(task.split), stop)
            futures[pool.submit(copy_context().run, result_or_failure, call)] = task.split
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

    def __init__(self, splits: Sequence[Split], on_progress: OnProgress) -> None:
        self._weights = {split.index: max(split.size_bytes, 1) for split in splits}
        self._done = dict.fromkeys(self._weights, 0.0)
        self._on_progress = on_progress

    def of(self, split: Split) -> OnProgress:
        def report(share: float) -> None:
            self._done[split.index] = share
            done_bytes = sum(self._done[index] * weight for index, weight in self._weights.items())
            self._on_progress(done_bytes / sum(self._weights.values()))

        return report
