"""Plans the operator for a grouped statement, or gives the reason why it cannot be streamed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import cast

from sqlglot import exp

from pipeline.core.definitions import Emit, Streaming
from pipeline.core.refusal import Refusal
from pipeline.core.schema import Schema
from pipeline.core.state_identity import columns_part
from pipeline.kernel.aggregates.decomposition import decompose, decomposition_obstacle, has_groups
from pipeline.kernel.aggregates.grouping import normalised, unclear_name
from pipeline.kernel.aggregates.mergeable import state_of
from pipeline.kernel.planner.projection import used_columns
from pipeline.kernel.planner.provenance import passed_through
from pipeline.kernel.planner.strategy import choose_strategy
from pipeline.kernel.sql import SqlTransform
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.syntax.function_calls import aggregates_of, with_modifiers
from pipeline.kernel.syntax.scope import relation
from pipeline.kernel.windows.sql import Window, in_panes, in_plain_sql
from pipeline.streaming.operators.grouped_state import Grouping
from pipeline.streaming.operators.groups import Groups
from pipeline.streaming.operators.operator import Operator
from pipeline.streaming.operators.panes import Panes
from pipeline.streaming.operators.sessions import Sessions

_NO_TTL = "ttl= applies only to groups without a window; the state of a window expires when the window closes"
_TIMES = ("TIMESTAMP", "TIMESTAMPTZ")


@dataclass(frozen=True)
class _GroupedStatement:
    """A statement to be streamed."""

    select: exp.Select
    window: Window | None
    name: str
    """The name of the streamed input."""
    schemas: Mapping[str, Schema]
    event_time: str | None
    emit: Emit
    ttl: timedelta | None


def operator_of(
    transform: SqlTransform, name: str, schemas: Mapping[str, Schema], streaming: Streaming, event_time: str | None
) -> Operator | Refusal:
    """Return the operator of a grouped statement over the streamed input `name`, or why it cannot be streamed.

    `schemas` are the columns of all inputs; inputs that are not streamed are looked up where rows are prepared.
    `event_time` is the column by which the watermark of the input advances. A statement that DuckDB rejects raises when
    the columns of the operator are first used.
    """
    select = transform.written
    if not isinstance(select, exp.Select) or not has_groups(select):
        return Refusal("it has no GROUP BY or aggregate")
    has_windows_below = transform.window is None and in_plain_sql(select) is not select
    if type(transform) is not SqlTransform or has_windows_below:
        return Refusal("it has more than one step: define a table for the first grouping, and stream that table")
    window = transform.window
    emit = streaming.emit or ("change" if window is None else "close")
    statement = _GroupedStatement(select, window, name, schemas, event_time, emit, streaming.ttl)
    why = _unordered(select) or _emitted(statement) or _timed(statement)
    if why is not None:
        return Refusal(why)
    select = cast("exp.Select", transform.decided)
    statement = replace(statement, select=select)
    tree = select if window is None else in_panes(select, window)
    why = (None if window is None else unclear_name(select)) or _mergeable(tree, name)
    return _operator(statement, _grouping(statement, tree)) if why is None else Refusal(why)


def _unordered(select: exp.Select) -> str | None:
    clause = next((name for name in ("order", "limit", "offset") if select.args.get(name)), None)
    if clause is None:
        return None
    return f"{clause.upper()} needs all rows, but a stream does not end: use it in the query that reads the table"


def _emitted(statement: _GroupedStatement) -> str | None:
    """Return why a statement's groups cannot be emitted as `emit=` requires."""
    window, select = statement.window, statement.select
    if statement.emit == "close" and window is None:
        return "a group without a window never closes: group by tumble, hop or session, or set emit='change'"
    if statement.emit == "close":
        return None if statement.ttl is None else _NO_TTL
    if window is not None and window.kind == "session":
        return "the begin of a session may change until it closes: set emit='close'"
    if select.args.get("having"):
        return (
            "emit='change' does not support HAVING, which would have to retract rows: "
            "filter in a table that reads this one"
        )
    return None if statement.ttl is None or window is None else _NO_TTL


