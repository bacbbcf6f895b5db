"""A round of tasks on Ray: how many are submitted, which are copied, and the first result of each."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from pipeline.batch.demand import Demand
from pipeline.batch.ray_cluster import idle_slots
from pipeline.batch.retries import Repeats, SplitTask
from pipeline.batch.stragglers import LEAST_S, Stragglers
from pipeline.batch.work import Split
from pipeline.core.errors import UnavailableError
from pipeline.core.logs import logger
from pipeline.kernel.engine import Stop

log = logger(__name__)
_POLL_S = 0.2
"""How often a waiting driver checks whether its run has been interrupted."""
_SETTLE_S = 0.1
"""How long a driver waits before it cancels calls: Ray aborts the driver if a call that is just being started is cancelled."""
MAX_COPIES = 2
"""The maximum number of copies of a task that may only be slow."""
_END_S = 5.0
"""How long an interrupted driver waits for its tasks to end."""


@dataclass(frozen=True)
class Answer:
    """What a worker returns for a task: the seconds that it took, and its result or its error; neither if it gave up."""

    seconds: float
    result: Any = None
    error: Exception | None = None
    attempt: int = 0
    """The number of workers that the task had crashed before."""


@dataclass
class _Call:
    """A remote call of a task."""

    task: SplitTask
    running_since: float | None = None
    """When it was first among as many calls as the cluster runs at the same time."""


Start = Callable[[SplitTask, int], "ray.ObjectRef[Answer]"]
"""Submits a task; the number is 0, or that of a copy. Calls with different numbers do not wait for the same workers."""


@dataclass(frozen=True)
class Calls:
    """How tasks are called: a function that submits one, and the resources of a call by Ray's names."""

    start: Start
    needs: Mapping[str, float]


class Round:
    """The calls of one round of tasks."""

    def __init__(
        self,
        tasks: Sequence[SplitTask],
        demand: Demand,
        calls: Calls,
        publish: Callable[[], None],
        repeats: Repeats,
    ) -> None:
        """Create the round without submitting anything."""
        self._repeats = repeats
        self._left = deque(tasks)
        self._demand = demand
        self._needs = calls.needs
        self._start = calls.start
        self._publish = publish
        self._calls: dict[ray.ObjectRef[Answer], _Call] = {}
        self._copies = Counter[int]()
        self._cancelled: list[ray.ObjectRef[Answer]] = []
        self._stragglers = Stragglers(len(tasks))
        self._present = 0
        self._quiet_since = time.monotonic()
        self._lost_node = False

    def results(self, stop: Stop | None) -> Iterator[tuple[Split, Any]]:
        """Run all tasks and yield each split with its result; raise the error of a task, and cancel all calls."""
        try:
            while self._left or self._calls:
                self._submit()
                self._publish()
                for ref in self._ended(stop):
                    if ref in self._calls:  # otherwise the other call of its task has just ended
                        yield from self._taken(ref)
            if self._cancelled:  # they may still write
                ray.wait(self._cancelled, num_returns=len(self._cancelled), timeout=_END_S)
        except BaseException:
            time.sleep(_SETTLE_S)
            for ref in reversed(self._calls):  # waiting ones first: others would make room for them
                ray.cancel(ref, force=True)
            ray.wait(list(self._calls), num_returns=len(self._calls), timeout=_END_S)
            raise

    def _submit(self) -> None:
        """Submit as many tasks as are asked for, and copies of stragglers if there are idle slots."""
        now, present = time.monotonic(), int(ray.cluster_resources().get("CPU", 0)) // self._demand.cpus  # type: ignore[no-untyped-call]  # Ray is untyped
        self._lost_node |= present < self._present
        self._present = present
        most = max(self._demand.slots(time.time()), min(present, self._demand.most_slots))
        while self._left and len(self._calls) < most:
            task = self._left.popleft()
            self._calls[self._start(task, 0)] = _Call(task)
        for call in list(self._calls.values())[:present]:
            call.running_since = now if call.running_since is None else call.running_since
        if not self._left and len(self._calls) < present:
            self._copy_stragglers(now)
        self._copy_all_if_stalled(now)

    def _copy_stragglers(self, now: float) -> None:
        running = {
            ref: (call.task.split.size_bytes, now - call.running_since)
            for ref, call in self._calls.items()
            if call.running_since is not None and not self._copies[call.task.split.index]
        }
        for ref in self._stragglers.among(running, idle_slots(self._needs)):
            task, (_, seconds) = self._calls[ref].task, running[ref]
            log.warning("straggler is run a second time", split=str(task.split), seconds=f"{seconds:.1f}")
            self._copy(task)

    def _copy_all_if_stalled(self, now: float) -> None:
        """Copy all calls if none has ended for as long as a straggler takes, although there are idle slots.

        Calls, and Ray's requests for workers, wait for minutes for a node that does not answer. Unless a node was lost, a task
        that only takes long has at most `MAX_COPIES` copies.
        """
        tasks = {call.task.split.index: call.task for call in self._calls.values()}
        if not self._lost_node:
            tasks = {index: task for index, task in tasks.items() if self._copies[index] < MAX_COPIES}
        largest = max((task.split.size_bytes for task in tasks.values()), default=0)
        limit_s = LEAST_S if self._lost_node else self._stragglers.limit_s(largest)
        if not tasks or now - self._quiet_since < limit_s or not idle_slots(self._needs):
            return
        log.warning("no task has ended although the cluster is idle; all are submitted again", tasks=len(tasks))
        for task in tasks.values():
            self._copy(task)
        self._quiet_since, self._lost_node = now, False

    def _copy(self, task: SplitTask) -> None:
        self._copies[task.split.index] += 1
        self._repeats.any = True
        self._calls[self._start(task, self._copies[task.split.index])] = _Call(task)

    def _ended(self, stop: Stop | None) -> list[ray.ObjectRef[Answer]]:
        """Wait for a call to end, and return those that have; possibly none."""
        ended, _ = ray.wait(list(self._calls), timeout=_POLL_S)
        if stop is not None and stop.is_set:
            raise KeyboardInterrupt
        return ended

    def _taken(self, ref: ray.ObjectRef[Answer]) -> Iterator[tuple[Split, Any]]:
        """Yield the result of a call, unless its workers crashed; end the other call of its task."""
        split = self._calls.pop(ref).task.split
        self._quiet_since = time.monotonic()
        answer = _answer(ref, split)
        self._repeats.any |= answer.attempt > 0 or answer.result is None
        others = [other for other, call in self._calls.items() if call.task.split.index == split.index]
        if answer.result is None and others:
            return  # the other call may succeed
        for other in others:
            del self._calls[other]
            ray.cancel(other, force=True)
            self._cancelled.append(other)
        self._demand.ended(split.size_bytes, answer.seconds)
        if answer.result is not None:
            self._stragglers.ended(split.size_bytes, answer.seconds)
            yield split, answer.result


def _answer(ref: ray.ObjectRef[Answer], split: Split) -> Answer:
    """Return the answer of a call, without result if it crashed its workers; raise its error."""
    try:
        answer: Answer = ray.get(ref)
    except ray.exceptions.RuntimeEnvSetupError as error:
        raise UnavailableError(
            "a node of the Ray cluster cannot prepare the environment of the job",
            got=error.error_message.strip() or None,
            do="check the packages and files of the job, and the log of the node's runtime_env_agent",
        ) from error
    except ray.exceptions.RayError as lost:
        log.warning("task lost", split=str(split), reason=str(lost).partition("\n")[0])
        return Answer(0.0)
    if answer.error is not None:
        raise answer.error
    return answer
