"""On-demand features: SQL expressions over the columns of a request and over other features.

The expressions are computed by DuckDB from the same text in training, as part of the training set's SELECT, and in serving.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import duckdb
from sqlglot import exp

from pipeline.core.definitions import caller
from pipeline.core.errors import DefinitionError, Place, RequestError, did_you_mean
from pipeline.kernel.engine import arrow, connect, first_line
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql import parse
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.syntax.function_calls import is_volatile, needs_more_than_a_row

if TYPE_CHECKING:
    import pyarrow as pa

_JOINED = "joined"


@dataclass(frozen=True)
class OnDemand:
    """Features that are computed when a row is made, in this order."""

    expressions: tuple[tuple[str, str], ...]
    """The name and the SQL of each."""
    columns: tuple[str, ...]
    """The columns that they read, other than each other."""
    place: Place = field(compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features."""
        return tuple(name for name, _ in self.expressions)

    def over(self, known: Mapping[str, str], result: str) -> OnDemand:
        """Return the features over these columns, spelled as `known` has them, each with what has it.

        Raises `DefinitionError` if a column that is read is not among them, and if `result` would have two of one name.
        """
        spelled = {name.lower(): name for name in known}
        for column in self.columns:
            if column.lower() not in spelled:
                problem = f"an on-demand feature reads {column!r}, which is neither a column of the labelled rows nor a feature"
                raise DefinitionError(problem, do=did_you_mean(column, known), place=self.place)
        seen = dict(spelled)
        for name in self.names:
            if name.lower() in seen:
                problem = f"{result} would have two columns {name!r}, of {known.get(seen[name.lower()], 'on_demand(…)')} and of on_demand(…)"
                raise DefinitionError(problem, do="choose another name", place=self.place)
            seen[name.lower()] = name
        return replace(self, columns=tuple(dict.fromkeys(spelled[column.lower()] for column in self.columns)))


def on_demand(*expressions: str) -> OnDemand:
    """Compute features when a row is made: `SQL as name`, over columns of the labelled rows and over other features.

        on_demand("amount / nullif(mean_amount, 0) as amount_ratio", "dayofweek(at) as weekday")

    For a prediction, the columns of the labelled rows are columns of the request. An expression may use those before it.

    Raises `DefinitionError` for an expression without a name, one that reads other rows, and one that depends on chance or on
    the clock, because it would have another value in training.
    """
    place = caller()
    if not expressions:
        raise DefinitionError("on_demand(…) has no features", do="pass 'SQL as name'", place=place)
    named: list[tuple[str, str]] = []
    columns: dict[str, None] = {}
    for text in expressions:
        name, expression = _parsed(text, place)
        known = {each.lower() for each, _ in named}
        read = {_first(column): None for column in expression.find_all(exp.Column)}
        columns.update({column: None for column in read if column.lower() not in known})
        named.append((name, expression.sql("duckdb", comments=False)))
    return OnDemand(tuple(named), tuple(columns), place)


def _first(column: exp.Column) -> str:
    """Return the name of a column; `a.b` is the field `b` of the column `a`."""
    return column.parts[0].name


def _parsed(text: str, place: Place) -> tuple[str, exp.Expr]:
    do = "write 'SQL as name', over the columns of one row"
    try:
        tree = parse(f"select {text}\n", place=place)
    except DefinitionError as error:
        problem = "an on-demand feature is not a SQL expression"
        raise DefinitionError(problem, got=repr(text), do=do, place=place) from error
    is_one = isinstance(tree, exp.Select) and len(tree.expressions) == 1 and not tree.find(exp.Star)
    if not is_one or not isinstance(tree, exp.Select) or not isinstance(tree.expressions[0], exp.Alias):
        raise DefinitionError(
            "an on-demand feature is not a SQL expression with a name", got=repr(text), do=do, place=place
        )
    if any(query is not tree for query in tree.find_all(exp.Query)) or tree.args.get("from_"):
        raise DefinitionError("an on-demand feature must not read other rows", got=repr(text), do=do, place=place)
    reason = needs_more_than_a_row(tree)
    if reason is not None:
        raise DefinitionError("an on-demand feature must not read other rows", got=reason, do=do, place=place)
    volatile = next((node for node in tree.find_all(exp.Func) if is_volatile(node)), None)
    if volatile is not None:
        raise DefinitionError(
            "an on-demand feature must have the same value in training and in use",
            got=volatile.sql("duckdb"),
            do="use the event time of the row instead of the clock",
            place=place,
        )
    return tree.expressions[0].alias, tree.expressions[0].this


def with_on_demand(select: str, computed: Collection[OnDemand]) -> str:
    """Return a SELECT extended by on-demand features."""
    if not computed:
        return select
    added = ", ".join(f"({sql}) as {quoted(name)}" for each in computed for name, sql in each.expressions)
    return f"select *, {added} from ({select}) as {_JOINED}"


class OnDemandEngine:
    """Computes on-demand features of requests, with a connection for each thread. Thread-safe."""

    def __init__(self) -> None:
        """Create the engine; connections are opened when they are used."""
        self._local = threading.local()
        self._open = ExitStack()
        self._lock = threading.Lock()

    def compute(self, rows: pa.Table, computed: Collection[OnDemand], types: Mapping[str, str]) -> pa.Table:
        """Return rows, which have the columns that are read, with their on-demand features.

        Columns that `types` names are converted to its SQL types, which are those in training. Raises `RequestError` for a
        value of another type, and for one that makes an expression fail.
        """
        con = self._connection()
        con.register("_rows", rows)
        typed = ", ".join(
            f"{quoted(name)}::{types[name]} as {quoted(name)}" if name in types else quoted(name)
            for name in rows.column_names
        )
        try:
            return arrow(con, with_on_demand(f"select {typed} from _rows", computed))
        except duckdb.Error as error:
            raise RequestError("an on-demand feature cannot be computed", got=first_line(error)) from error

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            self._open.close()
            self._local = threading.local()

    def _connection(self) -> duckdb.DuckDBPyConnection:
        con: duckdb.DuckDBPyConnection | None = getattr(self._local, "con", None)
        if con is None:
            with self._lock:
                con = self._open.enter_context(connect(Limits(threads=1), keep=False))
            self._local.con = con
        return con
