"""Compares a stream's table with the batch result of its definition on all rows that the stream has read.

The rows of the table and the rows that the stream would still emit from its state must together equal the batch result
on the rows that were read and not quarantined. For a stream that emits updates, the table alone must.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pipeline.batch.row_producers import SourceProducer
from pipeline.batch.work import Split
from pipeline.commit.commit_plan import definition_to_validate, row_key, schema_of_rows
from pipeline.core.clock import now
from pipeline.core.definitions import Action, LogTransform, StoredDefinition, Table
from pipeline.core.epochs import END, Epoch, InputProgress
from pipeline.core.errors import RequestError
from pipeline.core.schema import Schema
from pipeline.core.sources import INGESTED_AT, POSITION, SOURCE
from pipeline.kernel.budget import budget_here
from pipeline.kernel.change_events import EventColumns
from pipeline.kernel.checks import key_expectations
from pipeline.kernel.engine import arrow, connect, one
from pipeline.kernel.frames import call
from pipeline.kernel.sql_text import listed, literal, quoted
from pipeline.project.workspace import Workspace
from pipeline.streaming.operators.batch_form import batch_result_since
from pipeline.streaming.operators.operator import BEGINNING, PARTLY, WatermarkAdvance
from pipeline.streaming.planning.inputs import OffsetRanges, StreamInput
from pipeline.streaming.planning.plan import Planner, StreamPlan
from pipeline.streaming.runtime.source_task import AHEAD, NO_TIME
from pipeline.streaming.runtime.state_task import ShardConfig, StateTask

MOST_SHOWN = 20
_PIECE_ROWS = 1 << 18


@dataclass(frozen=True)
class VerifyResult:
    """The result of a comparison. Rows are compared as a multiset, floating-point numbers to 9 digits."""

    stream: str
    epoch: int
    rows_read: int
    rows_aside: int
    """Rows that were read and quarantined before the definition."""
    rows_expected: int
    rows_there: int
    """Rows in the table."""
    rows_remembered: int
    """Rows that the stream would still emit from its state."""
    missing: int
    unexpected: int
    doubled: int = 0
    """Number of keys with more than one row in the table."""
    lost: int = 0
    """Rows that the stream read and that its logs no longer contain: a topic was compacted, or files were removed."""
    is_by_row: bool = False
    """Whether each row of the table is computed from one row of the input."""
    differences: Sequence[Mapping[str, object]] = ()
    """The first differences: the row, with `_difference` set to `missing` or `unexpected`."""

    @property
    def holds(self) -> bool:
        """Whether both agree. If `is_by_row`, as many rows may be unexpected as were lost in the logs."""
        excused = self.lost if self.is_by_row else 0
        return self.missing == self.doubled == 0 and self.unexpected <= excused


def verify(workspace: Workspace, name: str) -> VerifyResult:
    """Compare a stream's table with the batch answer of its definition.

    Raises `RequestError` for a table that no stream has written, and `SourceError` if its log no longer contains what
    was read.
    """
    plan = Planner(workspace).plan(name)
    version = workspace.require(name)
    epoch = None if version.manifest is None else version.manifest.epoch
    if epoch is None:
        raise RequestError(f"{name!r} was not written by a stream", do=f"run `headwater stream {name}`")
    limits = budget_here(workspace.settings.memory_bytes).whole()
    with connect(limits, filesystem=workspace.lake.storage.filesystem()) as con:
        read, quarantined = 0, load_quarantined(con, workspace, plan)
        for stream_input in plan.inputs:
            read += _load(con, stream_input, epoch.inputs[stream_input.name])
        _create_batch_result(con, workspace, plan)
        table_rows = f"select * from ({version.scan().query()})"
        con.register("_to_come", pending_output(workspace, plan, epoch))
        pending = arrow(con, f"select * from _to_come where {_passes_expectations(plan.definition)}")
        con.register("_still", pending)
        stored_columns = schema_of_rows(plan.definition, plan.schema)
        columns = ", ".join(_compared(c.name, c.type) for c in stored_columns.columns if c.name != INGESTED_AT)
        con.execute(f"create temp table _there as select {columns} from ({table_rows} union all by name from _still)")
        con.execute(f"create temp table _expected as select {columns} from _answer")
        con.execute("create temp table _missing as from _expected except all from _there")
        con.execute("create temp table _unexpected as from _there except all from _expected")
        shown = " union all ".join(
            f"(select '{what}' as _difference, * from _{what} order by all limit {MOST_SHOWN})"
            for what in ("missing", "unexpected")
        )
        counts = {what: int(one(con, f"select count(*) from _{what}")[0]) for what in ("missing", "unexpected")}
        return VerifyResult(
            stream=name,
            epoch=epoch.number,
            rows_read=read,
            rows_aside=quarantined,
            rows_expected=int(one(con, "select count(*) from _expected")[0]),
            rows_there=version.rows,
            rows_remembered=pending.num_rows,
            missing=counts["missing"],
            unexpected=counts["unexpected"],
            doubled=_duplicate_keys(con, plan.definition),
            lost=max(epoch.totals.get("rows_in", read) - read, 0),
            is_by_row=plan.operator is None and plan.definition.merge is None,
            differences=arrow(con, shown).to_pylist(),
        )


def _duplicate_keys(con: duckdb.DuckDBPyConnection, definition: StoredDefinition) -> int:
    if not definition.key:
        return 0
    keys = f"select 1 from _there group by {listed(row_key(definition))} having count(*) > 1"
    return int(one(con, f"select count(*) from ({keys})")[0])


def load_quarantined(con: duckdb.DuckDBPyConnection, workspace: Workspace, plan: StreamPlan) -> int:
    """Create `_aside` with the log positions of rows that were rejected before the definition, and `_aside_texts`.

    `_aside_texts` counts the rejected rows without a position by their text: rows of a table of the lake that does not
    have the position columns. Equal rows are interchangeable.
    """
    quarantined = workspace.lake.quarantine(plan.name).version()
    con.execute(f"create temp table _aside ({SOURCE} varchar, {POSITION} bigint)")
    con.execute("create temp table _aside_texts (text varchar, n bigint)")
    con.execute(f"create temp table _notes ({SOURCE} varchar, {POSITION} bigint, watermark bigint)")
    if quarantined is not None:
        is_note = f"starts_with(reasons, {literal(PARTLY)})"
        con.execute(
            f"insert into _aside select {SOURCE}, {POSITION} from ({quarantined.scan().query()}) "
            f"where {POSITION} is not null and not {is_note}"
        )
        con.execute(
            f"insert into _notes select {SOURCE}, {POSITION}, epoch_us(substr(reasons, {len(PARTLY) + 1})::timestamp) "
            f"from ({quarantined.scan().query()}) where {is_note}"
        )
        why = {NO_TIME, AHEAD, *(prepared.late_reason for prepared in plan.prepared(0).values())}
        con.execute(
            f'insert into _aside_texts select "row", count(*) from ({quarantined.scan().query()}) '
            f"where {POSITION} is null and reasons in ({', '.join(map(literal, sorted(why)))}) group by 1"
        )
    return int(one(con, "select (select count(*) from _aside) + (select coalesce(sum(n), 0) from _aside_texts)")[0])


def _load(con: duckdb.DuckDBPyConnection, stream_input: StreamInput, reached: InputProgress) -> int:
    """Create a table named like the input with the rows that were read and not rejected."""
    con.register("_none", stream_input.empty_rows(con))
    con.execute(f"create temp table {quoted(stream_input.name)} as from _none")
    rows = 0
    for select, rows_in in read_again(con, stream_input, reached):
        con.execute(f"insert into {quoted(stream_input.name)} {select}")
        rows += rows_in
    return rows


def read_again(
    con: duckdb.DuckDBPyConnection, stream_input: StreamInput, reached: InputProgress
) -> Iterator[tuple[str, int]]:
    """Yield, for each range of an input that was read, a SELECT of its accepted rows, and the number of all rows.

    `load_quarantined` must have run before. Each SELECT must be run before the next one is requested.
    """
    for split in _splits(stream_input, reached):
        producer = stream_input.producer(None, now().isoformat())
        if isinstance(producer, SourceProducer):
            con.execute("drop table if exists _rejected; drop table if exists _read_rows")
        columns = ", ".join(map(quoted, stream_input.read_columns))
        with producer.for_validation(con, split) as input_query:
            kept = f"not exists (from _aside as a where a.{SOURCE} = r.{SOURCE} and a.{POSITION} = r.{POSITION})"
            unless_alike = _unless_alike(stream_input) if stream_input.is_of_lake else ""
            yield f"select {columns} from ({input_query.query}) as r where {kept}{unless_alike}", input_query.rows_in


def _unless_alike(stream_input: StreamInput) -> str:
    """Return SQL that excludes, of the rows without a position, as many as were rejected with the same text."""
    text = (
        f"to_json(struct_pack({', '.join(f'{quoted(n)} := {quoted(n)}' for n in stream_input.read_columns)}))::varchar"
    )
    return (
        f" qualify {POSITION} is not null or row_number() over (partition by {text}) "
        f"> coalesce((select n from _aside_texts as t where t.text = {text}), 0)"
    )


def _splits(stream_input: StreamInput, reached: InputProgress) -> list[Split]:
    splits = []
    available = stream_input.log.extents() if stream_input.log.traits.may_vanish else reached.offsets
    for uri, end in reached.offsets.items():
        if uri not in available:
            continue
        begin = 0 if stream_input.is_of_lake else reached.began.get(uri, 0)
        is_whole = stream_input.log.traits.has_whole_partitions
        cuts = [begin, end] if is_whole else [*range(begin, end, _PIECE_ROWS), end]
        splits += [OffsetRanges({uri: (a, b)}).splits(reached.stamps) for a, b in itertools.pairwise(cuts) if b > a]
    return [Split(number, source_splits=source_splits) for number, source_splits in enumerate(splits)]


def _create_batch_result(con: duckdb.DuckDBPyConnection, workspace: Workspace, plan: StreamPlan) -> None:
    """Create `_answer`, the rows of the definition without those that its expectations reject."""
    for name in plan.lookups:
        con.execute(f"create temp view {quoted(name)} as {workspace.require(name).scan().query()}")
    definition = plan.definition
    if plan.operator is None and plan.function is None:
        con.execute(f"create temp table _made as {plan.statement}")
    elif isinstance(definition, Table):
        con.register("_batch", _batch_rows(con, plan, definition))
        con.execute("create temp table _made as from _batch")
    made = f"select * from _made where {_passes_expectations(definition)}"
    con.execute(f"create temp view _answer as {_merge_query(definition, made, plan.schema)}")


def _batch_rows(con: duckdb.DuckDBPyConnection, plan: StreamPlan, definition: Table) -> pa.Table:
    """Return the result of a function or of a statement with state over all accepted rows.

    If some rows were too late for some of their windows, the operator is used, because only it knows in which they
    count.
    """
    inputs = {name: arrow(con, f"from {quoted(name)}") for name in definition.transform.inputs}
    noted = [int(row[0]) for row in con.execute("select distinct watermark from _notes order by 1").fetchall()]
    if plan.function is not None:
        return call(plan.function, inputs, definition.place)
    if plan.operator is None or not noted:
        contracts = {i.name: i.schema.names for i in plan.inputs}
        transform = definition.transform
        return transform.over_log(inputs, contracts) if isinstance(transform, LogTransform) else transform(**inputs)
    (name,) = plan.operator.inputs
    with_note = f"from {quoted(name)} left join _notes using ({SOURCE}, {POSITION})"
    by_watermark = {
        at: {name: arrow(con, f"select {quoted(name)}.* {with_note} where watermark is not distinct from {at}")}
        for at in noted
    }
    others = {name: arrow(con, f"select {quoted(name)}.* {with_note} where watermark is null")}
    return batch_result_since(plan.operator, {BEGINNING: others, **by_watermark})


def _merge_query(definition: StoredDefinition, rows: str, schema: Schema) -> str:
    """Return, for a table that merges rows by key, the last row of each key unless it is a delete."""
    how = definition.merge
    if how is None:
        return rows
    if how.needs_events:
        return EventColumns(how, definition.key, schema).of_all(f"({rows})")
    is_deleted = "false" if how.apply_as_deletes is None else f"coalesce(({how.apply_as_deletes}\n), false)"
    sequence = ", ".join(f"{quoted(name)} desc" for name in how.sequence_by)
    order = f"{sequence}, _gone desc, _made::varchar desc"
    last = f"row_number() over (partition by {listed(definition.key)} order by {order}) = 1"
    ranked = f"select *, {is_deleted} as _gone, _made from ({rows}) as _made qualify {last}"
    return f"select * exclude (_gone, _made) from ({ranked}) where not _gone"


def _passes_expectations(definition: StoredDefinition) -> str:
    """Return the condition that no expectation rejects a row."""
    expected = (*definition_to_validate(definition).expect, *key_expectations(definition.key))
    rejecting = [e.condition for e in expected if e.action in {Action.QUARANTINE, Action.DROP}]
    return " and ".join(f"coalesce(({condition}\n), false)" for condition in rejecting) or "true"


def pending_output(workspace: Workspace, plan: StreamPlan, epoch: Epoch) -> pa.Table:
    """Return the rows that a stream would still emit from its state at an epoch if its input ended."""
    if plan.operator is None or plan.emits == "upsert" or epoch.watermark >= END:
        return _empty(plan.schema)
    samples = plan.samples({name: workspace.require(name).schema for name in plan.lookups})
    storage = workspace.table(plan.name).storage
    with ExitStack() as stack:
        state_task = StateTask(ShardConfig(plan.operator, samples, 0, 1, storage, epoch=epoch))
        stack.callback(state_task.close)
        return state_task.advance({}, WatermarkAdvance(epoch.watermark, END))


def _empty(schema: Schema) -> pa.Table:
    with connect() as con:
        columns = ", ".join(f"null::{c.type} as {quoted(c.name)}" for c in schema.columns)
        return arrow(con, f"select {columns} limit 0")


def _compared(name: str, kind: str) -> str:
    if kind in {"DOUBLE", "FLOAT"}:
        return f"printf('%.8e', {quoted(name)}) as {quoted(name)}"
    return f"{quoted(name)}::{kind} as {quoted(name)}"
