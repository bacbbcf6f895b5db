"""Tasks on Ray: one remote call per split, which returns only metadata; the function is shipped once."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import cloudpickle
import ray

from pipeline.batch.ray_cluster import join
from pipeline.batch.retries import SplitTask, result_or_failure
from pipeline.batch.work import Split
from pipeline.core.logs import logger
from pipeline.kernel.engine import Stop, current_stop
from pipeline.kernel.pool import Limits

log = logger(__name__)
MAX_ATTEMPTS = 3
"""The maximum number of workers that a task may crash."""
_POLL_S = 0.2
"""How often a waiting driver checks whether its run has been interrupted."""
_SETTLE_S = 0.1
"""How long a driver waits before it cancels calls: Ray aborts the driver if a call that is just being started is cancelled."""
_END_S = 5.0
"""How long an interrupted driver waits for its tasks to end."""
_Answer = tuple[Any, Exception | None]


def run_tasks(name: str, tasks: Sequence[SplitTask], limits: Limits) -> Iterator[tuple[Split, Any]]:
    """Run tasks on the cluster, each with these resources, and yield each split with its result as it finishes.

    Ray retries a task whose worker crashed or whose node was lost. A split that crashes `MAX_ATTEMPTS` workers is not
    yielded. An error of a task itself stops all tasks and is raised.
    """
    join()
    remote = ray.remote(_attempt).options(
        name=name,
        num_cpus=limits.threads or 1,
        memory=limits.memory_bytes or None,
        max_retries=MAX_ATTEMPTS - 1,
        scheduling_strategy="SPREAD",
    )
    shipped: dict[int, ray.ObjectRef[bytes]] = {}
    for task in tasks:
        if id(task.run) not in shipped:
            shipped[id(task.run)] = ray.put(cloudpickle.dumps(task.run))
    waiting = {remote.remote(shipped[id(task.run)], task.split): task.split for task in tasks}
    stop = current_stop()
    try:
        while waiting:
            for ref in _ended(waiting, stop):
                split = waiting.pop(ref)
                result = _result(ref, split)
                if result is not None:
                    yield split, result
    except BaseException:
        time.sleep(_SETTLE_S)
        for ref in reversed(waiting):  # waiting ones first: others would make room for them
            ray.cancel(ref, force=True)
        ray.wait(list(waiting), num_returns=len(waiting), timeout=_END_S)
        raise


def _ended(waiting: Iterable[ray.ObjectRef[_Answer]], stop: Stop | None) -> list[ray.ObjectRef[_Answer]]:
    """Wait for a task to end, and return those that have; possibly none."""
    ended, _ = ray.wait(list(waiting), timeout=_POLL_S)
    if stop is not None and stop.is_set:
        raise KeyboardInterrupt
    return ended


def _result(ref: ray.ObjectRef[_Answer], split: Split) -> Any:
    """Return the result of a task, or `None` if it crashed its workers; raise its error."""
    try:
        result, error = ray.get(ref)
    except ray.exceptions.RayError as lost:
        log.warning("task lost", split=str(split), reason=str(lost).partition("\n")[0])
        return None
    if error is not None:
        raise error
    return result


def _attempt(task: bytes, split: Split) -> _Answer:
    """Run a task in a worker, and return its result or its error; neither if the task is given up."""
    if _attempt_number() >= MAX_ATTEMPTS:
        return None, None
    try:
        return result_or_failure(partial(_loaded(task), split)), None
    except Exception as error:  # noqa: BLE001 - it is raised again in the driver
        return None, _transferable(error)


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
