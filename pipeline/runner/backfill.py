"""Backfill: recomputes partitions of a table from its inputs, one commit each.

A partition's files are replaced in one commit, whose manifest also records that this backfill has completed it, so a
backfill that was killed resumes where it stopped. Inputs are read in the versions that the table last consumed, so a
later run processes exactly what is new. If the definition changed, the table counts as computed by it once every
partition is; until then, a run recomputes the entire table.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from pipeline.batch.executor import RayExecutor, StepLimits, executor_of
from pipeline.batch.retries import SplitTask
from pipeline.batch.step import StepSpec, task_spec_of
from pipeline.batch.task import run_task
from pipeline.batch.work import Outcome, Split, TaskSpec
from pipeline.commit.commit_plan import StagedRows, definition_to_validate, plan_commit
from pipeline.commit.post_commit import check_records, post_commit, update_quarantine
from pipeline.commit.quarantine import in_json, json_text, stage_quarantine
from pipeline.core.clock import Clock, now
from pipeline.core.definitions import Table
from pipeline.core.errors import ConflictError, HeadwaterError, OutcomeUnknownError, RequestError, StorageError
from pipeline.core.fingerprint import fingerprint
from pipeline.core.partition_fields import fields_of
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest, RowCounts, StagedFile
from pipeline.governance import BackfillRecord, RunRecord, StepRecord
from pipeline.kernel.budget import budget_here
from pipeline.kernel.engine import connect, one, schema_of
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import DataFile, Scan
from pipeline.kernel.types import stored
from pipeline.lake import Version, files_for, tombstones_without
from pipeline.project.workspace import Workspace
from pipeline.runner.contracts import require_same
from pipeline.runner.decide import Decision, DecisionKind
from pipeline.runner.facts import execution_plan_of, feed_of, is_computed_by, stored_inputs
from pipeline.runner.partitions import PartitionColumn, PartitionProducer, column_of, every_partition, within
from pipeline.runner.schedule import BlockedStep, Schedule

PARTIAL_PREFIX = "partly "
"""The prefix of the fingerprint of a table with partitions computed by another definition."""
_APPEND = Decision(DecisionKind.APPEND, "backfill")


@dataclass(frozen=True)
class BackfillOptions:
    """Which partitions to compute: `A..B` (also `A`, `A..`, `..B`), failed ones, or all; and whether to restart."""

    partitions: str | None = None
    failed: bool = False
    restart: bool = False
    parallel: int = 1


@dataclass(frozen=True)
class Backfill:
    """A planned backfill: the remaining and the completed partitions, and the versions of the inputs."""

    definition: Table
    version: Version
    inputs: Mapping[str, Version]
    column: PartitionColumn
    every: tuple[str | None, ...]
    left: tuple[str | None, ...]
    completed: tuple[str | None, ...]
    """The partitions that the same backfill has already completed."""
    parallel: int

    @property
    def id(self) -> str:
        """A hash of the definition and of its inputs' versions, which identifies the backfill."""
        manifest_ids = sorted((name, version.number, version.manifest_id) for name, version in self.inputs.items())
        by = self.definition.partition_by
        return fingerprint("backfill", self.definition.fingerprint, by, manifest_ids)


OnPartition = Callable[[BackfillRecord], None]


def plan_backfill(workspace: Workspace, name: str, options: BackfillOptions) -> Backfill:
    """Determine the partitions to compute; nothing is changed.

    Raises `RequestError` for a table that cannot be backfilled or partitions that do not exist, and `StorageError` if
    the table is not computed yet or the inputs it consumed are no longer available.
    """
    definition = _require_table(workspace, name)
    version = workspace.require(name)
    if version.manifest is None:
        raise RequestError(f"table {name!r} was not computed by a run", do="run the project first")
    field = fields_of(definition.partition_by)[0]
    inputs = {n: _consumed(workspace, name, n, version.manifest) for n in stored_inputs(workspace, definition)}
    draft = Backfill(definition, version, inputs, PartitionColumn(field, ""), (), (), (), options.parallel)
    same = version.manifest.backfill == draft.id and not options.restart
    work, split = _work(workspace, draft, "", "")
    with (
        connect(work.limits, filesystem=work.filesystem) as con,
        work.producer.for_validation(con, split) as input_query,
    ):
        query, hidden = input_query.query, input_query.hidden
        kept = tuple(c for c in stored(schema_of(con, query)).columns if c.name not in hidden)
        require_same(definition, _APPEND, version, Schema(kept))
        column = column_of(con, query, field)
        every = every_partition(con, column, [query, version.scan().query()])
        chosen = every if options.partitions is None else within(con, column, every, options.partitions)
    if options.failed:
        bad = {filled.partition for filled in workspace.catalog.filled(name) if filled.error is not None}
        chosen = tuple(p for p in chosen if p in bad)
    completed = tuple(version.manifest.backfilled) if same else ()
    left = tuple(p for p in chosen if p not in completed)
    return replace(draft, column=column, every=every, left=left, completed=completed)


