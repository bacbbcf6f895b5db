"""Retries of splits: a split with a possibly transient failure is retried once, separately, and named if it fails again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pipeline.batch.work import Split
from pipeline.core.definitions import StoredDefinition
from pipeline.core.errors import HeadwaterError, SourceError, SplitError, StorageError
from pipeline.core.logs import logger
from pipeline.kernel.pool import Limits

log = logger(__name__)
Task = Callable[..., Any]
OnProgress = Callable[[float], None]


@dataclass(frozen=True)
class SplitTask:
    """A task: a function and the split that it is called with."""

    run: Task
    split: Split


@dataclass(frozen=True)
class FailedTask:
    """The result of a task that could not read or write, which may be transient."""

    error: HeadwaterError


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


def run_with_retry(
    definition: StoredDefinition,
    tasks: Sequence[SplitTask],
    limits: Limits,
    place: TaskRunner,
    on_progress: OnProgress,
) -> list[Any]:
    """Run tasks of a step, each with these limits, and return their results in order; their splits have different indexes.

    A split that could not read or write, or whose worker crashed, is retried separately. Raises the error of a second
    failure, and `StorageError` with the split's files and bytes if its worker crashes again.
    """
    outcomes = _run(tasks, limits, place, on_progress)
    for task in tasks:
        split = task.split
        if not isinstance(outcomes.get(split.index), FailedTask | None):
            continue
        failure = outcomes.get(split.index)
        reason = str(failure.error) if isinstance(failure, FailedTask) else "its worker crashed"
        log.warning("retrying split", split=str(split), reason=reason)
        outcomes |= _run([replace(task, split=replace(split, is_last_try=True))], limits, place, on_progress)
        outcome = outcomes.get(split.index)
        if isinstance(outcome, FailedTask):
            raise outcome.error
        if outcome is None:
            raise StorageError(
                f"table {definition.name!r} cannot be computed: one split crashes every worker",
                got=str(split),
                do="remove this input, or give the workers more memory; nothing was committed",
                place=definition.place,
            )
    return [outcomes[task.split.index] for task in tasks]


def _run(tasks: Sequence[SplitTask], limits: Limits, place: TaskRunner, on_progress: OnProgress) -> dict[int, Any]:
    return {split.index: outcome for split, outcome in place.run(tasks, limits, on_progress)}
