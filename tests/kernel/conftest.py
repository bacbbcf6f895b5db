"""One way to answer a statement over splits: as the plan says, with the same few lines a task runs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, settings

from pipeline.kernel.aggregates import STATES, take_apart
from pipeline.kernel.engine import connect, quoted
from pipeline.kernel.plan import Plan, plan
from pipeline.kernel.sql import parse

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
    """Tables on one connection, the driving one of which can be cut into parts."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.con = con

    def give(self, **queries: str) -> None:
        """Make each table from a query."""
        for name, query in queries.items():
            self.con.execute(f"create or replace temp table {quoted('made_' + name)} as {query}")
            self.con.execute(f"create or replace temp view {quoted(name)} as from {quoted('made_' + name)}")

    def direct(self, statement: str) -> tuple[list[str], Rows]:
        """Answer a statement at once: its types and rows."""
        relation = self.con.sql(statement)
        columns = relation.to_arrow_table().columns
        return [str(kind) for kind in relation.types], list(zip(*(c.to_pylist() for c in columns), strict=True))

    def planned(self, statement: str, parts: int) -> tuple[Plan, list[str], Rows]:
        """Answer a statement by its plan, with the driving table cut into parts."""
        tree = parse(statement)
        chosen = plan(tree)
        if chosen.strategy == "gather":
            return chosen, *self.direct(tree.sql("duckdb", comments=False))
        if chosen.strategy == "partial":
            apart = take_apart(tree)
            states = pa.concat_tables([self._arrow(apart.partial()) for _ in self._cut(chosen.driving, parts)])
            answer = apart.answer(apart.types(self.con))
            self.con.register(STATES, states)
            return chosen, *self.direct(answer)
        text = tree.sql("duckdb", comments=False)
        answers = [self.direct(text) for _ in self._cut(chosen.driving, parts)]
        return chosen, answers[0][0], [row for _, rows in answers for row in rows]

    def same(self, left: Rows, right: Rows) -> bool:
        """Return whether both are the same rows in any order, floating-point numbers within their rounding."""
        pairs = zip(sorted(left, key=_order), sorted(right, key=_order), strict=False)
        return len(left) == len(right) and all(_same(a, b) for a, b in pairs)

    def _arrow(self, query: str) -> pa.Table:
        return self.con.sql(query).to_arrow_table()

    def _cut(self, driving: str, parts: int) -> Iterator[int]:
        made = quoted("made_" + driving.lower())
        for part in range(parts):
            self.con.execute(
                f"create or replace temp view {quoted(driving)} as select * from {made} where rowid % {parts} = {part}"
            )
            yield part
        self.con.execute(f"create or replace temp view {quoted(driving)} as from {made}")


@pytest.fixture(scope="session")
def splits() -> Iterator[Splits]:
    with connect() as con:
        con.execute("set threads = 1")
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