def backfill(
    workspace: Workspace, plan: Backfill, *, on_partition: OnPartition = lambda _: None, clock: Clock = now
) -> tuple[BackfillRecord, ...]:
    """Compute the remaining partitions of a plan and return the result of each, in the order of completion.

    A failed partition is recorded with its error and keeps its rows; the others continue. Raises `ConflictError` if
    another run commits the table concurrently; partitions that are already committed stay completed.
    """
    post_commit(workspace, plan.definition, plan.version)
    begun, at = time.perf_counter(), clock().isoformat()
    run_id = f"{clock():%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    catalog, settings = workspace.catalog, workspace.settings
    workspace.lake.begin_run(run_id)
    catalog.begin(RunRecord(run_id, settings.name, settings.env, at, None, "running", None))
    catalog.end_killed(workspace.lake.reclaim(), at)
    filler = _PartitionWorker(workspace, plan, run_id, at)
    records: list[BackfillRecord] = []
    workspace.lake.note_staging(workspace.table(plan.definition.name), run_id, plan.version)
    try:

        def ended(filled: BackfillRecord) -> None:
            catalog.fill(filled)
            records.append(filled)
            on_partition(filled)

        filler.fill(ended)
        post_commit(workspace, plan.definition, filler.version)
        workspace.lake.end_run(run_id)
    except BaseException as error:
        catalog.end(run_id, clock().isoformat(), "failed" if isinstance(error, Exception) else "stopped", str(error))
        raise
    bad = [filled for filled in records if filled.error is not None]
    step = StepRecord(
        name=plan.definition.name,
        number=0,
        kind=plan.definition.kind,
        layer=plan.definition.layer,
        decision="backfill" if records else "skip",
        reason=f"{len(records) - len(bad)} of {len(plan.every)} partitions" + (f", {len(bad)} failed" if bad else ""),
        executor=filler.executor,
        version=filler.version.number,
        seconds=time.perf_counter() - begun,
        total_rows=filler.version.rows,
        flow=filler.flow,
        checks=check_records(plan.definition, filler.checks, filler.flow),
    )
    catalog.record(run_id, step)
    problem = f"{len(bad)} partitions failed, the first {bad[0].partition}: {bad[0].error}" if bad else None
    catalog.end(run_id, clock().isoformat(), "failed" if bad else "done", problem)
    return tuple(records)


@dataclass(frozen=True)
class _Computed:
    """A computed partition: its staged rows, or why it failed."""

    outcome: Outcome | None
    seconds: float = 0.0
    error: HeadwaterError | None = None


def _computed(work: TaskSpec, split: Split, **_: object) -> _Computed:
    """Compute a partition, here or on a worker."""
    begun = time.perf_counter()
    try:
        return _Computed(run_task(work, split), time.perf_counter() - begun)
    except HeadwaterError as error:
        return _Computed(None, error=error)


