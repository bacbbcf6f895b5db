"""A step under way: what is asked for, the work of its tasks, where they run, and who hears how far they are."""

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
    """What the ways to do a step are given."""

    spec: StepSpec
    work: TaskSpec
    layout: Executor
    on_progress: OnProgress

    def run_each(self, task: Callable[..., Any], splits: Sequence[Split]) -> list[Any]:
        """Run a task for every split and return what each gave, in their order."""
        return run_with_retry(self.spec.definition, splits, self.layout, task, self.on_progress)

    def run_alone(self, split: Split, **changes: Any) -> Outcome:
        """Do the work, changed, on one split in this process, with all that it may take."""
        work = replace(self.work, limits=self.layout.here.whole(), **changes)
        try:
            return run_task(work, split, self.on_progress)
        except SourceError as error:
            if isinstance(error, SplitError) or not split.parts:
                raise
            return run_task(work, replace(split, is_last_try=True), self.on_progress)

    def run_all(self, splits: Sequence[Split]) -> Outcome:
        """Do the work on every split, and return it as one, with one row for each key."""
        outcomes = self.run_each(partial(run_task, self.work), splits)
        combined = combine_outcomes(replace(self.work, limits=self.layout.here.whole()), outcomes)
        return self.run_alone(combined_split(self.spec, splits)) if combined is None else combined

    def with_progress(self, begin: float, end: float) -> StepExecution:
        """Return the job with its progress from 0 to 1 told as from `begin` to `end`."""
        return replace(self, on_progress=lambda share: self.on_progress(begin + (end - begin) * share))
