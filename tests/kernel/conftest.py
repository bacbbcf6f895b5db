"""Runs statements over splits and buckets according to their plan, with the same SQL as a task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, settings

from pipeline.core.refusal import Refusal
from pipeline.kernel.aggregates.decomposition import STATES, decompose
from pipeline.kernel.engine import connect, schema_of
from pipeline.kernel.planner.exchange import BUCKETS, Exchange, exchange
from pipeline.kernel.planner.strategy import StrategyChoice, choose_strategy, driving_of
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql import parse, tables_of
from pipeline.kernel.sql_text import bucket_of, quoted

settings.register_profile(
    "fixed",
    derandomize=True,
    print_blob=True,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
settings.load_profile("fixed")

Rows = list[tuple[object, ...]]


class Splits:
    """Tables on one connection; the driving table can be divided into parts."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.con = con
        self._answers = 0

    def give(self, **queries: str) -> None:
        """Create each table from a query."""
        for name, query in queries.items():
            self.con.execute(f"create or replace temp table {quoted('made_' + name)} as {query}")
            self.con.execute(f"create or replace temp view {quoted(name)} as from {quoted('made_' + name)}")

    def direct(self, statement: str) -> tuple[list[str], Rows]:
        """Run a statement directly, and return its types and rows."""
        relation = self.con.sql(statement)
        return [str(kind) for kind in relation.types], rows_of(relation.to_arrow_table())

    def planned(self, statement: str, parts: int) -> tuple[StrategyChoice, list[str], Rows]:
        """Run a statement by its plan, with the driving table divided into parts."""
        tree = parse(statement)
        chosen = choose_strategy(tree)
        if chosen.strategy == "gather":
            return chosen, *self.direct(tree.sql("duckdb", comments=False))
        if chosen.strategy == "partial":
            apart = decompose(tree)
            states = pa.concat_tables([self._arrow(apart.partial()) for _ in self._cut(chosen.driving, parts)])
            answer = apart.answer(apart.types(self.con))
            self.con.register(STATES, states)
            return chosen, *self.direct(answer)
        text = tree.sql("duckdb", comments=False)
        answers = [self.direct(text) for _ in self._cut(chosen.driving, parts)]
        return chosen, answers[0][0], [row for _, rows in answers for row in rows]

    def refreshed(self, statement: str, parts: int) -> tuple[list[str], Rows]:
        """Merge the states of each part with those of the parts before; return the rows of the last states."""
        tree = parse(statement)
        apart = decompose(tree)
        tables = [self._arrow(apart.partial()) for _ in self._cut(driving_of(tree), parts)]
        types = apart.types(self.con)
        kept = tables[0]
        for table in tables[1:]:
            self.con.register(STATES, pa.concat_tables([kept.cast(table.schema), table]))
            kept = self._arrow(apart.merge(types))
        self.con.register(STATES, kept)
        return self.direct(apart.answer_of_merged(types))

    def exchanged(self, statement: str, buckets: int, large: frozenset[str]) -> tuple[Exchange | str, list[str], Rows]:
        """Run a statement in buckets, if it can; `large` inputs are not replicated."""
        tree = parse(statement)
        names = tables_of(tree)
        schemas = {name: schema_of(self.con, f"from {quoted('made_' + name.lower())}") for name in names}
        chosen = exchange(tree, schemas, {name: 2 if name.lower() in large else 1 for name in names}, 2)
        if isinstance(chosen, Refusal):
            return chosen, [], []
        apart = decompose(tree) if chosen.merges else None
        union, query = (BUCKETS, chosen.statement) if apart is None else (STATES, apart.partial())
        driving = driving_of(tree) if chosen.driving_may_split else None
        answers = [self._answer(query) for _ in self._buckets(chosen, buckets, driving)]
        if apart is not None:
            self.con.register(union, pa.concat_tables([self._arrow(f"from {name}") for name in answers]))
            return chosen, *self.direct(apart.answer(apart.types(self.con)))
        self.con.execute(f"create or replace temp view {union} as {' union all '.join(f'from {a}' for a in answers)}")
        return chosen, *self.direct(chosen.finish or f"from {union}")

    def _answer(self, query: str) -> str:
        """Store the result of a bucket with its types, and return the name of the table."""
        self._answers = (self._answers + 1) % 100
        name = f"_answer_{self._answers}"
        self.con.execute(f"create or replace temp table {name} as {query}")
        return name

    def _buckets(self, chosen: Exchange, buckets: int, driving: str | None) -> Iterator[None]:
        """For each bucket, restrict the inputs to its rows; the rows of `driving` in two parts, as for a hot key."""
        parts = 1 if driving is None else 2
        for bucket, part in itertools.product(range(buckets), range(parts)):
            for name, keys in chosen.keys.items():
                view = quoted("made_" + name.lower())
                some = f"and rowid % 2 = {part}" if driving is not None and name.lower() == driving.lower() else ""
                self.con.execute(
                    f"create or replace temp view {quoted(name)} as "
                    f"select * from {view} where {bucket_of(keys, buckets)} = {bucket} {some}"
                )
            yield
        for name in chosen.keys:
            self.con.execute(f"create or replace temp view {quoted(name)} as from {quoted('made_' + name.lower())}")

    def same(self, left: Rows, right: Rows) -> bool:
        """Return whether both have the same rows in any order, up to rounding of floating-point numbers."""
        pairs = zip(sorted(left, key=_order), sorted(right, key=_order), strict=False)
        return len(left) == len(right) and all(_same(a, b) for a, b in pairs)

    def _arrow(self, query: str) -> pa.Table:
        return self.con.sql(query).to_arrow_table()

    def _cut(self, driving: str, parts: int) -> Iterator[int]:
        view = quoted("made_" + driving.lower())
        for part in range(parts):
            mine = f"rowid * {parts} // (select greatest(count(*), 1) from {view}) = {part}"
            self.con.execute(f"create or replace temp view {quoted(driving)} as select * from {view} where {mine}")
            yield part
        self.con.execute(f"create or replace temp view {quoted(driving)} as from {view}")


def rows_of(table: pa.Table) -> Rows:
    """Return a table's rows."""
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@pytest.fixture(scope="session")
def splits() -> Iterator[Splits]:
    with connect(Limits(threads=1)) as con:
        yield Splits(con)


def _order(row: tuple[object, ...]) -> list[str]:
    return [f"{v + 0.0:.5g}" if isinstance(v, float) else repr(v) for v in row]


def _same(left: object, right: object) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return _same(list(left.items()), list(right.items()))
    if isinstance(left, tuple | list) and isinstance(right, tuple | list):
        return len(left) == len(right) and all(_same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(left) and math.isnan(right))
    return left == right
