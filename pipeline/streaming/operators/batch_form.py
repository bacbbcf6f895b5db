"""What an operator is told of its inputs, and its answer over all their rows at once, which is what batch computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION, SOURCE
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import from_arrow
from pipeline.streaming.operators.operator import BEGINNING, END, Operator, Progress
from pipeline.streaming.operators.shard import open_shard, rows_by_shard


@dataclass(frozen=True)
class StreamedInput:
    """A streamed input: its columns, and which of them is the event time."""

    schema: Schema
    event_time: str


def batch_result(operator: Operator, tables: Mapping[str, pa.Table], limits: Limits | None = None) -> pa.Table:
    """Return what comes out of an operator for all rows of its inputs and then the end of time.

    Rows that it would set aside as late, which are those without an event time here, are left out.
    """
    return batch_result_since(operator, {BEGINNING: tables}, limits)


def batch_result_since(
    operator: Operator, tables_by_watermark: Mapping[int, Mapping[str, pa.Table]], limits: Limits | None = None
) -> pa.Table:
    """Return the same for rows of which some came when the watermark was there already: `given` has them by it."""
    with connect(limits) as con:
        rows: dict[str, list[pa.Table]] = {}
        for watermark, tables in tables_by_watermark.items():
            for name in operator.inputs:
                prepared = operator.prepare(name, watermark)
                con.register("_whole", with_log_position(tables[name]))
                in_time = f"select * from _whole where not coalesce({prepared.late or 'false'}, false)"
                con.register(name, arrow(con, in_time))
                rows.setdefault(name, []).extend(rows_by_shard(con, prepared, 1))
        with open_shard(operator, {name: blocks[0] for name, blocks in rows.items()}, limits) as shard:
            return arrow(shard.state.con, shard.advance(rows, Progress(BEGINNING, END)))


def with_log_position(rows: pa.Table) -> pa.Table:
    """Return rows with `_source` and `_position`, null where a table does not say where its rows stand in a log."""
    known = {name.lower() for name in rows.column_names}
    for name, kind in ((SOURCE, pa.string()), (POSITION, pa.int64())):
        rows = rows if name in known else rows.append_column(name, pa.nulls(rows.num_rows, kind))
    return rows


def micros(column: str) -> str:
    """Return SQL for a column of times as microseconds since 1970 in UTC; null for an infinite one."""
    return f"epoch_us({quoted(column)})"


def before_the_watermark(column: str, watermark: int) -> str:
    """Return the condition that a row is late, or has no event time: a row on the watermark itself is in time."""
    return f"{micros(column)} is null or {micros(column)} < {watermark}"


LATE = "came after the watermark, or without an event time"


def required(name: str, inputs: Mapping[str, StreamedInput], event_time: str, place: Place) -> StreamedInput:
    """Return an input of a name; raise `DefinitionError` where it is not streamed, or by another event time."""
    streamed = inputs.get(name)
    if streamed is None:
        raise DefinitionError(f"{name!r} is not streamed", do=did_you_mean(name, inputs), place=place)
    if streamed.event_time != event_time:
        raise DefinitionError(
            f"{name!r} is streamed by another event time",
            got=f"{event_time!r} here and {streamed.event_time!r} there",
            do="name the same column",
            place=place,
        )
    require_columns(name, streamed.schema, (event_time,), place)
    return streamed


def require_columns(name: str, schema: Schema, columns: tuple[str, ...], place: Place) -> None:
    """Raise `DefinitionError` for a column that an input does not have; case counts."""
    missing = next((column for column in columns if column not in schema.names), None)
    if missing is not None:
        raise DefinitionError(
            f"{name!r} has no column {missing!r}", do=did_you_mean(missing, schema.names), place=place
        )


def schemas_of(
    tables: Mapping[str, pa.Table], event_times: Mapping[str, str], contracts: Mapping[str, Sequence[str]]
) -> dict[str, StreamedInput]:
    """Return tables in memory as streamed inputs, of those with a contract its columns alone."""
    schemas = {name: from_arrow(table.schema) for name, table in tables.items()}
    return {
        name: StreamedInput(schema.select(tuple(contracts.get(name, schema.names))), event_times[name])
        for name, schema in schemas.items()
    }
