"""Interval joins: joins of two streams whose matching rows are within a bounded distance in event time.

    select ... from a left join b on a.k = b.k and b.ts between a.ts - interval 1 minute and a.ts + interval 5 minutes

    a at 10:00      |-----o-------------------------|      matches b from 9:59 to 10:05
                  9:59  10:00                     10:05    without a match, it is emitted with nulls when it expires

DuckDB runs the statement itself, so that its names, stars, conditions and expressions keep their meaning: new rows are
joined with all rows of the other side. In an outer join, unmatched rows are joined with an empty side when they expire.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import cast

import sqlglot
from sqlglot import exp

from pipeline.core.event_time import format_duration
from pipeline.core.refusal import Refusal
from pipeline.core.schema import Schema
from pipeline.core.state_identity import StateIdentity, columns_part
from pipeline.kernel.aggregates.grouping import normalised
from pipeline.kernel.planner.canonical import common_type, expression_type, family_of
from pipeline.kernel.planner.projection import used_columns
from pipeline.kernel.sql_text import quoted, unused_name
from pipeline.kernel.syntax.function_calls import aggregates_of
from pipeline.kernel.syntax.scope import relation
from pipeline.streaming.operators.batch_form import LATE, StreamedInput, micros
from pipeline.streaming.operators.join_bounds import Bounds, Side, bounds_of
from pipeline.streaming.operators.operator import HASH, Emits, Prepared, WatermarkAdvance, arrived
from pipeline.streaming.operators.row_conditions import normalised_sql
from pipeline.streaming.operators.state_columns import from_internal, internal_list, to_internal
from pipeline.streaming.operators.state_tables import ID, SINCE, StateTables

_OUTER = {"": (False, False), "LEFT": (True, False), "RIGHT": (False, True), "FULL": (True, True)}
"""For each side of a join: whether unmatched rows of the left and of the right input are emitted."""
STATE_VERSION = 1
"""The version of the state columns of both sides."""
_STATE_TABLES = (("lefts", "lefts_matched"), ("rights", "rights_matched"))
_ROWS = ("_rows_of_the_left", "_rows_of_the_right")
"""The placeholders for the rows of each side in a template of the statement."""
_LATER = "move it to another table that reads this one"
_CLAUSES = {
    "with_": "WITH",
    "distinct": "DISTINCT",
    "group": "GROUP BY",
    "having": "HAVING",
    "qualify": "QUALIFY",
    "order": "ORDER BY",
    "limit": "LIMIT",
    "offset": "OFFSET",
    "sample": "SAMPLE",
    "pivots": "PIVOT",
    "laterals": "LATERAL",
    "windows": "WINDOW",
}


@dataclass(frozen=True)
class JoinSide:
    """One side of a join: the name of the input, its alias in the statement, and its columns."""

    name: str
    alias: str
    schema: Schema
    event_time: str

    def is_named(self, column: exp.Column) -> bool:
        """Return whether a column may belong to this side, by its qualifier and name."""
        owner = column.parts[0].name.lower() if len(column.parts) > 1 else self.alias.lower()
        name = column.parts[min(1, len(column.parts) - 1)].name.lower()
        return owner == self.alias.lower() and name in {column_name.lower() for column_name in self.schema.names}

    def is_event_time(self, column: exp.Column) -> bool:
        """Return whether a column of this side is its event time."""
        return column.name.lower() == self.event_time.lower()


Sides = tuple[JoinSide, JoinSide]


def join_operator(tree: exp.Query, inputs: Mapping[str, StreamedInput]) -> IntervalJoin | Refusal:
    """Return the operator for a join of two streams, or why the statement cannot be streamed and what to do.

    The statement must be one SELECT with one INNER, LEFT, RIGHT or FULL join whose conditions bound the distance of
    both event times. Rows are distributed to shards by the equality conditions; without any, all rows go to one shard.
    """
    refused = _refused(tree)
    if refused is not None:
        return Refusal(refused)
    select = cast("exp.Select", tree)
    join: exp.Join = select.args["joins"][0]
    tables = [cast("exp.Table", relation(select)), cast("exp.Table", join.this)]
    if tables[0].name.lower() == tables[1].name.lower():
        return Refusal(f"{tables[0].name!r} is joined with itself; join it with a table that selects from it")
    streamed = {name.lower(): (name, streamed_input) for name, streamed_input in inputs.items()}
    missing = next((table.name for table in tables if table.name.lower() not in streamed), None)
    if missing is not None:
        return Refusal(f"{missing!r} is not streamed; a join with it needs no state")
    sides = cast("Sides", tuple(_relation(select, table, *streamed[table.name.lower()]) for table in tables))
    outer = _OUTER[join.side.upper()]
    conjuncts = list(_conjuncts(join.args.get("on")))
    if not any(outer):
        where = select.args.get("where")
        conjuncts += _conjuncts(None if where is None else where.this)
    bounds = bounds_of(conjuncts, lambda column: _time_of(column, sides))
    if bounds.low is None or bounds.high is None:
        return Refusal(_unbounded(sides, bounds))
    keys = [*_using(join, sides), *_equalities(conjuncts, sides)]
    return IntervalJoin(select, sides, outer, (bounds.low, bounds.high), tuple(keys))


def _refused(tree: exp.Query) -> str | None:
    """Return why a statement is not supported as a streamed join, or `None` if it is."""
    if not isinstance(tree, exp.Select):
        return f"it is not a single SELECT; {_LATER}"
    clause = next((words for name, words in _CLAUSES.items() if tree.args.get(name)), None)
    if clause is not None:
        return f"it combines {clause} with a join of streams; {_LATER}"
    inner = next((node for node in tree.find_all(exp.Query, exp.Window, exp.Unnest) if node is not tree), None)
    if inner is not None or next(aggregates_of(tree), None) is not None:
        return f"it has a subquery, a window function or an aggregate; {_LATER}"
    return _refused_joins(tree, tree.args.get("joins") or ())


def _refused_joins(tree: exp.Select, joins: Sequence[exp.Join]) -> str | None:
    if len(joins) != 1 or not all(isinstance(table, exp.Table) for table in (relation(tree), joins[0].this)):
        return f"it joins {len(joins) + 1} relations; define a table for each join of two streams"
    if any(table.alias_column_names for table in (cast("exp.Table", relation(tree)), joins[0].this)):
        return "it has column aliases in FROM; write them after SELECT"
    if (
        joins[0].method
        or joins[0].side.upper() not in _OUTER
        or joins[0].kind.upper() not in {"", "INNER", "OUTER", "CROSS"}
    ):
        words = " ".join(word for word in (joins[0].method, joins[0].side, joins[0].kind) if word)
        return f"{words} JOIN of streams is not supported; use INNER, LEFT, RIGHT or FULL JOIN with ON"
    return None


def _relation(select: exp.Select, table: exp.Table, name: str, streamed: StreamedInput) -> JoinSide:
    """Return a side with the columns that the statement uses; only these are kept in the state."""
    named = used_columns(select, table.name, streamed.schema)
    columns = tuple(column for column in streamed.schema.names if column in {*named, streamed.event_time})
    return JoinSide(name, table.alias_or_name, streamed.schema.select(columns), streamed.event_time)


def _unbounded(sides: Sides, bounds: Bounds) -> str:
    left, right = (f"{side.alias}.{side.event_time}" for side in sides)
    end = "lower" if bounds.low is None else "upper"
    return (
        f"{right} has no {end} bound relative to {left}, so rows would be kept forever; add a condition to the join, for "
        f"example `and {right} between {left} - interval 10 minutes and {left} + interval 10 minutes`"
    )


def _conjuncts(condition: exp.Expr | None) -> Iterator[exp.Expr]:
    if isinstance(condition, exp.And):
        yield from _conjuncts(condition.left)
        yield from _conjuncts(condition.right)
    elif isinstance(condition, exp.Paren):
        yield from _conjuncts(condition.this)
    elif condition is not None:
        yield condition


def _side_of(node: exp.Expr, sides: Sides) -> Side | None:
    """Return the only side whose columns an expression uses; `None` if it uses both, none, or ambiguous columns."""
    owning_sides: set[Side | None] = set()
    for column in node.find_all(exp.Column):
        owners = [number for number, side in enumerate(sides) if side.is_named(column)]
        owning_sides.add(owners[0] if len(owners) == 1 else None)
    return owning_sides.pop() if len(owning_sides) == 1 else None


def _time_of(column: exp.Column, sides: Sides) -> Side | None:
    side = _side_of(column, sides)
    return side if side is not None and sides[side].is_event_time(column) else None


def _using(join: exp.Join, sides: Sides) -> Iterator[tuple[str, str]]:
    for name in join.args.get("using") or ():
        column = exp.column(name.name, quoted=True)
        yield from _hash_keys((column, column), sides)


def _equalities(conjuncts: Sequence[exp.Expr], sides: Sides) -> Iterator[tuple[str, str]]:
    for conjunct in conjuncts:
        if isinstance(conjunct, exp.EQ):
            parts = {_side_of(part, sides): part for part in (conjunct.this, conjunct.expression)}
            if set(parts) == {0, 1}:
                yield from _hash_keys((parts[0], parts[1]), sides)


def _hash_keys(pair: tuple[exp.Expr, exp.Expr], sides: Sides) -> Iterator[tuple[str, str]]:
    """Yield an equality as an expression over the columns of each side, if equal values have equal hashes."""
    texts = [_unqualified(part).sql("duckdb") for part in pair]
    kinds = [
        expression_type(text, tuple((quoted(column.name), column.type) for column in side.schema.columns))
        for text, side in zip(texts, sides, strict=True)
    ]
    family = family_of(kinds[0])
    if family is None or family != family_of(kinds[1]):
        return
    cast_to = common_type([str(kind) for kind in kinds])
    first, second = (text if cast_to is None else f"({text})::{cast_to}" for text in texts)
    yield first, second


def _unqualified(node: exp.Expr) -> exp.Expr:
    copy = node.copy()
    for column in list(copy.find_all(exp.Column)):
        column.set("table", None)
    return copy


@dataclass(frozen=True)
class IntervalJoin:
    """A join of two streams with a bounded distance in event time.

    Its state is the rows of each side that may still find a match. The rows of an outer side are in two tables: those
    without a match and those with one. A row without an event time has no match.
    """

    tree: exp.Select
    sides: Sides
    outer: tuple[bool, bool]
    bounds: tuple[int, int]
    """The minimum and maximum of the time of the right row minus that of the left row, in microseconds."""
    keys: tuple[tuple[str, str], ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Both streams, the left one first."""
        return tuple(side.name for side in self.sides)

    @property
    def emits(self) -> Emits:
        """Rows are final."""
        return "append"

    @property
    def identity(self) -> StateIdentity:
        """The kind of join, its conditions (for an inner join including WHERE), and the columns of both sides."""
        select = normalised(self.tree)
        join: exp.Join = select.args["joins"][0]
        where = select.args.get("where")
        on, filters = list(_conjuncts(join.args.get("on"))), list(_conjuncts(None if where is None else where.this))
        if not any(self.outer):
            on, filters = [*on, *filters], []
        layout = {
            "join": join.side.lower() or "inner",
            "join keys": ", ".join(f"{normalised_sql(left)} = {normalised_sql(right)}" for left, right in self.keys),
        }
        for side in self.sides:
            layout |= columns_part(side.name, side.schema.select(tuple(sorted(side.schema.names))), side.event_time)
        low, high = self.bounds
        rules = {
            "join bounds": f"{_interval_in_words(low)} to {_interval_in_words(high)}",
            "join condition": _joined_by_and(on),
            "filter": _joined_by_and(filters),
        }
        return StateIdentity("interval join", STATE_VERSION, layout, rules)

    @property
    def horizon(self) -> str | None:
        """Just after the last time at which a row of an outer side may still find a match."""
        low, high = self.bounds
        selects = [
            f"select max(_at) + {reach} + 1 as _last from {_STATE_TABLES[number][0]}"
            for number, reach in ((0, high), (1, -low))
            if self.outer[number]
        ]
        return f"select max(_last) from ({' union all '.join(selects)})" if selects else None

    @property
    def state(self) -> Mapping[str, str]:
        """A table for the rows of each side, and for an outer side another one for the matched rows."""
        tables: dict[str, str] = {}
        for side, names, is_outer in zip(self.sides, _STATE_TABLES, self.outer, strict=True):
            for name in names[: 1 + is_outer]:
                tables[name] = _arriving(side)
        return tables

    def prepare(self, name: str, before: int) -> Prepared:
        """Rows with their time `_at`, distributed by the equality conditions."""
        number = self.inputs.index(name)
        side = self.sides[number]
        keys = [f"({pair[number]}) as _k{index}" for index, pair in enumerate(self.keys)]
        time = micros(side.event_time)
        return Prepared(
            f"select {', '.join([to_internal(side.schema.names), f'{time} as _at', *keys])} from {quoted(name)}",
            tuple(f"_k{index}" for index in range(len(keys))),
            f"{time} < {before}",
            LATE,
        )

    def advance(self, state: StateTables, progress: WatermarkAdvance) -> str:
        """Join new rows with all rows of the other side, then delete the rows that can no longer find a match."""
        con = state.con
        last_ids = []
        for number, side in enumerate(self.sides):
            mine = _STATE_TABLES[number][0]
            result = con.execute(f"select coalesce(max({ID}), 0) from {mine}").fetchall()
            last_ids.append(int(result[0][0]))
            state.add(mine, _arriving(side))
        inner = [
            self._joined(self._rows(0, last_ids, new=True), self._rows(1, last_ids)),
            self._joined(self._rows(0, last_ids, new=False), self._rows(1, last_ids, new=True)),
        ]
        con.execute(f"create or replace temp table _out as {' union all '.join(inner)}")
        for number in (0, 1):
            if self.outer[number]:
                con.execute(f"create or replace temp table _met_{number} as {self._matched(number, last_ids)}")
        for number, (mine, matched) in enumerate(_STATE_TABLES):
            if self.outer[number]:
                met = f"{ID} in (from _met_{number})"
                state.add(matched, f"select * exclude ({ID}, {SINCE}) from {mine} where {met}")
                state.forget(mine, met)
            self._forget_expired(state, number, progress)
        return "select * from _out"

    def _matched(self, number: Side, last_ids: Sequence[int]) -> str:
        """Return a SELECT of the ids of the rows of a side that found their first match now."""
        row_id = unused_name(
            ID, [name for side in self.sides for name in side.schema.names]
        )  # must not clash with columns
        mine = (
            f"select {from_internal(self.sides[number].schema.names)}, {ID} as {row_id} from {_STATE_TABLES[number][0]}"
        )
        select = f"{quoted(self.sides[number].alias)}.{row_id}"
        selects = []
        for is_new in (True, False):
            rows = f"{mine} where {ID} {'>' if is_new else '<='} {last_ids[number]}"
            pair = (rows, self._rows(1 - number, last_ids, new=None if is_new else True))
            selects.append(self._joined(*(pair if number == 0 else pair[::-1]), select=select))
        return " union ".join(selects)

    def _forget_expired(self, state: StateTables, number: Side, progress: WatermarkAdvance) -> None:
        """Delete the rows that no row at or after the watermark can match; emit those of an outer side."""
        low, high = self.bounds
        reach = high if number == 0 else -low
        is_over = f"(_at is null or _at < {progress.watermark - reach})"
        mine, matched = _STATE_TABLES[number]
        if self.outer[number]:
            unmatched = f"select {from_internal(self.sides[number].schema.names)} from {mine} where {is_over}"
            no_rows = f"{self._rows(1 - number, (0, 0))} where false"
            pair = (unmatched, no_rows) if number == 0 else (no_rows, unmatched)
            state.con.execute(f"insert into _out {self._joined(*pair, side='LEFT' if number == 0 else 'RIGHT')}")
            state.forget(matched, is_over)
        state.forget(mine, is_over)

    def _rows(self, number: Side, last_ids: Sequence[int], *, new: bool | None = None) -> str:
        """Return a SELECT of the stored rows of a side: the new ones, the old ones, or all."""
        names = from_internal(self.sides[number].schema.names)
        mine, matched = _STATE_TABLES[number]
        fresh = "" if new is None else f" where {ID} {'>' if new else '<='} {last_ids[number]}"
        rows = f"select {names} from {mine}{fresh}"
        if self.outer[number] and new is not True:
            rows = f"select * from ({rows} union all select {names} from {matched})"
        return rows

    def _joined(self, left: str, right: str, *, side: str = "", select: str | None = None) -> str:
        """Return the statement over the given rows of both sides, as an inner join unless `side` is set."""
        template = self._templates.get((side, select))
        if template is None:
            template = self._templates[side, select] = self._template(side, select)
        return template.replace(_ROWS[0], f"({left})").replace(_ROWS[1], f"({right})")

    @cached_property
    def _templates(self) -> dict[tuple[str, str | None], str]:
        return {}

    def _template(self, side: str, select: str | None) -> str:
        tree = self.tree.copy()
        join: exp.Join = tree.args["joins"][0]
        if join.side:
            join.set("kind", None if side else "INNER")
        join.set("side", side or None)
        if select is not None:
            tree.set("expressions", [sqlglot.parse_one(select, dialect="duckdb")])
            tree.set("where", None)
        tables = (cast("exp.Table", relation(tree)), cast("exp.Table", join.this))
        for table, rows in zip(tables, _ROWS, strict=True):
            if not table.alias:
                table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name, quoted=True)))
            table.set("this", exp.to_identifier(rows, quoted=False))
        return str(tree.sql("duckdb", comments=False))


def _arriving(side: JoinSide) -> str:
    return f"select {internal_list(side.schema.names)}, _at, {HASH} from {quoted(arrived(side.name))}"


def _interval_in_words(us: int) -> str:
    words = format_duration(timedelta(microseconds=abs(us)))
    return f"{words} {'before' if us < 0 else 'after'}" if us else words


def _joined_by_and(conjuncts: Sequence[exp.Expr]) -> str:
    """Return the conjunction of conditions as one text that does not depend on their order."""
    texts = {f"({c.sql('duckdb', comments=False)})" for c in conjuncts}
    return " and ".join(sorted(texts)) or "none"
