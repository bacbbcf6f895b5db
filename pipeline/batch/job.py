"""The execution of a step: its specification, its task, its executor and its progress callback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.batch.duplicate_keys import combine_outcomes
from pipeline.batch.executor import Executor, OnProgress, combined_split
from pipeline.batch.retries import run_with_retry
from pipeline.batch.step import StepSpec
from pipeline.batch.task import run_task
from pipeline.batch.work import Outcome, Split, TaskSpec
from pipeline.core.errors import SourceError, SplitError


@dataclass(frozen=True)
class StepExecution:
    """A step that is being executed."""

    spec: StepSpec
    work: TaskSpec
    executor: Executor
    on_progress: OnProgress

    def run_each(self, task: Callable[..., Any], splits: Sequence[Split]) -> list[Any]:
        """Run a task for every split, and return the results in the order of the splits."""
        return run_with_retry(self.spec.definition, splits, self.executor, task, self.on_progress)

    def run_alone(self, split: Split, **changes: Any) -> Outcome:
        """Run the task with these changes on one split in this process, with the entire budget."""
        work = replace(self.work, limits=self.executor.here.whole(), **changes)
        try:
            return run_task(work, split, self.on_progress)
        except SourceError as error:
            if isinstance(error, SplitError) or not split.source_splits:
                raise
            return run_task(work, replace(split, is_last_try=True), self.on_progress)

    def run_all(self, splits: Sequence[Split]) -> Outcome:
        """Run the task on every split, and return the combined outcome, with one row per key."""
        outcomes = self.run_each(partial(run_task, self.work), splits)
        combined = combine_outcomes(replace(self.work, limits=self.executor.here.whole()), outcomes)
        return self.run_alone(combined_split(self.spec, splits)) if combined is None else combined

    def with_progress(self, begin: float, end: float) -> StepExecution:
        """Return the execution with its progress scaled from the range 0 to 1 to the range `begin` to `end`."""
        return replace(self, on_progress=lambda share: self.on_progress(begin + (end - begin) * share))
