"""Retries of splits: a split with a possibly transient failure is retried once, separately, and named if it fails again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pipeline.batch.work import Split
from pipeline.core.definitions import StoredDefinition
from pipeline.core.errors import HeadwaterError, SourceError, SplitError, StorageError
from pipeline.core.logs import logger

log = logger(__name__)
Task = Callable[..., Any]


@dataclass(frozen=True)
class FailedTask:
    """The result of a task that could not read or write, which may be transient."""

    error: HeadwaterError


class TaskRunner(Protocol):
    """Runs tasks."""

    def run(
        self, task: Task, splits: Sequence[Split], on_progress: Callable[[float], None]
    ) -> Iterator[tuple[Split, Any]]:
        """Run a task for every split, and yield each split with its result; a split whose worker crashed is omitted."""


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
    splits: Sequence[Split],
    place: TaskRunner,
    task: Task,
    on_progress: Callable[[float], None],
) -> list[Any]:
    """Run all splits, and return their results in order.

    A split that could not read or write, or whose worker crashed, is retried separately. Raises the error of a second
    failure, and `StorageError` with the split's files and bytes if its worker crashes again.
    """
    outcomes = _run(splits, place, task, on_progress)
    for split in splits:
        if not isinstance(outcomes.get(split.index), FailedTask | None):
            continue
        failure = outcomes.get(split.index)
        reason = str(failure.error) if isinstance(failure, FailedTask) else "its worker crashed"
        log.warning("retrying split", split=str(split), reason=reason)
        outcomes |= _run([replace(split, is_last_try=True)], place, task, on_progress)
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
    return [outcomes[split.index] for split in splits]


def _run(
    splits: Sequence[Split], place: TaskRunner, task: Task, on_progress: Callable[[float], None]
) -> dict[int, Any]:
    return {split.index: outcome for split, outcome in place.run(task, splits, on_progress)}
