"""Shows whether features that were looked up for requests are those that training would have: the log, and the point-in-time join."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
import pyarrow as pa

from ml.features import TrainingSet
from ml.features.point_in_time import Join
from ml.features.verification import Mismatch
from ml.models.prediction_log import PredictionLog
from pipeline.core.errors import RequestError, StorageError, did_you_mean
from pipeline.core.schema import Schema
from pipeline.kernel.engine import arrow, connect, first_line, schema_of
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import register
from pipeline.kernel.sql_text import literal, quoted
from pipeline.lake import Version
from pipeline.project.workspace import Workspace

_AT, _ROW, _LOG = "_at", "_row", "_served_rows"
_EXAMPLES = 5


@dataclass(frozen=True)
class ServedComparison:
    """The requests of a log whose features of a view were compared, and those that differ."""

    view: str
    requests: int
    causes: Mapping[str, int] = field(default_factory=dict)
    """The number of requests that differ, by cause. `late`: another row of the view was shown; `value`: the same row had other values."""
    examples: tuple[Mismatch, ...] = ()
    """Each with the request and its time as the entity."""

    @property
    def holds(self) -> bool:
        """Whether the features were those of training."""
        return not self.causes


def verify_served(workspace: Workspace, log: str, sample: int) -> list[ServedComparison]:
    """Compare features that were looked up for requests with the point-in-time join over the lake at the time of each request.

    Up to `sample` rows of the log, selected by a hash of their ids. Raises `RequestError` unless `log` is the log of a model with
    a training set of online views, and `StorageError` for tables that do not exist yet.
    """
    joins = _joins(workspace, log)
    rows = workspace.query(f"""
        select epoch_us("at") - (latency_ms * 1000)::bigint as _time, looked_up::varchar as looked_up from {quoted(log)}
        where looked_up is not null order by hash(request_id, row, arm), request_id, row, arm limit {sample}
    """)
    rows = rows.append_column(_ROW, pa.array(range(rows.num_rows), pa.int64()))
    return [_compared(workspace, join, rows) for join in joins]


def _joins(workspace: Workspace, log: str) -> list[Join]:
    graph = workspace.project.graph
    logs = {each.name: each for each in graph.all_of(PredictionLog)}
    if log not in logs:
        raise RequestError(f"{log!r} is not a log of served predictions", do=did_you_mean(log, logs))
    model = graph[logs[log].model]
    examples = graph[model.inputs[0]] if model.inputs else None
    joins = [join for join in examples.joins if join.view.online] if isinstance(examples, TrainingSet) else []
    if not joins:
        raise RequestError(f"model {model.name!r} looks up no features", do="name the log of another model")
    return [replace(join, selected=replace(join.selected, at=_AT)) for join in joins]


def _compared(workspace: Workspace, join: Join, rows: pa.Table) -> ServedComparison:
    version, table = workspace.require(join.view.name), workspace.table(join.view.name)
    with connect(Limits(memory_bytes=workspace.settings.memory_bytes), filesystem=table.storage.filesystem()) as con:
        con.register(_LOG, rows)
        register(con, {join.view.name: version.scan()})
        try:
            return _differences(con, join, version)
        except (duckdb.IOException, OSError) as error:
            raise StorageError("the lake cannot be read", got=first_line(error), do="run the project again") from error


def _differences(con: duckdb.DuckDBPyConnection, join: Join, version: Version) -> ServedComparison:
    names = [name for name in join.names if name != _AT]
    joined = _joined(join, version.schema)
    types = {column.name: column.type for column in schema_of(con, joined).columns}
    served = [f"{_served(name, types[name])} as {quoted(f's_{name}')}" for name in names]
    known = " or ".join(f"{_found(name)} is not null" for name in names)
    times = ", ".join(f"{_found(name)} ->> 'event_time'" for name in names)
    differs = " or ".join(
        f"({_found(name)} is not null and {quoted(f's_{name}')} is distinct from {_plain(f'j.{quoted(name)}', types[name])})"
        for name in names
    )
    both = [f"{quoted(f's_{name}')}, j.{quoted(name)} as {quoted(f'j_{name}')}" for name in names]
    compared = f"""
        select {_ROW}, make_timestamptz(_time)::varchar as "at", _request, {", ".join(both)}, {differs} as _differs,
               if(_shown::timestamptz is distinct from j.{_AT}::timestamptz, 'late', 'value') as _cause
        from (
            select {_ROW}, _time, looked_up, (looked_up::json -> 'request')::varchar as _request, coalesce({times}) as _shown, {", ".join(served)}
            from {_LOG} where {known}
        ) as s join ({joined}) as j using ({_ROW})
    """
    rows = arrow(con, f"select * from ({compared}) as compared order by {_ROW}")
    differing = rows.filter(rows["_differs"])
    causes = dict(Counter(differing["_cause"].to_pylist()))
    examples = [_mismatch(each, names) for each in differing.slice(0, _EXAMPLES).to_pylist()]
    return ServedComparison(join.view.name, rows.num_rows, causes, tuple(examples))


def _joined(join: Join, schema: Schema) -> str:
    """Return the SELECT of what the join gives at the time of each request."""
    on, types = dict(join.selected.on), schema.as_dict()
    entity = {on.get(name, name): types[name] for name in join.view.entity}
    asked = ", ".join(
        f"(looked_up::json -> 'request' ->> {literal(name)})::{kind} as {quoted(name)}" for name, kind in entity.items()
    )
    labels = f"(select {_ROW}, make_timestamptz(_time) as {_AT}, {asked} from {_LOG}) as labelled"
    values = ", ".join(join.values(f"labelled.{_AT}"))
    return f"select labelled.{_ROW}, {values} from {labels} {join.sql('labelled', f'labelled.{_AT}')}"


def _found(name: str) -> str:
    """Return the expression of a feature that was looked up, null if it was not."""
    return f"(looked_up::json -> 'features' -> {literal(name)})"


def _served(name: str, kind: str) -> str:
    is_nested = kind.endswith("]") or kind.startswith(("STRUCT", "MAP"))
    return f"({_found(name)} {'->' if is_nested else '->>'} 'value')::{kind}"


def _plain(value: str, kind: str) -> str:
    """Return a value as the log has it: NaN is null."""
    return f"case when isnan({value}) then null else {value} end" if kind in {"DOUBLE", "FLOAT"} else value


def _mismatch(row: Mapping[str, Any], names: list[str]) -> Mismatch:
    served, joined = ({name: row[f"{part}_{name}"] for name in names} for part in "sj")
    return Mismatch(row["_cause"], {"at": row["at"], **json.loads(row["_request"])}, served, joined)