class _PartitionWorker:
    """Computes partitions, several concurrently, and commits them one after the other."""

    def __init__(self, workspace: Workspace, plan: Backfill, run_id: str, at: str) -> None:
        self.version = plan.version
        self.flow = RowCounts()
        self.checks: dict[str, int] = {}
        self.executor = "inline"
        self._workspace = workspace
        self._plan = plan
        self._run_id = run_id
        self._at = at
        self._completed = list(plan.completed)
        self._replaced: dict[str | None, tuple[ReplacedFiles, tuple[StagedFile, ...]]] = {}
        """What the partition that is computed replaces, if its rows are checked against the others."""

    def fill(self, ended: OnPartition) -> None:
        """Compute each remaining partition; raise errors that affect all of them.

        `ended` is called in this thread. Ctrl-C interrupts the statements of all partitions.
        """
        is_apart = keys_stay_in_partition(self._plan) or not self._plan.definition.key
        spec = _spec(self._workspace, self._plan, self._run_id, self._at)
        executor = executor_of(spec, self._workspace.settings, StepLimits(deadline=self._deadline()))
        if is_apart and isinstance(executor, RayExecutor):
            self.executor = "ray"
            for filled in self._on_cluster(executor):
                ended(filled)
            return
        left = {str(index): partition for index, partition in enumerate(self._plan.left)}

        def computed(index: str, outcome: _Computed | Exception | BlockedStep) -> None:
            if isinstance(outcome, Exception):
                raise outcome
            if isinstance(outcome, _Computed):  # partitions read nothing of each other, so none is blocked
                ended(self._commit_result(left[index], outcome))

        # with one thread, each partition sees the rows committed by the previous one
        threads = parallelism(self._plan)
        Schedule(dict.fromkeys(left, ()), lambda index: self._compute(int(index), left[index]), computed).run(threads)

    def _deadline(self) -> float | None:
        """Return when the backfill should end, in seconds since 1970: by the deadline of the table or of the settings."""
        given = (self._plan.definition.deadline, self._workspace.settings.cluster.deadline)
        known = [deadline.total_seconds() for deadline in given if deadline is not None]
        return time.time() + min(known) if known else None

    def _on_cluster(self, executor: RayExecutor) -> Iterator[BackfillRecord]:
        """Compute partitions on the workers of a cluster; a partition whose workers crash has failed."""
        left = dict(enumerate(self._plan.left))
        limits = executor.part(len(left))
        tasks = []
        for index, partition in left.items():
            work, split = self._task(index, partition)
            tasks.append(SplitTask(partial(_computed, replace(work, limits=limits)), split))
        for split, result in executor.run(tasks, limits, lambda _: None):
            yield self._commit_result(left.pop(split.index), result)
        for partition in left.values():
            problem = f"partition {partition} of table {self._plan.definition.name!r} crashes every worker"
            error = StorageError(problem, do="give the workers more memory", place=self._plan.definition.place)
            yield self._commit_result(partition, _Computed(None, error=error))

    def _commit_result(self, partition: str | None, computed: _Computed) -> BackfillRecord:
        filled = BackfillRecord(self._plan.definition.name, partition, self._plan.id, self._run_id, self._at)
        if computed.outcome is None:
            return replace(filled, error=str(computed.error))
        begun = time.perf_counter()
        try:
            manifest = self._commit(partition, computed.outcome)
        except (ConflictError, OutcomeUnknownError):
            raise
        except HeadwaterError as error:
            return replace(filled, error=str(error))
        update_quarantine(
            self._workspace, self._plan.definition, manifest
        )  # otherwise the next partition would not see these rows
        return replace(filled, rows=manifest.flow.rows_out, seconds=computed.seconds + time.perf_counter() - begun)

    def _task(self, index: int, partition: str | None) -> tuple[TaskSpec, Split]:
        plan = self._plan
        work, split = _work(self._workspace, plan, self._run_id, self._at)
        others = None
        if plan.definition.key and not keys_stay_in_partition(plan):
            replaced, kept = self._replaced[partition] = self._replacement(partition)
            root = self._workspace.table(plan.definition.name).storage.uri
            files = tuple(f for f in self.version.files if f.uri not in replaced.uris)
            files += tuple(DataFile(f"{root}/{file.path}", file.rows, file.size_bytes) for file in kept)
            others = Scan(self.version.schema, files)
        producer = PartitionProducer(work.producer, plan.column, partition)
        return replace(work, producer=producer, existing=others), replace(split, index=index)

    def _compute(self, index: int, partition: str | None) -> _Computed:
        return _computed(*self._task(index, partition))

    def _commit(self, partition: str | None, outcome: Outcome) -> Manifest:
        plan, before = self._plan, self.version
        manifest = before.manifest
        if manifest is None:
            raise StorageError(
                f"the manifest of table {plan.definition.name!r} is missing", do="recompute it with --full"
            )
        require_same(plan.definition, _APPEND, before, outcome.schema)
        completed = [*self._completed, partition]
        is_complete = set(plan.every) <= set(completed) or (
            is_computed_by(self._workspace, plan.definition, before, manifest.fingerprint)
        )
        others = f"where {_in_quarantine(plan.column)} is distinct from {json_text(plan.column.value(partition))}"
        writer = f"{self._run_id}-{len(completed)}-all"
        run_id = f"{self._run_id}-{len(completed)}"  # of the files of this commit
        merged = plan_commit(self._workspace, StagedRows(plan.definition, outcome, run_id, None))
        table = self._workspace.table(plan.definition.name)
        is_here = f"{_of_key(plan)} is not distinct from {plan.column.value(partition)}"
        kept = tombstones_without(table, tuple(manifest.tombstones), is_here, f"{run_id}-kept")
        manifest = replace(
            manifest,
            run_id=self._run_id,
            fingerprint=("" if is_complete else PARTIAL_PREFIX) + plan.definition.fingerprint,
            mode="merge",
            inputs={name: version.number for name, version in plan.inputs.items()},
            manifest_ids={name: version.manifest_id for name, version in plan.inputs.items()},
            flow=merged.flow,
            checks=dict(outcome.checks),
            quarantined=stage_quarantine(self._workspace, plan.definition.name, writer, merged.quarantined, others),
            quarantine_mode="overwrite",
            tombstones=(*kept, *merged.tombstones),
            backfill=plan.id,
            backfilled=tuple(completed),
            at=self._at,
        )
        prepared = self._replaced.pop(partition) if partition in self._replaced else self._replacement(partition)
        replaced, others_rows = prepared
        self.version = table.commit(manifest, (*merged.files, *others_rows), outcome.schema, before, replaced.uris)
        self._completed = completed
        read = merged.flow  # each partition filters the entire input, which is counted once
        self.flow = replace(self.flow + read, rows_in=read.rows_in, bytes_in=read.bytes_in)
        self.checks = {n: self.checks.get(n, 0) + count for n, count in outcome.checks.items()}
        return manifest

    def _replacement(self, partition: str | None) -> tuple[ReplacedFiles, tuple[StagedFile, ...]]:
        """Return the files that a partition replaces, and the staged rows of other partitions in them."""
        replaced = replaced_files(self._workspace, self.version, self._plan, partition)
        if not replaced.mixed:
            return replaced, ()
        scan = replace(self.version.scan(), files=replaced.mixed)
        rows = f"select * from ({scan.query()}) where not ({self._plan.column.holds(partition)})"
        run_id = f"{self._run_id}-{len(self._completed) + 1}-others"
        stager = self._workspace.table(self._plan.definition.name).stager(run_id)
        limits = budget_here(self._workspace.settings.memory_bytes).whole()
        with connect(limits, filesystem=self._workspace.lake.storage.filesystem()) as con:
            return replaced, stager.stage(con, rows, 0, scan.schema)


