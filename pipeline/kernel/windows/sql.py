"""Event-time windows in a statement: the GROUP BY functions `tumble`, `hop` and `session`.

    tumble(at, size)          |---a---|---b---|---c---|       consecutive windows; each row is in one
    hop(at, slide, size)      |---a---|   |---c---|           a window starts every slide;
                                  |---b---|                   each row is in all windows that contain its time
    session(at, gap)          |-a--|      |---b----|          a window ends once there is no row for a gap

Each function returns the inclusive start of the row's window; `tumble_end`, `hop_end` and `session_end` with the same
arguments return its exclusive end. A session ends one gap after its last row. Windows are aligned like DuckDB's
`time_bucket`: to Monday, 3 January 2000, or to 1 January for months. Rows with a null or infinite time are in no window.
`in_plain_sql` rewrites windows to plain DuckDB SQL over all rows; `in_panes` rewrites them to an incremental form.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal, cast

import duckdb
from sqlglot import exp, parse_one

from pipeline.core.errors import DefinitionError, Place
from pipeline.core.event_time import format_duration
from pipeline.kernel.aggregates.grouping import keys_of, text_in, unclear_name
from pipeline.kernel.engine import arrow, connect, first_line
from pipeline.kernel.sql_text import unused_name
from pipeline.kernel.syntax.function_calls import is_aggregate, own

Kind = Literal["tumble", "hop", "session"]
_INTERVALS: dict[Kind, tuple[str, ...]] = {"tumble": ("size",), "hop": ("slide", "size"), "session": ("gap",)}
_END = "_end"
_MOST_WINDOWS = 10_000
"""The maximum number of windows of a hop that contain one row."""
_AFTER = frozenset({"with_", "expressions", "group", "having", "order", "limit", "offset"})
_BEFORE = frozenset({"from_", "joins", "where"})
MONDAY_US = 946_857_600_000_000
"""The alignment of windows: 3 January 2000, in microseconds since 1970."""


@dataclass(frozen=True)
class Window:
    """The windows of a statement. Lengths are in microseconds, or in months for a tumble of months."""

    kind: Kind
    time: exp.Expr
    """The event time of a row."""
    size_us: int = 0
    slide_us: int = 0
    """The interval between the starts of consecutive windows; for `tumble`, the size."""
    gap_us: int = 0
    months: int = 0

    @property
    def pane_us(self) -> int:
        """The length of a pane, whose rows are all in the same windows; for a session, the gap."""
        return self.gap_us or math.gcd(self.size_us, self.slide_us)

    @property
    def in_words(self) -> str:
        """A description of the windows, for example `1 hour every 5 minutes`."""
        if self.months:
            return f"{self.months} months"
        size = format_duration(timedelta(microseconds=self.size_us or self.gap_us))
        every = f" every {format_duration(timedelta(microseconds=self.slide_us))}" if self.kind == "hop" else ""
        return f"{size}{every}"

    @property
    def step(self) -> str:
        """The SQL interval between the starts of consecutive windows."""
        return interval(self.slide_us or self.gap_us, self.months)

    @property
    def length(self) -> str:
        """The SQL interval from the start of a window to its end; for a session, from its last row."""
        return interval(self.size_us or self.gap_us, self.months)


def window_of(select: exp.Select, place: Place | None = None) -> Window | None:
    """Return the windows that a SELECT groups by, or `None`; subqueries are ignored.

    Raises `DefinitionError` for intervals that are not constant or not positive, for two different windows, and for a
    window that is not a grouping key.
    """
    words = list(_words(select))
    if not words:
        return None
    windows = [_read(word, place) for word in words]
    if len({(text_in(each.time, select), replace(each, time=exp.null())) for each in windows}) > 1:
        got = " and ".join(dict.fromkeys(word.sql("duckdb") for word in words))
        raise DefinitionError(
            "a statement can group by one window only",
            got=got,
            do="group by the other in a separate table",
            place=place,
        )
    _check_places(select, words, place)
    return windows[0]


def in_plain_sql(tree: exp.Query, place: Place | None = None) -> exp.Query:
    """Return a statement with all windows, including those of subqueries, rewritten to plain DuckDB SQL.

    A statement without windows is returned unchanged.
    """
    windows = {id(s): window for s in tree.find_all(exp.Select) if (window := window_of(s, place)) is not None}
    if not windows:
        return tree
    copy = tree.copy()
    for before, after in list(zip(tree.find_all(exp.Select), copy.find_all(exp.Select), strict=True)):
        window = windows.get(id(before))
        if window is not None:
            _name(after)
            {"tumble": _tumbled, "hop": _hopped, "session": _in_sessions}[window.kind](after, window, place)
    return copy


def in_panes(select: exp.Select, window: Window) -> exp.Select:
    """Return a SELECT that groups by panes instead of windows; the pane is the first key.

    All rows of a pane are in the same windows. Replacing panes by the starts of their windows and merging the groups gives
    the result of the statement.
    """
    copy = select.copy()
    _name(copy)
    keys = [key for key in keys_of(copy) if not _is_word(key) and not isinstance(key, exp.Literal)]
    time = window.time.sql("duckdb")
    pane = f"time_bucket({interval(window.pane_us, window.months)}, {time})"
    begin, end = pane, f"{pane} + {window.length}"
    if window.kind == "session":
        begin, end = f"min({time})", f"max({time}) + {window.length}"
    copy.set("group", exp.Group(expressions=[_parsed(pane), *(key.copy() for key in keys)]))
    _replace(copy, begin, end)
    return copy.where(f"isfinite({time})", dialect="duckdb", copy=False)


def _words(select: exp.Select) -> Iterator[exp.Anonymous]:
    for node in own(select, exp.Anonymous):
        if _is_word(node):
            yield cast("exp.Anonymous", node)


def _is_word(node: exp.Expr) -> bool:
    return isinstance(node, exp.Anonymous) and node.name.lower().removesuffix(_END) in _INTERVALS


def _read(word: exp.Anonymous, place: Place | None) -> Window:
    kind = cast("Kind", word.name.lower().removesuffix(_END))
    names = _INTERVALS[kind]
    if len(word.expressions) != len(names) + 1:
        usage = ", ".join(["a time", *(f"its {name}" for name in names)])
        raise DefinitionError(f"{kind} requires {usage}", got=word.sql("duckdb"), place=place)
    time, *intervals = word.expressions
    spans = {name: _span(kind, name, length, place) for name, length in zip(names, intervals, strict=True)}
    months = spans["size"][0] if kind == "tumble" else 0
    lengths = {f"{name}_us": us for name, (_, us) in spans.items()}
    window = Window(kind, time, months=months, **{"slide_us": lengths.get("size_us", 0), **lengths})
    if window.slide_us > window.size_us:
        raise DefinitionError(
            "the slide of hop must not be longer than its size, because rows between windows would be lost",
            got=word.sql("duckdb"),
            do="pass the slide before the size, or filter with WHERE and use tumble",
            place=place,
        )
    if window.slide_us and -(-window.size_us // window.slide_us) > _MOST_WINDOWS:
        raise DefinitionError(
            f"a row would be in more than {_MOST_WINDOWS:,} windows", got=word.sql("duckdb"), place=place
        )
    return window


def _span(kind: Kind, name: str, length: exp.Expr, place: Place | None) -> tuple[int, int]:
    """Return the months and the microseconds of a constant interval."""
    sql = length.sql("duckdb")
    what = f"the {name} of {kind}"
    if length.find(exp.Column, exp.Query):
        raise DefinitionError(
            f"{what} must be a constant", got=sql, do="use for example interval '5 minutes'", place=place
        )
    try:
        parts = _constant(sql)
    except duckdb.Error as error:
        got = f"{sql}: {first_line(error)}"
        raise DefinitionError(
            f"{what} is not an interval", got=got, do="use for example interval '5 minutes'", place=place
        ) from error
    if parts is None or min(parts) < 0 or not any(parts):
        raise DefinitionError(f"{what} must be positive", got=sql, place=place)
    months, us = parts
    if months and (us or kind != "tumble"):
        do = "use only months, or only days and hours" if kind == "tumble" else "use days"
        raise DefinitionError(f"{what} contains months, whose lengths differ", got=sql, do=do, place=place)
    return months, us


@functools.lru_cache(maxsize=256)
def _constant(sql: str) -> tuple[int, int] | None:
    with connect() as con:
        value = arrow(con, f"select ({sql})::interval as i").column(0)[0].as_py()
    return None if value is None else (value.months, value.days * 86_400_000_000 + value.nanoseconds // 1000)


def interval(us: int, months: int = 0) -> str:
    """Return the SQL of an interval of microseconds, or of months."""
    if months:
        return f"interval '{months} months'"
    words = f"{us} microseconds" if us % 1_000_000 else format_duration(timedelta(microseconds=us))
    return f"interval '{words}'"


def _check_places(select: exp.Select, words: list[exp.Anonymous], place: Place | None) -> None:
    """Check that a window is a complete grouping key, and only used in clauses that follow grouping."""
    first = words[0].sql("duckdb")
    group = select.args.get("group")
    if group is None:
        raise DefinitionError(f"the window {first} requires GROUP BY", do="add GROUP BY ALL", place=place)
    for word in words:
        within = next((a for a in _above(word, select) if isinstance(a, exp.Window) or is_aggregate(a)), None)
        clause = next(name for name, part in select.args.items() if any(node is word for node in _nodes(part)))
        if within is not None or clause not in _AFTER:
            where = within.sql("duckdb") if within is not None else clause.strip("_").upper()
            raise DefinitionError(
                f"{word.sql('duckdb')} cannot be used before rows are grouped",
                got=where,
                do="use the window as a key, in GROUP BY or in the SELECT list with GROUP BY ALL",
                place=place,
            )
    out_of_range = next(
        (k for k in group.expressions if k.is_int and not 0 < int(k.name) <= len(select.expressions)), None
    )
    if out_of_range is not None:
        raise DefinitionError("GROUP BY position is out of range", got=out_of_range.sql("duckdb"), place=place)
    keys = keys_of(select)
    mixed = next((k for k in keys if not _is_word(k) and any(_is_word(node) for node in k.walk())), None)
    if mixed is not None or not any(_is_word(key) for key in keys):
        raise DefinitionError(
            f"{first} must be a grouping key on its own",
            got=None if mixed is None else mixed.sql("duckdb"),
            do="group by the window itself, and use it in expressions in another table",
            place=place,
        )


def _above(node: exp.Expr, top: exp.Expr) -> Iterator[exp.Expr]:
    parent = node.parent
    while parent is not None and parent is not top:
        yield parent
        parent = parent.parent


def _nodes(part: object) -> Iterator[exp.Expr]:
    for each in part if isinstance(part, list) else [part]:
        if isinstance(each, exp.Expr):
            yield from each.walk()


def _name(select: exp.Select) -> None:
    """Alias unnamed window columns of a SELECT by the name of their function."""
    for column in select.expressions:
        if _is_word(column):
            column.replace(exp.alias_(column.copy(), column.name.lower(), quoted=True))


def _replace(select: exp.Select, begin: str, end: str) -> None:
    for word in list(_words(select)):
        word.replace(exp.paren(_parsed(end if word.name.lower().endswith(_END) else begin), copy=False))


def _parsed(sql: str) -> exp.Expr:
    return parse_one(sql, dialect="duckdb")


def _tumbled(select: exp.Select, window: Window, _place: Place | None) -> None:
    time = window.time.sql("duckdb")
    begin = f"time_bucket({window.step}, {time})"
    _replace(select, begin, f"{begin} + {window.length}")
    select.where(f"isfinite({time})", dialect="duckdb", copy=False)


def _hopped(select: exp.Select, window: Window, _place: Place | None) -> None:
    """Join each row with the numbers of its windows, counted backwards from the last one."""
    time = window.time.sql("duckdb")
    hops, back = (unused_name(name, _identifiers(select)) for name in ("_hops", "_back"))
    begin = f"time_bucket({window.step}, {time}) - {hops}.{back} * {window.step}"
    count = -(-window.size_us // window.slide_us)
    _replace(select, begin, f"{begin} + {window.length}")
    joined = f"select 1 cross join (select unnest(range({count})) as {back}) as {hops}"
    select.append("joins", parse_one(joined, dialect="duckdb").args["joins"][0])
    select.where(f"isfinite({time})", dialect="duckdb", copy=False)
    if window.size_us % window.slide_us:
        select.where(f"{time} < {begin} + {window.length}", dialect="duckdb", copy=False)


def _in_sessions(select: exp.Select, window: Window, place: Place | None) -> None:
    """Number rows by session, in a subquery that contains all clauses before grouping."""
    _check_session(select, place)
    keys = [key for key in keys_of(select) if not _is_word(key) and not isinstance(key, exp.Literal)]
    columns = _Columns(_identifiers(select), {})
    time = _column(window.time, columns)
    by = [key.sql("duckdb") for key in keys]
    session = unused_name("_session", columns.taken)
    group = [exp.column(session), *(_over(key, columns) for key in keys)]
    aliases = {e.alias.lower() for e in select.expressions if isinstance(e, exp.Alias)}
    _replace(select, f"min({time})", f"max({time}) + {window.length}")
    outputs = [exp.alias_(_over(e.unalias(), columns), e.alias_or_name, quoted=True) for e in select.expressions]
    parts = {name: _over(select.args[name], columns, aliases) for name in ("having", "order") if select.args.get(name)}
    at = f"epoch_us({window.time.sql('duckdb')})"
    partition = f"partition by {', '.join(by)} " if by else ""
    is_new = f"coalesce({at} - lag({at}) over ({partition}order by {at}) >= {window.gap_us}, true)::int as _new"
    keyed = [f"{key} as _b{number}" for number, key in enumerate(by)]
    rows = exp.select(
        *(exp.alias_(column, name) for name, column in columns.expressions.items()),
        *map(_parsed, [*keyed, is_new]),
        copy=False,
    )
    for clause in _BEFORE:
        rows.set(clause, select.args.get(clause))
        select.set(clause, None)
    rows.where(f"isfinite({window.time.sql('duckdb')})", dialect="duckdb", copy=False)
    partition = f"partition by {', '.join(f'_b{number}' for number in range(len(by)))} " if by else ""
    numbered = f"sum(_new) over ({partition}order by {time}) as {session}"
    of_rows = exp.select("*", _parsed(numbered), copy=False).from_(rows.subquery("_rows", copy=False), copy=False)
    select.set("expressions", outputs)
    select.set("from_", exp.From(this=of_rows.subquery("_sessions", copy=False)))
    select.set("group", exp.Group(expressions=group))
    for name, part in parts.items():
        select.set(name, part)


def _check_session(select: exp.Select, place: Place | None) -> None:
    """Check that the clauses after grouping can be rewritten over the columns of a subquery."""
    unclear = unclear_name(select)
    clause = next((name for name, value in select.args.items() if value and name not in _AFTER | _BEFORE), None)
    nameless = next((e for e in select.expressions if not isinstance(e, exp.Alias | exp.Column)), None)
    queries = (part.find(exp.Query, exp.Star) for part in [*select.expressions, *_clauses(select)] if not _counts(part))
    problem = unclear
    if clause is not None:
        problem = f"{clause.strip('_').upper()} with session"
    elif nameless is not None:
        problem = f"{nameless.sql('duckdb')} has no name: add an alias"
    elif any(queries):
        problem = "a subquery or a star with session"
    if problem is not None:
        raise DefinitionError("the SELECT cannot be grouped by session", got=problem, place=place)


def _clauses(select: exp.Select) -> list[exp.Expr]:
    return [select.args[name] for name in ("having", "order") if select.args.get(name)]


def _counts(part: exp.Expr) -> bool:
    """Return whether a part contains no query, and no star except in `count(*)`."""
    return part.find(exp.Query) is None and all(isinstance(star.parent, exp.Count) for star in part.find_all(exp.Star))


@dataclass(frozen=True)
class _Columns:
    """The columns of a subquery: its expressions by generated names, which do not occur in the statement."""

    taken: frozenset[str]
    expressions: dict[str, exp.Expr]


def _identifiers(select: exp.Select) -> frozenset[str]:
    return frozenset(node.name for node in select.find_all(exp.Identifier))


def _column(node: exp.Expr, columns: _Columns) -> str:
    """Return the subquery's column name of an expression."""
    known = next((name for name, column in columns.expressions.items() if column == node), None)
    name = unused_name(f"_in{len(columns.expressions)}", columns.taken) if known is None else known
    columns.expressions.setdefault(name, node.copy())
    return name


def _over(node: exp.Expr, columns: _Columns, aliases: frozenset[str] | set[str] = frozenset()) -> exp.Expr:
    """Return an expression over the subquery's columns."""

    def replaced(part: exp.Expr) -> exp.Expr:
        if not isinstance(part, exp.Column) or part.name in columns.expressions:
            return part
        if not part.table and part.name.lower() in aliases:
            return part
        return exp.column(_column(part, columns))

    return node.copy().transform(replaced)
