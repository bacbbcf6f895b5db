"""The context shared by the steps of a run."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pipeline.batch.planning import EXPANSION, ExecutionPlan
from pipeline.batch.step import StepSpec
from pipeline.commit.moments import Moment
from pipeline.core.clock import Clock
from pipeline.core.definitions import Definition, StoredDefinition, Table
from pipeline.core.errors import HeadwaterError
from pipeline.governance import StepRecord
from pipeline.kernel.budget import MemoryPool, budget_here
from pipeline.lake import Version
from pipeline.project.workspace import Workspace
from pipeline.runner.deadlines import Deadlines
from pipeline.runner.decide import Decision, RunOptions
from pipeline.runner.events import Event, Observer, StepProgress
from pipeline.runner.shared_reads import SharedReads
from pipeline.streaming.planning.streamed import StreamedDefinitions


@dataclass(frozen=True)
class PlannedStep:
    """A definition in a plan: the decision, and for a table the execution plan."""

    definition: Definition
    decision: Decision
    execution_plan: ExecutionPlan | None = None
    error: HeadwaterError | None = None
    """Why the decision is `FAIL`."""


STORE_THREADS = 32
"""The least number of concurrent steps with a lake on an object store: small steps wait for it most of the time."""
STORE_SHARES = 8
"""Among how many of these steps the memory is divided; the others wait with what they have read of the lake's logs."""


class RunContext:
    """The context of a run for its steps; thread-safe. Each input version is read once, and all steps use one clock."""

    def __init__(self, workspace: Workspace, options: RunOptions, observer: Observer, clock: Clock) -> None:
        """Create the context without opening anything."""
        self.workspace = workspace
        self.options = options
        self.run_id = f"{clock():%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        budget = budget_here(workspace.settings.memory_bytes)
        is_local = workspace.lake.storage.is_local
        self.threads = options.threads or max(budget.slots, 0 if is_local else STORE_THREADS)
        self.memory = MemoryPool(budget, min(self.threads, max(budget.slots, 0 if is_local else STORE_SHARES)))
        self.streamed = StreamedDefinitions(workspace)
        self.deadlines = Deadlines(None, {})
        self.shared_reads = SharedReads()
        self._observer = observer
        self._clock = clock
        self._lock = threading.Lock()
        self._versions: dict[str, Version] = {}
        """The versions of inputs that this run has read or committed; one per input."""

    def at(self) -> str:
        """Return the time, ISO 8601."""
        return self._clock().isoformat()

    def start_deadlines(self, steps: Collection[str]) -> None:
        """Divide the deadline of the run, if it has one, between its steps; its time starts now."""
        deadline = self.options.deadline or self.workspace.settings.cluster.deadline
        if deadline is not None:
            last = {name: self.workspace.catalog.last_step(name) for name in steps}
            ends_at = (self._clock() + deadline).timestamp()
            self.deadlines = Deadlines(ends_at, {n: None if step is None else step.seconds for n, step in last.items()})

    def deadline_of(self, definition: StoredDefinition) -> float | None:
        """Return when a step that begins now should end, in seconds since 1970; `None`: as soon as possible."""
        own = definition.deadline if isinstance(definition, Table) else None
        return self.deadlines.of(definition.name, self._clock().timestamp(), own)

    def reserve(self, spec: StepSpec, before_bytes: int = 0) -> AbstractContextManager[int]:
        """Wait for the memory that a step needs in this process, with this size of existing rows; yield its bytes."""
        if spec.is_dataset:
            return self.memory.reserve(None)
        is_here = spec.execution_plan.executor != "ray"
        return self.memory.reserve(EXPANSION * (spec.size_bytes + before_bytes) if is_here else 0)

    def version(self, name: str, reader: str) -> Version:
        """Return the version of an input that this run uses; raise `StorageError` if it is not computed yet."""
        with self._lock:
            if name not in self._versions:
                self._versions[name] = self.workspace.require(name, reader, is_streamed=name in self.streamed)
            return self._versions[name]

    def keep_version(self, name: str, version: Version) -> None:
        """Set the version of a table that downstream steps use."""
        self._versions[name] = version

    def notify(self, moment: Moment, name: str = "", note: str = "", step: StepRecord | None = None) -> None:
        """Notify the observer that the run has reached a moment."""
        self._observer(Event(moment, self.run_id, name, note, step))

    def notify_progress(self, spec: StepSpec, share: float, stage: str) -> None:
        """Notify the observer of the progress of a step."""
        progress = StepProgress(share, spec.execution_plan.rows, spec.execution_plan.size_bytes, stage)
        self._observer(Event(Moment.WORKING, self.run_id, spec.definition.name, work=progress))