def _timed(statement: _GroupedStatement) -> str | None:
    """Return why a statement's windows or ttl do not follow the input's watermark."""
    if statement.window is None and statement.ttl is None:
        return None
    what = "ttl=" if statement.window is None else statement.window.kind
    if statement.event_time is None:
        return f"{what} needs the event time of {statement.name!r}: set event_time= where it is defined"
    kind = statement.schemas[statement.name].as_dict().get(statement.event_time)
    if kind not in _TIMES:
        return (
            f"the event time {statement.event_time!r} has type {kind}: cast it to TIMESTAMP or TIMESTAMPTZ in the input"
        )
    time = exp.column(statement.event_time) if statement.window is None else statement.window.time
    straight = statement.select.copy()
    straight.set("expressions", [exp.alias_(time.copy(), "_time")])
    if not isinstance(time, exp.Column) or not _is_unchanged(straight, "_time", statement):
        return (
            f"{what} does not use the event time {statement.event_time!r} of {statement.name!r} unchanged: "
            "group directly from the input, by that column"
        )
    return None


def _is_unchanged(select: exp.Select, column: str, statement: _GroupedStatement) -> bool:
    """Return whether a column of a SELECT is the event time of the input, directly or through subqueries of single rows."""
    first = relation(select)
    if not isinstance(first, exp.Subquery) or not isinstance(first.this, exp.Select):
        names = passed_through(select, statement.name, (statement.event_time or "",))
        return names is not None and column in {name.lower() for name in names}
    projected = next((each.unalias() for each in select.selects if each.alias_or_name.lower() == column), None)
    alias = first.alias_or_name.lower()
    if not isinstance(projected, exp.Column) or projected.table.lower() not in {"", alias}:
        return False
    is_by_row = not has_groups(first.this) and choose_strategy(first.this).strategy in {"blockwise", "broadcast"}
    return is_by_row and _is_unchanged(first.this, projected.name.lower(), statement)


def _mergeable(tree: exp.Select, name: str) -> str | None:
    """Return why a statement cannot be computed from partial aggregates."""
    chosen = choose_strategy(tree)
    if chosen.driving.lower() != name.lower():
        return f"the streamed input {name!r} must be the first table after FROM"
    why = decomposition_obstacle(tree)
    if chosen.strategy != "partial" or why is not None:
        return f"{why or chosen.reason}: it cannot be streamed"
    states = (state_of(with_modifiers(call), "", in_order=False) for call in aggregates_of(tree))
    return next((state.reason.replace("a join", "a stream") for state in states if isinstance(state, Refusal)), None)


def _grouping(statement: _GroupedStatement, tree: exp.Select) -> Grouping:
    return Grouping(
        name=statement.name,
        decomposition=decompose(tree),
        schemas=statement.schemas,
        windowed=statement.window is not None,
        layout=_layout(statement, tree),
        rules=_rules(statement),
    )


def _layout(statement: _GroupedStatement, tree: exp.Select) -> dict[str, str]:
    """Return what determines the columns of the state: the columns that are read, the keys and the aggregates."""
    plain = normalised(tree)
    keys = decompose(plain).keys[int(statement.window is not None) :]
    calls = dict.fromkeys(with_modifiers(call).sql("duckdb", comments=False) for call in aggregates_of(plain))
    layout = {"group keys": ", ".join(keys), "aggregates": ", ".join(calls), "emit": statement.emit}
    for name, schema in statement.schemas.items():
        read = schema.select(tuple(sorted(used_columns(statement.select, name, schema))))
        layout |= columns_part(name, read, statement.event_time if name == statement.name else None)
    return layout


def _rules(statement: _GroupedStatement) -> dict[str, str]:
    """Return what determines the rows in the groups: the statement up to its grouping."""
    rows = normalised(statement.select)
    for clause in ("distinct", "group", "having", "order", "limit", "offset"):
        rows.set(clause, None)
    rows.set("expressions", [exp.Star()])
    return {"rows": rows.sql("duckdb", comments=False)}


def _operator(statement: _GroupedStatement, grouping: Grouping) -> Operator:
    window, event_time = statement.window, statement.event_time or ""
    if window is not None and window.kind == "session":
        return Sessions(grouping, window, event_time)
    if window is not None:
        return Panes(grouping, window, event_time, "append" if statement.emit == "close" else "upsert")
    if statement.ttl is None:
        return Groups(grouping)
    first = relation(statement.select)
    alias = statement.name if first is None else first.alias_or_name
    time = f"{quoted(alias)}.{quoted(event_time)}"
    return Groups(grouping, statement.ttl // timedelta(microseconds=1), event_time, time)
