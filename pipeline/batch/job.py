"""The execution of a step: its specification, its task, its executor and its progress callback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.batch.division import DivisionPolicy
from pipeline.batch.duplicate_keys import combine_outcomes
from pipeline.batch.executor import Executor, combined_split
from pipeline.batch.retries import OnStage, SplitTask, TaskRound
from pipeline.batch.step import StepSpec
from pipeline.batch.task import run_task
from pipeline.batch.work import Outcome, RowProducer, Split, TaskSpec
from pipeline.core.errors import StorageError
from pipeline.kernel.pool import Limits


@dataclass(frozen=True)
class StepExecution:
    """A step that is being executed; the limits of `work` are those of a task that runs alone in this process."""

    spec: StepSpec
    work: TaskSpec
    executor: Executor
    on_stage: OnStage
    stage: str = ""
    begin: float = 0.0
    """The completed fraction of the step at the begin of its stage, and at its end."""
    end: float = 1.0

    def run_each(self, run: Callable[..., Any], splits: Sequence[Split], limits: Limits) -> list[Any]:
        """Call a function with every split, with these limits, and return the results in the order of the splits.

        A split that crashes its workers is divided if the strategy allows it, and has a result for each part.
        """
        tasks = [SplitTask(run, split) for split in splits]
        reads, plan = self.spec.reads, self.spec.execution_plan
        policy = DivisionPolicy(self.spec.reader, reads is not None and reads.unreadable == "quarantine")
        may_divide = plan.splits_alone or plan.strategy == "partial"
        return self._round(limits, policy if may_divide else None).results(tasks)

    def _round(self, limits: Limits, policy: DivisionPolicy | None = None) -> TaskRound:
        return TaskRound(self.spec.definition, limits, self.executor, self._report, policy)

    def run_tasks(self, tasks: Sequence[SplitTask], limits: Limits) -> list[Any]:
        """Run tasks whose splits have different indexes, and return the results in order."""
        return self._round(limits).results(tasks)

    def run_alone(self, split: Split, **changes: Any) -> Outcome:
        """Run the task with these changes on one split, which contains all rows."""
        limits = self.executor.whole(max(split.size_bytes, self.spec.size_bytes))
        work = replace(self.work, limits=limits, **changes)
        outcomes: list[Outcome] = self.run_each(partial(run_task, work), [split], limits)
        outcome = outcomes[0] if len(outcomes) == 1 else combine_outcomes(work, outcomes)
        if outcome is None:
            problem = f"table {work.table!r} cannot be computed: a split with duplicate keys crashes its workers"
            raise StorageError(problem, got=str(split), do="give the workers more memory", place=work.place)
        return outcome

    def run_here(self, split: Split, producer: RowProducer) -> Outcome:
        """Run the task in this process on the rows of a producer, which may be produced only once."""
        return run_task(replace(self.work, producer=producer), split, self._report)

    def run_all(self, splits: Sequence[Split]) -> Outcome:
        """Run the task on every split, and return the combined outcome, with one row per key."""
        limits = self.executor.part(len(splits))
        outcomes = self.run_each(partial(run_task, replace(self.work, limits=limits)), splits, limits)
        combined = combine_outcomes(self.work, outcomes)
        return self.run_alone(combined_split(self.spec, splits)) if combined is None else combined

    def in_stage(self, stage: str, begin: float, end: float) -> StepExecution:
        """Return the execution in a stage that begins now, with its part of the step's progress and remaining time."""
        executor = self.executor.within((end - begin) / (1 - begin))
        return replace(self, executor=executor, stage=stage, begin=begin, end=end)

    def _report(self, share: float) -> None:
        self.on_stage(self.begin + (self.end - self.begin) * share, self.stage)