def _in_quarantine(column: PartitionColumn) -> str:
    """Return SQL for the text of the partition of a quarantined row."""
    text = in_json(column.name)
    return text if not column.field.transform else json_text(column.of(f"try_cast({text} as {column.of_type})"))


def _of_key(plan: Backfill) -> str:
    """Return SQL for the partition of a tombstone, if the partition column is in the key."""
    return plan.column.of(f"k{plan.definition.key.index(plan.column.name)}") if keys_stay_in_partition(plan) else "null"


@dataclass(frozen=True)
class ReplacedFiles:
    """The files with rows of a partition: those that have only such rows, and those that also have others."""

    whole: tuple[DataFile, ...]
    mixed: tuple[DataFile, ...] = ()
    """Files that were divided in another way; their other rows are written again."""

    @property
    def uris(self) -> frozenset[str]:
        """The URIs of all of them."""
        return frozenset(file.uri for file in (*self.whole, *self.mixed))


def replaced_files(workspace: Workspace, version: Version, plan: Backfill, partition: str | None) -> ReplacedFiles:
    """Return the files of a version that have rows of a partition."""
    table, column = workspace.table(plan.definition.name), plan.column
    if version.partition_by[:1] == (column.field.column,) and not column.field.transform:
        bounds = table.bounds(version, (column.name,))
        with connect() as con:
            con.register("_bounds", bounds)
            query = f"select uri from _bounds where min_0 is not distinct from {column.value(partition)}"
            uris = {str(row[0]) for row in con.execute(query).fetchall()}
        return ReplacedFiles(tuple(file for file in version.files if file.uri in uris))
    files = files_for(table, version, column.files(partition))
    rows = {file.uri: _rows_in(workspace, replace(version.scan(), files=(file,)), column, partition) for file in files}
    return ReplacedFiles(
        tuple(file for file in files if 0 < rows[file.uri] == file.rows),
        tuple(file for file in files if 0 < rows[file.uri] < file.rows),
    )


