"""Tables defined as one SQL statement, in DuckDB's dialect."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Unpack

import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import SqlglotError
from sqlglot.parsers.duckdb import DuckDBParser
from sqlglot.tokenizer_core import TokenType

from pipeline.core.definitions import (
    Action,
    Chart,
    Definition,
    Emit,
    Expectation,
    Layer,
    Table,
    caller,
    checks,
    deadline_of,
    names,
    streaming_of,
)
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.fingerprint import fingerprint
from pipeline.core.merge_options import MergeOptions, merge_of
from pipeline.core.partition_fields import partitioning
from pipeline.kernel.engine import arrow, connect, first_line
from pipeline.kernel.planner.determinism import deterministic
from pipeline.kernel.scan import register
from pipeline.kernel.syntax.function_calls import aggregates_of
from pipeline.kernel.syntax.scope import tables_of
from pipeline.kernel.windows.sql import Window, in_plain_sql, window_of

if TYPE_CHECKING:
    import pyarrow as pa


__all__ = ["SqlTransform", "check_condition", "parse", "sql", "sql_table", "tables_of"]


class _Parser(DuckDBParser):
    """The parser of DuckDB's dialect, extended by the function name `session`.

    `approx_top_k` stays as written: sqlglot takes it for that of another dialect, and warns whenever it is printed.
    """

    FUNC_TOKENS = DuckDBParser.FUNC_TOKENS | {TokenType.SESSION}
    FUNCTIONS = {name: build for name, build in DuckDBParser.FUNCTIONS.items() if name != "APPROX_TOP_K"}  # noqa: RUF012 - as in sqlglot


@dataclass(frozen=True)
class SqlTransform:
    """A SELECT. Its inputs are the names after FROM and JOIN, the driving input first."""

    text: str
    """The statement as written; subclasses may derive a different `sql` from it."""

    @property
    def sql(self) -> str:
        """The statement to execute: deterministic, and with event-time windows in plain DuckDB SQL."""
        return self._plain

    @cached_property
    def _plain(self) -> str:
        written = self.written
        plain = deterministic(in_plain_sql(written))
        return self.text if plain is written else plain.sql("duckdb", comments=False)

    @cached_property
    def written(self) -> exp.Query:
        """The parsed statement as written."""
        return parse(self.text)

    @cached_property
    def decided(self) -> exp.Query:
        """The deterministic statement with its windows as written; streams compute this statement."""
        return deterministic(self.written)

    @cached_property
    def window(self) -> Window | None:
        """The event-time windows that the statement groups by, or `None`."""
        return window_of(self.written) if isinstance(self.written, exp.Select) else None

    @cached_property
    def tree(self) -> exp.Query:
        """The parsed statement to execute."""
        return parse(self.sql)

    def tree_over(self, columns: Mapping[str, Collection[str]]) -> exp.Query:
        """Return the statement to execute over inputs with these columns; most transforms ignore the columns."""
        del columns
        return self.tree

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The tables that the statement reads, without CTEs and duplicates, the driving input first."""
        return tables_of(self.tree)

    @property
    def fingerprint(self) -> str:
        """A hash of the statement without layout and comments."""
        return fingerprint(self.tree.sql("duckdb", comments=False))

    @property
    def language(self) -> str:
        """`sql`."""
        return "sql"

    def __call__(self, *args: Any, **tables: Any) -> pa.Table:
        """Run the statement on in-memory tables, by position or by name, and return an Arrow table."""
        inputs = {**dict(zip(self.inputs, args, strict=False)), **tables}
        tree = self.tree_over({name: table.column_names for name, table in inputs.items()})
        with connect() as con:
            register(con, inputs)
            return arrow(con, tree.sql("duckdb", comments=False))


def parse(text: str, *, place: Place | None = None, what: str = "a definition") -> exp.Query:
    """Parse one SELECT; raise `DefinitionError` with the line and column of a syntax error. `what` names it in errors."""
    try:
        dialect = DuckDB()
        statements = [s for s in _Parser(dialect=dialect).parse(dialect.tokenize(text), text) if s is not None]
    except SqlglotError as error:
        raise _unreadable(error, place) from error
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        raise DefinitionError(
            f"{what} must be one SELECT statement",
            got=", ".join(type(s).__name__.upper() for s in statements) or "nothing",
            place=place,
        )
    return statements[0]


def _unreadable(error: SqlglotError, place: Place | None) -> DefinitionError:
    first: dict[str, Any] = next(iter(getattr(error, "errors", ())), {})
    where = f"line {first['line']}, column {first['col']}: " if first.get("line") else ""
    words = first.get("description") or first_line(error)
    shown = str(first.get("highlight") or "")
    return DefinitionError(f"invalid SQL: {where}{words}", got=repr(shown) if shown else None, place=place)


def statement_of(definition: Definition) -> SqlTransform | None:
    """Return the statement that computes a definition's rows; `None` if something else does."""
    transform = definition.computed_by
    return transform if isinstance(transform, SqlTransform) else None


