"""Validates and stages the rows of an epoch in a DuckDB instance that stays open, with the same passes as in batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import pyarrow as pa

from pipeline.batch.duckdb_errors import translate_errors
from pipeline.batch.fast_path import fast_path
from pipeline.batch.row_producers import ArrowProducer
from pipeline.batch.type_changes import discarded_checks
from pipeline.batch.validating_pass import stage_quarantine, validating_pass
from pipeline.batch.work import InputQuery, Outcome, Split, TaskSpec
from pipeline.commit.commit_plan import definition_to_validate
from pipeline.core.errors import StorageError
from pipeline.core.logs import logger
from pipeline.core.staging import RowCounts
from pipeline.kernel.budget import budget_here
from pipeline.kernel.checks import key_expectations
from pipeline.kernel.engine import connect
from pipeline.kernel.profile import start_profiling
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import listed
from pipeline.lake import DeltaStager, Version
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.plan import StreamPlan
from pipeline.streaming.runtime.source_task import SourceBatch
from pipeline.streaming.runtime.state_task import FOLDER

log = logger(__name__)
_PENDING, _KEYS = "_given", "_keys_before"


@dataclass
class PendingRows:
    """The emitted and rejected rows of the micro-batches since the last commit."""

    since: float = 0.0
    """When the last commit started, by the monotonic clock."""
    has_progress: bool = False
    """Whether the stream has advanced since its last commit, even if no rows were emitted."""
    rows: list[pa.Table] = field(default_factory=list)
    """In the order of the micro-batches. If the stream emits updates, the last row of a key is effective."""
    quarantined: list[pa.Table] = field(default_factory=list)
    rows_in: int = 0
    bytes_in: int = 0
    late: int = 0
    rejected: int = 0
    ahead: int = 0
    discarded: Counter[str] = field(default_factory=Counter)
    """The number of values that were replaced by null, by column."""

    def note(self, batch: SourceBatch) -> None:
        """Add the counts and rejected rows of a batch."""
        self.rows_in += batch.rows_in
        self.bytes_in += batch.bytes_in
        self.late += batch.late
        self.rejected += batch.rejected
        self.ahead += batch.ahead
        self.discarded.update(batch.discarded)
        if batch.quarantined is not None:
            self.quarantined.append(batch.quarantined)

    def add(self, rows: pa.Table) -> None:
        """Add emitted rows."""
        if rows.num_rows:
            self.rows.append(rows)

    @property
    def is_empty(self) -> bool:
        """Whether a commit would contain only progress."""
        return not self.rows and not self.quarantined


@dataclass(frozen=True)
class StagedEpoch:
    """An epoch whose files are written, but to which no commit refers."""

    run_id: str
    outcome: Outcome


class EpochStager:
    """Validates rows against the table's expectations and stages them."""

    def __init__(self, workspace: Workspace, plan: StreamPlan, *, anew: bool = False) -> None:
        """Open the DuckDB instance, and load the keys of the table unless it is rebuilt (`anew`)."""
        self._anew = anew
        definition = definition_to_validate(plan.definition)
        table = workspace.table(plan.name)
        self._plan = plan
        self._quarantine_storage = workspace.lake.quarantine(plan.name).storage
        self._stack = ExitStack()
        filesystem = workspace.lake.storage.filesystem()
        limits = budget_here(workspace.settings.memory_bytes).whole()
        self._con = self._stack.enter_context(connect(limits, filesystem=filesystem, keep=False))
        start_profiling(self._con)
        self._stager = table.stager("")
        self._checks_keys = bool(definition.key) and plan.emits == "append" and not hasattr(plan.operator, "grouping")
        if self._checks_keys:  # a grouped statement has one row per key by construction
            self._load_keys(table.version(lenient=True), definition.key)
        self._work = TaskSpec(
            table=plan.name,
            place=definition.place,
            producer=ArrowProducer(pa.table({}), 0),
            stager=self._stager,
            quarantined=self._stager,
            run_id="",
            at="",
            expectations=(*definition.expect, *key_expectations(definition.key)),
            key=definition.key,
            merge=definition.merge,
            keys_known=f"from {_KEYS}" if self._checks_keys else None,
            is_ranked=False,
            limits=limits,
            filesystem=filesystem,
        )

    def _load_keys(self, version: Version | None, key: tuple[str, ...]) -> None:
        """Load the existing keys, because the first row of a key is kept across epochs."""
        scan = Scan(self._plan.schema) if version is None or self._anew else version.scan()
        self._con.execute(f"create table {_KEYS} as select {listed(key)} from ({scan.query()})")

    def close(self) -> None:
        """Close the DuckDB instance."""
        self._stack.close()

    def stage(self, pending: PendingRows, run_id: str, at: str) -> Outcome:
        """Validate and stage the pending rows in files named after `run_id`; raise `ExpectationError` like batch."""
        work = replace(
            self._work,
            stager=replace(self._stager, run_id=run_id),
            quarantined=DeltaStager(self._quarantine_storage, run_id),
            run_id=run_id,
            at=at,
        )
        outcome = Outcome(self._plan.schema, RowCounts(), checks={e.name: 0 for e in work.expectations})
        if pending.rows:
            with translate_errors(work):
                outcome = self._validate(work, pending.rows)
            if self._checks_keys and outcome.files:
                names = listed(work.key)
                self._con.execute(f"insert into {_KEYS} select {names} from {work.stager.scan(outcome.files)}")
        quarantined = outcome.quarantined
        if pending.quarantined:
            self._con.register("_set_aside", pa.concat_tables(pending.quarantined))
            quarantined += stage_quarantine(
                self._con, work, Split(1), ["select reasons, _source, _position, row from _set_aside"]
            )
            self._con.unregister("_set_aside")
        rejected = pending.late + pending.rejected + pending.ahead
        flow = replace(
            outcome.flow,
            rows_in=pending.rows_in,
            bytes_in=pending.bytes_in,
            late=pending.late,
            rows_made=outcome.flow.rows_made + rejected,
            quarantined=outcome.flow.quarantined + rejected,
        )
        checks = {**outcome.checks, **discarded_checks(pending.discarded)}
        return replace(outcome, flow=flow, quarantined=quarantined, checks=checks)

    def forget(self, staged: StagedEpoch) -> None:
        """Forget the keys of an epoch that will not be committed. Its files are still there."""
        files = staged.outcome.files
        if self._checks_keys and files:
            names = listed(self._work.key)
            scan = replace(self._stager, run_id=staged.run_id).scan(files)
            self._con.execute(f"delete from {_KEYS} where ({names}) in (select ({names}) from {scan})")

    def _validate(self, work: TaskSpec, batches: Sequence[pa.Table]) -> Outcome:
        rows = pa.concat_tables(batches)
        query = f"from {_PENDING}"
        if self._plan.emits == "upsert" and len(batches) > 1:
            numbers = [number for number, batch in enumerate(batches) for _ in range(batch.num_rows)]
            rows = rows.append_column("_batch", pa.array(numbers, pa.int64()))
            last = f"row_number() over (partition by {listed(work.key)} order by _batch desc) = 1"
            query = f"select * exclude (_batch) from {_PENDING} qualify {last}"
        self._con.register(_PENDING, rows)
        try:
            input_query = InputQuery(query, rows_in=rows.num_rows, hidden=self._plan.hidden)
            split = Split(0)
            result = fast_path(self._con, work, split, input_query)
            if isinstance(result, Outcome):
                return result
            log.info("validating pass", reason=result.reason, rows=rows.num_rows)
            return replace(validating_pass(self._con, work, split, input_query), fallbacks={result.reason: 1})
        finally:
            self._con.unregister(_PENDING)


def remove_staged(workspace: Workspace, name: str, staged: StagedEpoch) -> None:
    """Remove the files of an epoch that will not be committed. A failure to remove them is logged."""
    table, quarantined = workspace.table(name).storage, workspace.lake.quarantine(name).storage
    try:
        table.remove([file.path for file in staged.outcome.files])
        quarantined.remove([file.path for file in staged.outcome.quarantined])
        state = [file for file in table.list_folder(FOLDER) if file.startswith(f"{staged.run_id}-")]
        table.remove([f"{FOLDER}/{file}" for file in state])
    except StorageError as error:
        log.warning("files of an aborted epoch remain", table=name, error=str(error))
