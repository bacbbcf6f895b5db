"""Tasks side by side in this process: as many lanes as cores, each a thread with an engine of one thread.

The engine lets go of Python's lock while it works, so lanes are as fast as one engine with all threads; and unlike
that one, a lane keeps the order of its rows without waiting for others, and holds no more than its share of memory.
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
    """Run a task for every split, as many at a time as there are lanes, and yield each with what it returned.

    What could not read or write gives `Failed`; any other error stops all and is raised, and so does Ctrl-C. `tell` hears which share of all bytes is done.
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
    """Adds up how far each split is, weighted by its size."""

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
