"""Trying a step's splits: one that fails in a way that may pass is tried once more, by itself, and named if it fails again."""

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
    """What a task gave that could not read or write: it may, a second time."""

    error: HeadwaterError


class TaskRunner(Protocol):
    """Where tasks work."""

    def run(
        self, task: Task, splits: Sequence[Split], on_progress: Callable[[float], None]
    ) -> Iterator[tuple[Split, Any]]:
        """Run a task for every split and yield each with what it gave; a split whose worker was lost gives nothing."""


def result_or_failure(task: Callable[[], Any]) -> Any:
    """Return what a task gives, or `FailedTask` for an error of reading or writing that may pass."""
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
    """Run all splits and return what each gave, in their order.

    A split that could not read or write, or whose worker was lost, is tried again by itself. Raises the error of a
    second failure, and `StorageError` with the split's files and bytes when its worker is lost again.
    """
    outcomes = _run(splits, place, task, on_progress)
    for split in splits:
        if not isinstance(outcomes.get(split.index), FailedTask | None):
            continue
        failure = outcomes.get(split.index)
        reason = str(failure.error) if isinstance(failure, FailedTask) else "its worker was lost"
        log.warning("split is tried again", split=str(split), reason=reason)
        outcomes |= _run([replace(split, is_last_try=True)], place, task, on_progress)
        outcome = outcomes.get(split.index)
        if isinstance(outcome, FailedTask):
            raise outcome.error
        if outcome is None:
            raise StorageError(
                f"table {definition.name!r} cannot be made: one split ends every worker that takes it",
                got=str(split),
                do="take this input away, or give the workers more memory; nothing was committed",
                place=definition.place,
            )
    return [outcomes[split.index] for split in splits]


def _run(
    splits: Sequence[Split], place: TaskRunner, task: Task, on_progress: Callable[[float], None]
) -> dict[int, Any]:
    return {split.index: outcome for split, outcome in place.run(task, splits, on_progress)}
