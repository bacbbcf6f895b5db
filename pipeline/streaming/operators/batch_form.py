"""The inputs of an operator, and its result over all rows of them in one pass, which is what batch computes."""

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
from pipeline.streaming.operators.operator import BEGINNING, END, Operator, WatermarkAdvance
from pipeline.streaming.operators.shard import open_shard, rows_by_shard


@dataclass(frozen=True)
class StreamedInput:
    """A streamed input: its columns and the name of its event time column."""

    schema: Schema
    event_time: str


def batch_result(operator: Operator, tables: Mapping[str, pa.Table], limits: Limits | None = None) -> pa.Table:
    """Return the output of an operator for all rows of its inputs, after which the watermark is the end of time.

    Late rows are excluded; here these are the rows without an event time.
    """
    return batch_result_since(operator, {BEGINNING: tables}, limits)


def batch_result_since(
    operator: Operator, tables_by_watermark: Mapping[int, Mapping[str, pa.Table]], limits: Limits | None = None
) -> pa.Table:
    """Return the output for rows that arrived at different watermarks: the keys of `tables_by_watermark`."""
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
            return arrow(shard.state.con, shard.advance(rows, WatermarkAdvance(BEGINNING, END)))


def with_log_position(rows: pa.Table) -> pa.Table:
    """Return rows with the columns `_source` and `_position`, which are null if the table does not have them."""
    known = {name.lower() for name in rows.column_names}
    for name, kind in ((SOURCE, pa.string()), (POSITION, pa.int64())):
        rows = rows if name in known else rows.append_column(name, pa.nulls(rows.num_rows, kind))
    return rows


def micros(column: str) -> str:
    """Return SQL that converts a column of times to microseconds since 1970 in UTC; infinite times become null."""
    return f"epoch_us({quoted(column)})"


def before_the_watermark(column: str, watermark: int) -> str:
    """Return the condition that a row is late or has no event time. A row at the watermark is in time."""
    return f"{micros(column)} is null or {micros(column)} < {watermark}"


LATE = "late: older than the watermark, or without an event time"


def required(name: str, inputs: Mapping[str, StreamedInput], event_time: str, place: Place) -> StreamedInput:
    """Return an input by name; raise `DefinitionError` if it is not streamed or has a different event time."""
    streamed = inputs.get(name)
    if streamed is None:
        raise DefinitionError(f"{name!r} is not streamed", do=did_you_mean(name, inputs), place=place)
    if streamed.event_time != event_time:
        raise DefinitionError(
            f"{name!r} is streamed by a different event time",
            got=f"{event_time!r}, but the input has {streamed.event_time!r}",
            do="use the event time column of the input",
            place=place,
        )
    require_columns(name, streamed.schema, (event_time,), place)
    return streamed


def require_columns(name: str, schema: Schema, columns: tuple[str, ...], place: Place) -> None:
    """Raise `DefinitionError` for a column that an input does not have. Names are case-sensitive."""
    missing = next((column for column in columns if column not in schema.names), None)
    if missing is not None:
        raise DefinitionError(
            f"{name!r} has no column {missing!r}", do=did_you_mean(missing, schema.names), place=place
        )


def schemas_of(
    tables: Mapping[str, pa.Table], event_times: Mapping[str, str], contracts: Mapping[str, Sequence[str]]
) -> dict[str, StreamedInput]:
    """Return in-memory tables as streamed inputs. If a table has a contract, only its columns are included."""
    schemas = {name: from_arrow(table.schema) for name, table in tables.items()}
    return {
        name: StreamedInput(schema.select(tuple(contracts.get(name, schema.names))), event_times[name])
        for name, schema in schemas.items()
    }
