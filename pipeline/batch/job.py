"""The execution of a step: its specification, its task, its executor and its progress callback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.batch.duplicate_keys import combine_outcomes
from pipeline.batch.executor import Executor, combined_split
from pipeline.batch.retries import OnProgress, SplitTask, run_with_retry
from pipeline.batch.step import StepSpec
from pipeline.batch.task import run_task
from pipeline.batch.work import Outcome, RowProducer, Split, TaskSpec
from pipeline.kernel.pool import Limits


@dataclass(frozen=True)
class StepExecution:
    """A step that is being executed; the limits of `work` are those of a task that runs alone in this process."""

    spec: StepSpec
    work: TaskSpec
    executor: Executor
    on_progress: OnProgress

    def run_each(self, run: Callable[..., Any], splits: Sequence[Split], limits: Limits) -> list[Any]:
        """Call a function with every split, with these limits, and return the results in the order of the splits."""
        return self.run_tasks([SplitTask(run, split) for split in splits], limits)

    def run_tasks(self, tasks: Sequence[SplitTask], limits: Limits) -> list[Any]:
        """Run tasks whose splits have different indexes, and return the results in order."""
        return run_with_retry(self.spec.definition, tasks, limits, self.executor, self.on_progress)

    def run_alone(self, split: Split, **changes: Any) -> Outcome:
        """Run the task with these changes on one split, which contains all rows."""
        limits = self.executor.whole(max(split.size_bytes, self.spec.size_bytes))
        work = replace(self.work, limits=limits, **changes)
        outcome: Outcome = self.run_each(partial(run_task, work), [split], limits)[0]
        return outcome

    def run_here(self, split: Split, producer: RowProducer) -> Outcome:
        """Run the task in this process on the rows of a producer, which may be produced only once."""
        return run_task(replace(self.work, producer=producer), split, self.on_progress)

    def run_all(self, splits: Sequence[Split]) -> Outcome:
        """Run the task on every split, and return the combined outcome, with one row per key."""
        limits = self.executor.part(len(splits))
        outcomes = self.run_each(partial(run_task, replace(self.work, limits=limits)), splits, limits)
        combined = combine_outcomes(self.work, outcomes)
        return self.run_alone(combined_split(self.spec, splits)) if combined is None else combined

    def with_progress(self, begin: float, end: float) -> StepExecution:
        """Return the execution with its progress scaled from the range 0 to 1 to the range `begin` to `end`."""
        return replace(self, on_progress=lambda share: self.on_progress(begin + (end - begin) * share))
