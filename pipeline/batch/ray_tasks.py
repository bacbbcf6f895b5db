"""Tasks on Ray: one remote call per split, which returns only metadata; the function is shipped once."""

from __future__ import annotations

import itertools
import pickle
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from typing import Any

import cloudpickle
import ray

from pipeline.batch.demand import ALL_AT_ONCE, ClusterRequest
from pipeline.batch.ray_cluster import join
from pipeline.batch.ray_demand import published
from pipeline.batch.ray_round import Answer, Calls, Round
from pipeline.batch.retries import FailedTask, Repeats, SplitTask, result_or_failure
from pipeline.batch.work import Split
from pipeline.kernel.engine import current_stop
from pipeline.kernel.pool import Limits

MAX_ATTEMPTS = 3
"""The maximum number of workers that a task may crash."""
_ATTEMPT = 1_000_000
"""Added to the index of a split for each attempt, so that no two attempts, of which one may still run, write one file."""
_ROUND = 1_000 * MAX_ATTEMPTS
"""The attempts of all copies of a split in a round; the last tries of a split are other rounds."""
_LAST_TRIES = itertools.count(1)


def run_tasks(
    name: str,
    tasks: Sequence[SplitTask],
    limits: Limits,
    request: ClusterRequest = ALL_AT_ONCE,
    repeats: Repeats | None = None,
) -> Iterator[tuple[Split, Any]]:
    """Run tasks on the cluster, each with these resources, and yield each split with its result as it finishes.

    With a deadline, only as many tasks are submitted as are needed to end in time, and as the present nodes can run; Ray
    adds nodes for tasks that wait. Ray retries a task whose worker crashed or whose node was lost. A split that crashes
    `MAX_ATTEMPTS` workers is not yielded. A task that takes much longer than the others is also run on an idle slot, and so
    are all if none ends, as when a node does not answer; the first result is used. `repeats` tells whether a task was run
    more than once. An error of a task itself stops all tasks and is raised.
    """
    join()
    cpus = limits.threads or 1
    needs: dict[str, float] = {"CPU": cpus, "memory": limits.memory_bytes or 0, **request.resources}
    first = _ROUND * next(_LAST_TRIES) if any(task.split.is_last_try for task in tasks) else 0
    shipped: dict[int, ray.ObjectRef[bytes]] = {}

    @cache
    def remote(_copy: int) -> Any:
        """Return a remote function of its own for each copy: the calls of one share Ray's requests for workers."""
        return ray.remote(_attempt).options(
            name=name,
            num_cpus=cpus,
            memory=limits.memory_bytes or None,
            resources=dict(request.resources) or None,
            max_retries=MAX_ATTEMPTS - 1,
            scheduling_strategy="SPREAD",
        )

    def start(task: SplitTask, copy: int) -> ray.ObjectRef[Answer]:
        if id(task.run) not in shipped:
            shipped[id(task.run)] = ray.put(cloudpickle.dumps(task.run))
        ref: ray.ObjectRef[Answer] = remote(copy).remote(shipped[id(task.run)], task.split, first + MAX_ATTEMPTS * copy)
        return ref

    demand = request.demand([task.split.size_bytes for task in tasks], cpus)
    with published(name, demand) as publish:
        yield from Round(tasks, demand, Calls(start, needs), publish, repeats or Repeats()).results(current_stop())


def _attempt(task: bytes, split: Split, first: int) -> Answer:
    """Run a task in a worker, and return its result or its error; neither if the task is given up.

    `first` is the number of the first attempt of this call, among all attempts of the split.
    """
    begun, attempt = time.perf_counter(), _attempt_number()
    if attempt >= MAX_ATTEMPTS:
        return Answer(0.0)
    mine = replace(split, index=split.index + _ATTEMPT * (first + attempt))
    try:
        result = result_or_failure(partial(_loaded(task), mine))
    except Exception as error:  # noqa: BLE001 - it is raised again in the driver
        return Answer(0.0, error=_transferable(error))
    if isinstance(result, FailedTask):  # the machines of a cluster may not have the same files
        result.error.got = f"{result.error.got or result.error.problem} (on {socket.gethostname()})"
    return Answer(time.perf_counter() - begun, result, attempt=attempt)


@lru_cache(maxsize=16)
def _loaded(task: bytes) -> Callable[[Split], Any]:
    """Return a task; a worker unpickles it once for all splits."""
    loaded: Callable[[Split], Any] = pickle.loads(task)  # noqa: S301 - our own task, over Ray's channel
    return loaded


def _transferable(error: Exception) -> Exception:
    try:
        pickle.loads(cloudpickle.dumps(error))  # noqa: S301 - our own error
    except Exception:  # noqa: BLE001 - a user's error that cannot be pickled
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _attempt_number() -> int:
    """Return the number of workers that this task has crashed; Ray itself retries without limit if memory runs out."""
    worker: Any = ray._private.worker.global_worker  # noqa: SLF001 - Ray has no public API for it
    return int(worker.core_worker.get_current_task_attempt_number())
