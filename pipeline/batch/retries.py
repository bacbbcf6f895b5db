"""Retries of splits: a split with a possibly transient failure is retried once, separately, and named if it fails again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pipeline.batch.division import WAYS, DivisionPolicy
from pipeline.batch.work import Split
from pipeline.core.definitions import StoredDefinition
from pipeline.core.errors import HeadwaterError, SourceError, SplitError, StorageError
from pipeline.core.logs import logger
from pipeline.kernel.pool import Limits

log = logger(__name__)
Task = Callable[..., Any]
OnProgress = Callable[[float], None]
"""Receives the completed fraction of a round of tasks."""
OnStage = Callable[[float, str], None]
"""Receives the completed fraction of a step, and its stage: empty if it has only one."""


@dataclass(frozen=True)
class SplitTask:
    """A task: a function and the split that it is called with."""

    run: Task
    split: Split


@dataclass(frozen=True)
class FailedTask:
    """The result of a task that could not read or write, which may be transient."""

    error: HeadwaterError


@dataclass
class Repeats:
    """Whether a task was run more than once, so that files of calls that were not used may remain."""

    any: bool = False


class TaskRunner(Protocol):
    """Runs tasks."""

    def run(self, tasks: Sequence[SplitTask], limits: Limits, on_progress: OnProgress) -> Iterator[tuple[Split, Any]]:
        """Run tasks, and yield each split with its result; a split whose worker crashed is omitted."""


def result_or_failure(task: Callable[[], Any]) -> Any:
    """Return the result of a task, or `FailedTask` if it could not read or write."""
    try:
        return task()
    except SplitError:
        raise
    except (SourceError, StorageError) as error:
        return FailedTask(error)


@dataclass(frozen=True)
class TaskRound:
    """A round of tasks of a step, each with the same limits.

    With a `policy`, a split whose workers crash is divided until the smallest part that crashes them is known, and that part
    is quarantined if the policy allows it.
    """

    definition: StoredDefinition
    limits: Limits
    place: TaskRunner
    on_progress: OnProgress
    policy: DivisionPolicy | None = None

    def results(self, tasks: Sequence[SplitTask]) -> list[Any]:
        """Run tasks, and return their results in order; their splits have consecutive indexes.

        A split that could not read or write, or whose worker crashed, is retried separately. A divided split has several
        results, in order. Raises the error of a second failure, and `StorageError` with the files and ranges of a split that
        crashes its workers and is neither divided nor quarantined.
        """
        outcomes = self.of(tasks)
        unused = itertools.count(len(tasks))
        results: list[Any] = []
        for task in tasks:
            outcome = outcomes.get(task.split.index)
            if isinstance(outcome, FailedTask) or (outcome is None and len(self._parts(task.split)) == 1):
                reason = str(outcome.error) if isinstance(outcome, FailedTask) else "its worker crashed"
                log.warning("retrying split", split=str(task.split), reason=reason)
                outcome = self.last_try(task)
            results += self.in_parts(task, unused) if outcome is None else [outcome]
        return results

    def _parts(self, split: Split) -> tuple[Split, ...]:
        return (split,) if self.policy is None else self.policy.parts(split)

    def of(self, tasks: Sequence[SplitTask]) -> dict[int, Any]:
        """Run tasks, and return their results by the index of their split."""
        return {split.index: result for split, result in self.place.run(tasks, self.limits, self.on_progress)}

    def last_try(self, task: SplitTask) -> Any:
        """Run one task again; return `None` if its worker crashed, and raise its error."""
        outcome = self.of([replace(task, split=replace(task.split, is_last_try=True))]).get(task.split.index)
        if isinstance(outcome, FailedTask):
            raise outcome.error
        return outcome

    def in_parts(self, task: SplitTask, unused: Iterator[int]) -> list[Any]:
        """Return the results of the parts of a task whose workers crash; a part that cannot be divided is quarantined.

        The first part has the index of the task, so that the indexes of all results are consecutive. If all of several parts
        crash their workers, the reason is not a row, and the task fails.
        """
        parts = self._parts(task.split)
        if len(parts) == 1:
            return [self._quarantined(task)]
        log.warning("dividing split", split=str(task.split), parts=len(parts), reason="its workers crashed")
        tasks = [
            replace(task, split=replace(part, index=next(unused) if n else task.split.index, is_last_try=True))
            for n, part in enumerate(parts)
        ]
        try:
            outcomes = self.of(tasks)
        except SplitError as error:  # the file cannot be divided because of its quoting
            raise self._crash(task.split) from error
        if len(tasks) >= WAYS // 2 and not outcomes:
            raise self._crash(task.split)
        results: list[Any] = []
        for each in tasks:
            outcome = outcomes.get(each.split.index)
            if isinstance(outcome, FailedTask):
                raise outcome.error
            results += self.in_parts(each, unused) if outcome is None else [outcome]
        return results

    def _quarantined(self, task: SplitTask) -> Any:
        if self.policy is None or not (self.policy.may_quarantine and task.split.source_splits):
            raise self._crash(task.split)
        log.warning("quarantining split", split=str(task.split), reason="workers that read it crash")
        return self.last_try(replace(task, split=replace(task.split, crashes_workers=True)))

    def _crash(self, split: Split) -> StorageError:
        return StorageError(
            f"table {self.definition.name!r} cannot be computed: one split crashes every worker",
            got=str(split),
            do="check the function of the table, if it has one; otherwise remove this input, or give the workers more memory; "
            "nothing was committed",
            place=self.definition.place,
        )
