"""Readable views of a stream's state: that of its last commit, or that of a stream running in this process."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pipeline.core.epochs import END, Epoch
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.sql_text import literal, quoted
from pipeline.project.workspace import Workspace
from pipeline.streaming.operators.operator import WatermarkAdvance
from pipeline.streaming.operators.snapshots import tables_in
from pipeline.streaming.operators.state_columns import PREFIX
from pipeline.streaming.planning.plan import Planner, StreamPlan
from pipeline.streaming.runtime.state_task import ShardConfig, StateTask
from pipeline.streaming.runtime.stream import Stream

OPEN = "open"
"""The rows that would be emitted if the input ended now: open windows and sessions with their current values."""
_TIMES = frozenset({"_from", "_until", "_at", "_end"})


@dataclass(frozen=True)
class StateView:
    """The state of a stream at a commit: `open`, the rows that are not emitted yet, and the state tables."""

    stream: str
    epoch: int
    watermark: int
    tables: Mapping[str, pa.Table]
    size_bytes: int
    """The size of the state files."""

    def table(self, name: str | None = None) -> pa.Table:
        """Return a table; the default is the first one (`open` if it exists). Raise `RequestError` if it is unknown."""
        chosen = next(iter(self.tables)) if name is None else name
        if chosen not in self.tables:
            raise RequestError(f"stream {self.stream!r} has no table {chosen!r}", do=did_you_mean(chosen, self.tables))
        return self.tables[chosen]


def committed_state(workspace: Workspace, name: str) -> StateView:
    """Return the state of a stream as of its last commit.

    Raises `RequestError` for a stream without state, and `StorageError` for a state file that is damaged or missing.
    """
    plan = Planner(workspace).plan(name)
    version = workspace.require(name)
    epoch = None if version.manifest is None else version.manifest.epoch
    if epoch is None:
        raise RequestError(f"{name!r} was not written by a stream", do=f"run `headwater stream {name}`")
    if plan.operator is None:
        raise RequestError(f"stream {name!r} has no state: it processes rows independently")
    is_as_then = _is_readable(epoch, plan)
    tables = _with_open(workspace, plan, epoch) if is_as_then else _as_kept(workspace, name, epoch)
    return StateView(name, epoch.number, epoch.watermark, tables, sum(file.size_bytes for file in epoch.state))


def live(stream: Stream, table: str | None = None) -> dict[str, pa.Table]:
    """Return the current, uncommitted state of a stream in this process. Must be called by the thread that runs it."""
    return {name: readable(rows) for name, rows in stream.state_tables(table).items()}


def where(rows: pa.Table, keys: Mapping[str, str], limit: int | None = None) -> pa.Table:
    """Return the rows whose columns, as text, have the values of `keys`; raise `RequestError` for an unknown column."""
    for column in keys:
        if column not in rows.column_names:
            raise RequestError(f"there is no column {column!r}", do=did_you_mean(column, rows.column_names))
    chosen = " and ".join(f"{quoted(c)}::varchar = {literal(value)}" for c, value in keys.items()) or "true"
    most = "" if limit is None else f" limit {limit}"
    with connect() as con:
        con.register("_remembered", rows)
        return arrow(con, f"select * from _remembered where {chosen} order by all{most}")


def readable(rows: pa.Table) -> pa.Table:
    """Return a state table in readable form: times as timestamps, keys by number, without internal columns."""
    with connect() as con:
        con.register("_kept", rows)
        columns = [shown for field in rows.schema if (shown := _shown(field)) is not None]
        return arrow(con, f"select {', '.join(columns) or 'null as nothing'} from _kept")


def _shown(field: pa.Field) -> str | None:
    name = str(field.name)
    if name in _TIMES:
        bounded = f"case when abs({quoted(name)}) < {1 << 58} then make_timestamp({quoted(name)}) end"
        return f"{bounded} as {quoted(name.removeprefix('_'))}"
    if name.startswith("_k") and name[2:].isdigit():
        return f"{quoted(name)} as {quoted(f'key_{int(name[2:]) + 1}')}"
    return None if name.startswith("_") else f"{quoted(name)} as {quoted(name.removeprefix(PREFIX))}"


def _is_readable(epoch: Epoch, plan: StreamPlan) -> bool:
    """Return whether the state of an epoch fits the current definition and DuckDB version."""
    now = plan.identity
    is_first = epoch.format_version == 1 and epoch.definition == plan.first_fingerprint
    return epoch.engine == duckdb.__version__ and (is_first or (now is not None and epoch.identity == now))


def _with_open(workspace: Workspace, plan: StreamPlan, epoch: Epoch) -> dict[str, pa.Table]:
    if plan.operator is None:
        raise AssertionError(plan.name)
    samples = plan.samples({name: workspace.require(name).schema for name in plan.lookups})
    config = ShardConfig(plan.operator, samples, 0, 1, workspace.table(plan.name).storage, epoch=epoch)
    with closing(StateTask(config)) as state_task:
        kept = {name: readable(rows) for name, rows in state_task.tables().items()}
        if plan.emits == "upsert":
            return kept
        return {OPEN: state_task.advance({}, WatermarkAdvance(epoch.watermark, END)), **kept}


def _as_kept(workspace: Workspace, name: str, epoch: Epoch) -> dict[str, pa.Table]:
    """Return the state tables as stored, for state that does not fit the current definition or DuckDB version."""
    tables: dict[str, list[pa.Table]] = {}
    for table, rows in tables_in(epoch, workspace.table(name).storage.read_bytes):
        tables.setdefault(table, []).append(readable(rows))
    return {table: pa.concat_tables(parts) for table, parts in tables.items()}