def sql(
    text: str,
    *,
    key: str | Sequence[str] | None = None,
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    layer: Layer = "silver",
    description: str = "",
    chart: Chart | None = None,
    emit: Emit | None = None,
    ttl: str | timedelta | None = None,
    event_time: str | None = None,
    lateness: str | timedelta | None = None,
    deadline: str | timedelta | None = None,
    **merging: Unpack[MergeOptions],
) -> Table:
    """Define a table as one SQL statement over other tables. A leading comment is its description.

    With the column `sequence_by`, the table is merged: of the rows of one `key`, the row with the greatest sequence is
    kept, regardless of the order in which rows arrive. A row that satisfies the SQL condition `apply_as_deletes` deletes
    its key, until a row with a greater sequence arrives. For rows with equal key and sequence, a delete wins, otherwise
    the row with the greatest values; the others are quarantined, unless they are equal.

    The other options of `MergeOptions` are those of AUTO CDC: several columns as `sequence_by`, `apply_as_truncates`,
    `ignore_null_updates`, `column_list`, `stored_as_scd_type=2` and more; see `docs/auto-cdc.md`.

    `emit`, `ttl`, `event_time` and `lateness` are streaming options; see `docs/streams.md`. `deadline` is the time within
    which the table should be computed on a cluster, for example `30 minutes`; see `docs/cluster.md`.

    Raises `DefinitionError` if the text is not one SELECT, or reads no table, and for a merge without a key.
    """
    place = caller()
    merge = merge_of(names(key), merging, place)
    if merge is not None:
        conditions = {"apply_as_deletes": merge.apply_as_deletes, "apply_as_truncates": merge.apply_as_truncates}
        for name, condition in conditions.items():
            if condition is not None:
                check_condition(Expectation(name, condition, Action.DROP), place)
    return sql_table(
        SqlTransform(text),
        place,
        merge=merge,
        layer=layer,
        key=names(key),
        partition_by=partitioning(partition_by, place),
        expect=tuple(expect),
        description=description,
        chart=chart,
        streaming=streaming_of(emit, ttl, event_time, lateness, place),
        deadline=deadline_of(deadline, place),
    )


def sql_table(
    transform: SqlTransform,
    place: Place,
    *,
    kind: type[Table] = Table,
    expect: tuple[Expectation, ...] = (),
    **fields: Any,
) -> Table:
    """Return a table with a SQL transform, after validating its text and expectations; `kind` is its class."""
    tree = parse(transform.text, place=place)
    deterministic(in_plain_sql(tree, place), place)
    if not transform.inputs:
        raise DefinitionError("the SELECT reads no table", do="name a source or a table after FROM", place=place)
    for expectation in expect:
        check_condition(expectation, place)
    if fields.get("chart") is not None and fields.get("merge") is None:
        _require_charted(fields["chart"], tree, place)
    fields["description"] = fields.get("description") or _comment(tree)
    return kind(place=place, transform=transform, expect=checks(expect, place), **fields)


def _require_charted(chart: Chart, tree: exp.Query, place: Place) -> None:
    """Raise `DefinitionError` for a chart of a column that the SELECT does not have, as far as its text tells its columns."""
    columns = _written_columns(tree)
    if columns is None:
        return
    known = {name.lower() for name in columns}
    for option, name in {"x": chart.x, "y": chart.y, "by": chart.by}.items():
        if name is not None and name.lower() not in known:
            raise DefinitionError(
                f"Chart({option}={name!r}) names a column that the SELECT does not have",
                do=did_you_mean(name, columns),
                place=place,
            )


def _written_columns(tree: exp.Query) -> list[str] | None:
    """Return the names of a query's columns; `None` if its text does not tell them: of stars and expressions without a name."""
    if isinstance(tree, exp.Subquery):
        return _written_columns(tree.this)
    if isinstance(tree, exp.SetOperation):
        sides = [
            _written_columns(side) for side in ((tree.left, tree.right) if tree.args.get("by_name") else (tree.left,))
        ]
        known = [side for side in sides if side is not None]
        return [name for side in known for name in side] if len(known) == len(sides) else None
    if any(not isinstance(each, exp.Column | exp.Alias) or each.is_star for each in tree.selects):
        return None
    if any(each.find(exp.Columns, exp.Unnest, exp.Explode) is not None for each in tree.selects):
        return None
    return [each.alias_or_name for each in tree.selects]


def check_condition(expectation: Expectation, place: Place) -> None:
    """Raise `DefinitionError` unless an expectation's condition is one SQL expression over a single row."""
    try:
        tree = sqlglot.parse_one(f"select ({expectation.condition}\n)", dialect="duckdb")
    except SqlglotError as error:
        raise _refused(expectation, "is not a SQL condition", place) from error
    if not isinstance(tree, exp.Select) or len(tree.expressions) != 1 or not isinstance(tree.expressions[0], exp.Paren):
        raise _refused(expectation, "is not a SQL condition", place)
    inner = any(query is not tree for query in tree.find_all(exp.Query))
    if inner or tree.find(exp.Window) or next(aggregates_of(tree), None) is not None:
        raise _refused(expectation, "must not read more than one row", place)


def _refused(expectation: Expectation, problem: str, place: Place) -> DefinitionError:
    return DefinitionError(
        f"expectation {expectation.name!r} {problem}", got=repr(expectation.condition), place=expectation.place or place
    )


def _comment(tree: exp.Query) -> str:
    node = tree
    with_ = tree.args.get("with_") or tree.args.get("with")
    comments = node.comments or (with_.comments if with_ is not None else None) or []
    return " ".join(comment.strip() for comment in comments)
