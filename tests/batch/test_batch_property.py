"""Generated statements over generated tables return the same rows locally, on Ray in 1, 3 and 7 splits, and from DuckDB."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from pipeline.batch.planning import execution_plan
from pipeline.core.errors import HeadwaterError
from pipeline.core.execution import ExecutionLimits
from pipeline.kernel.engine import connect, schema_of
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql import sql
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import stored
from tests.kernel.conftest import Splits
from tests.kernel.test_kernel_strategies import SMALL, grouped, plain, tables
from tests.rigs.proofs import examples, some

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.timeout(280),
    # Ray's settings class sets options that Ray itself deprecates
    pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning"),
]


def direct(con, text):
    """Return DuckDB's result, cast to the types that a lake stores."""
    schema = schema_of(con, text)
    columns = ", ".join(f"{quoted(c.name)}::{c.type} as {quoted(c.name)}" for c in stored(schema).columns)
    return con.execute(f"select {columns} from ({text})").fetchall()


def values(outcome):
    return [tuple(row.values()) for row in outcome.rows]


@pytest.mark.proof
@settings(
    max_examples=examples(2, 20),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
@given(table=tables(), statement=st.one_of(plain(), grouped()))
def test_a_statement_has_the_same_result_on_every_executor(step, scan, table, statement):
    with connect(Limits(threads=1)) as con:
        con.execute(f"create temp table t as {table}; create temp table u as {SMALL}")
        try:
            expected = direct(con, statement)
            definition = sql(statement).named("result")
        except (duckdb.Error, HeadwaterError):
            assume(condition=False)
        rows, small = (con.sql(f"from {name}").to_arrow_table() for name in ("t", "u"))
        same = Splits(con).same
    few = {name: scan(small if name.lower() == "u" else rows) for name in definition.inputs}
    try:
        here = step(definition, few)
    except HeadwaterError:
        assume(condition=False)
    assert same(values(here), expected), statement
    for count in some((1, 3, 7), 2):
        parts = [
            rows.slice(i * rows.num_rows // count, (i + 1) * rows.num_rows // count - i * rows.num_rows // count)
            for i in range(count)
        ]
        scans = {name: scan(small) if name.lower() == "u" else scan(*parts) for name in definition.inputs}
        event(execution_plan(definition, scans, limits=ExecutionLimits("ray")).strategy)
        there = step(definition, scans, "ray")
        assert same(values(there), expected), (statement, count)
        assert there.outcome.schema == here.outcome.schema