def _rows_in(workspace: Workspace, scan: Scan, column: PartitionColumn, partition: str | None) -> int:
    with connect(filesystem=workspace.lake.storage.filesystem()) as con:
        return int(one(con, f"select count(*) from ({scan.query()}) where {column.holds(partition)}")[0])


def keys_stay_in_partition(plan: Backfill) -> bool:
    """Return whether all rows of a key are always in the same partition."""
    return plan.column.name in plan.definition.key


def parallelism(plan: Backfill) -> int:
    """Return the number of partitions to compute concurrently; one if they may share keys."""
    return plan.parallel if keys_stay_in_partition(plan) or not plan.definition.key else 1


def _spec(workspace: Workspace, plan: Backfill, run_id: str, at: str) -> StepSpec:
    scans = {name: version.scan() for name, version in plan.inputs.items()}
    definition = cast("Table", definition_to_validate(workspace.with_artifacts(plan.definition)))
    return StepSpec(definition, execution_plan_of(workspace, plan.definition, scans), scans, run_id, at)


def _work(workspace: Workspace, plan: Backfill, run_id: str, at: str) -> tuple[TaskSpec, Split]:
    spec = _spec(workspace, plan, run_id, at)
    work = task_spec_of(spec, workspace.lake, workspace.settings)
    if plan.parallel > 1:
        budget = budget_here(workspace.settings.memory_bytes)
        work = replace(work, limits=Limits(budget.memory_bytes // plan.parallel, max(1, budget.slots // plan.parallel)))
    return work, Split(0, spec.scans[spec.execution_plan.driving])


def _consumed(workspace: Workspace, name: str, of: str, manifest: Manifest) -> Version:
    """Return the version of an input that the table last consumed; the newest one of an input that it did not read."""
    number = manifest.inputs.get(of)
    if number is None:
        return workspace.require(of, name)
    try:
        version = workspace.table(of).version(number, lenient=True)
    except StorageError:
        version = None
    if version is None or version.manifest_id != manifest.manifest_ids.get(of):
        raise StorageError(
            f"{name!r} consumed version {number} of {of!r}, which is no longer available",
            do=f"recompute it from the current inputs: headwater run --full --select {name}",
        )
    return version


def _require_table(workspace: Workspace, name: str) -> Table:
    definition = workspace.stored(name)
    problem = None
    if not definition.partition_by:
        problem = "is not partitioned", "add partition_by= to its definition, or recompute it: headwater run --full"
    elif not isinstance(definition, Table):
        problem = "is a source", "read it again: headwater run --full"
    elif definition.merge is not None and fields_of(definition.partition_by)[0].column not in definition.key:
        problem = "is merged, and rows of one key may be in several partitions", "recompute it: headwater run --full"
    elif definition.remembers or (definition.merge is not None and definition.merge.needs_events):
        problem = "has history that its inputs no longer contain", "recompute it: headwater run --full"
    elif feed_of(workspace, definition) is not None:
        problem = "reads a source that is not stored", "recompute it: headwater run --full"
    elif definition.is_dataset_function:
        problem = "is a function of entire datasets", "recompute it: headwater run --full"
    if problem is not None or not isinstance(definition, Table):
        words, do = problem or ("", "")
        raise RequestError(f"table {name!r} {words}: it cannot be backfilled", do=do, place=definition.place)
    return definition
