"""Definitions of metrics are checked when they are made, and when the project is loaded."""

from __future__ import annotations

import pytest

from pipeline import metric
from pipeline.core.errors import DefinitionError
from pipeline.project.project import load
from pipeline.warehouse.modelling.metric_sql import parts_of
from pipeline.warehouse.modelling.metrics import Aggregate
from pipeline.warehouse.modelling.rollups import match, rollups_of

DEFINITIONS = """
from pipeline import date_dimension, dimension, fact, files, lookup, mart, metric, source

raw_airports = source(files("airports.csv"), schema={"code": "varchar", "city": "varchar"})
raw_flights = source(
    files("flights.csv"), schema={"id": "bigint", "origin": "varchar", "dest": "varchar", "at": "timestamp", "late": "integer"}
)
dim_airport = dimension("select code, city from raw_airports", key="code")
flights = fact(
    "select id, origin, dest, at, late from raw_flights", key="id",
    lookups={"origin_key": lookup("dim_airport", {"origin": "code"}), "dest_key": lookup("dim_airport", {"dest": "code"})},
)
"""


def project(tmp_path, more: str):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "air"\ndefinitions = "air.py"\n')
    (tmp_path / "air.py").write_text(DEFINITIONS + more)
    return load(tmp_path)


def test_an_expression_is_a_formula_over_aggregates():
    rate = metric("rate", "100 * count(*) filter (where late > 15) / count(*)", table="flights")
    assert rate.aggregates == (Aggregate("count"), Aggregate("count", "", "late > 15"))
    assert rate.formula == '(100 * "~1" / NULLIF(("~0"), 0))'
    assert rate.columns == {"late"}


def test_an_average_is_the_ratio_of_a_sum_and_a_count():
    mean = metric("mean", "avg(late) - sum(late)", table="flights")
    assert mean.aggregates == (Aggregate("sum", "late"), Aggregate("count", "late"))


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("late", "contains no aggregate"),
        ("sum(late) +", "is not a SQL expression"),
        ("sum(late), 1", "is not a single SQL expression"),
        ("sum(late) + late", "reads late outside an aggregate"),
        ("sum(late) over ()", "contains a subquery or a window function"),
        ("(select max(late) from flights) + 1", "contains a subquery or a window function"),
        ("sum((select 1))", "contains a subquery or a window function"),
        ("median(late)", "is no aggregate of metrics"),
        ("sum(distinct late)", "only count can be of distinct values"),
        ("max(late, 2)", "is no aggregate of metrics"),
        ("sum(random())", "returns another value each time"),
        ("sum(late) * random()", "returns another value each time"),
        ("sum(no_such(late))", "calls an unknown function 'no_such'"),
        ("sum(f.late)", "contains f.late"),
        ("count(*) filter (where max(late) > 1)", "aggregate"),
    ],
)
def test_expressions_that_are_no_metric(expression, problem):
    with pytest.raises(DefinitionError) as caught:
        metric("m", expression, table="flights")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"name": "On time"}, "the name of a metric is not plain"),
        ({"where": "sum(late) > 1"}, "must not contain a subquery, window function or aggregate"),
        ({"where": "at < now()"}, "returns another value each time"),
        ({"dimensions": ["origin", "origin"]}, "is named twice"),
        ({"dimensions": "period"}, "is named twice or as a column of its results"),
    ],
)
def test_options_that_do_not_fit(options, problem):
    with pytest.raises(DefinitionError) as caught:
        metric(**{"name": "m", "expression": "count(*)", "table": "flights", **options})
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("definition", "problem"),
    [
        ('metric("m", "count(*)", table="flight")', "is of a table 'flight', which does not exist"),
        ('metric("m", "sum(lat)", table="flights")', "reads a column 'lat', which 'flights' does not have"),
        ('metric("m", "count(*)", table="flights", time="when")', "reads a column 'when'"),
        ('metric("m", "count(*)", table="flights", where="lat > 1")', "reads a column 'lat'"),
        ('metric("m", "count(*)", table="flights", dimensions="orgin")', "'flights' has no column 'orgin'"),
        ('metric("m", "count(*)", table="flights", dimensions="dim_airport.city")', "write origin_key.city or dest_key.city"),
        ('metric("m", "count(*)", table="flights", dimensions="origin_key.town")', "'dim_airport' has no column 'town'"),
        ('metric("m", "count(*)", table="flights", dimensions="dim_airline.name")', "has no foreign key to 'dim_airline'"),
        ('metric("flights", "count(*)", table="flights")', "is that of another table, source or model"),
        ('metric("m", "count(*)", table="flights")\nn = metric("m", "sum(late)", table="flights")', "is that of another metric"),
    ],
)  # fmt: skip
def test_metrics_that_do_not_fit_their_tables(tmp_path, definition, problem):
    with pytest.raises(DefinitionError) as caught:
        project(tmp_path, f"\nm = {definition}\n")
    assert problem in str(caught.value)


def test_dimensions_and_grains_of_a_metric(tmp_path):
    more = """
dim_date = date_dimension("2026-01-01", "2026-01-31")
m = metric("m", "count(*)", table="flights", time="at", dimensions=["origin", "dest_key.city"])
n = metric("n", "count(*)", table="flights")
"""
    m, n = project(tmp_path, more).metrics
    assert [(each.column, each.key, each.table, each.references) for each in m.dimensions] == [
        ("origin", "", "", ""),
        ("city", "dest_key", "dim_airport", "airport_key"),
    ]
    assert m.calendar == "dim_date"
    assert (m.grains[-1], n.grains) == ("fiscal_year", ())


MARTS = {
    "count(*) as n from flights": True,
    "origin, COUNT( * ) as n, sum(f.late) as late from flights as f group by origin": True,
    "date_trunc('day', at)::date as day, min(late) as least from flights group by 1 order by 1": True,
    "a.city, count(*) as n from flights f join dim_airport a on f.origin_key = a.airport_key group by all": True,
    "a.city, count(*) as n from flights f left join dim_airport a on a.airport_key = f.dest_key group by a.city": True,
    "origin, count(*) filter (where late > 15) as n from flights where dest = 'JFK' group by origin": True,
    "origin, median(late) as late from flights group by origin": False,
    "origin, count(distinct dest) as n from flights group by origin": False,
    "origin, 2 * count(*) as n from flights group by origin": False,
    "distinct origin, count(*) as n from flights group by origin": False,
    "origin, count(*) as n from flights group by origin having n > 1": False,
    "origin, count(*) as n from flights group by origin qualify row_number() over (order by n) = 1": False,
    "origin, count(*) as n from flights group by origin limit 3": False,
    "origin, count(*) as n from flights group by rollup (origin)": False,
    "origin, count(*) as n from flights group by cube (origin)": False,
    "origin, count(*) as n from flights group by grouping sets ((origin), ())": False,
    "origin, unnest([1, 2]) as i, count(*) as n from flights group by origin": False,
    "origin, sum(count(*)) over () as n, count(*) as m from flights group by origin": False,
    "origin, (select max(late) from flights) as l, count(*) as n from flights group by origin": False,
    "origin, count(*) as n from (select * from flights limit 5) group by origin": False,
    "origin, count(*) as n from flights tablesample 10% group by origin": False,
    "origin, count(*) as n from flights where origin in (select code from dim_airport) group by origin": False,
    "origin, count(*) as n from flights f, dim_airport group by origin": False,
    "origin, count(*) as n from flights f cross join dim_airport a group by origin": False,
    "origin, count(*) as n from flights f join dim_airport a on f.origin = a.code group by origin": False,
    "origin, count(*) as n from flights f join dim_airport a on f.origin_key >= a.airport_key group by origin": False,
    "origin, count(*) as n from flights f right join dim_airport a on f.origin_key = a.airport_key group by origin": False,
    "origin, count(*) as n from flights f semi join dim_airport a on f.origin_key = a.airport_key group by origin": False,
    "origin, count(*) as n from flights f join dim_airport a on f.origin_key = a.airport_key where a.city = 'Rome' group by origin": False,
    "a.city, count(a.code) as n from flights f join dim_airport a on f.origin_key = a.airport_key group by all": False,
}  # fmt: skip


@pytest.mark.parametrize("select", MARTS)
def test_which_marts_are_pre_aggregations(tmp_path, select):
    graph = project(tmp_path, f'\nmade = mart("""select {select}""")\n').graph
    assert [each.name for each in rollups_of(graph).get("flights", ())] == (["made"] if MARTS[select] else [])


def test_a_pre_aggregation_keeps_the_roles_of_a_dimension_apart(tmp_path):
    select = (
        "select a.city, count(*) as n from flights f left join dim_airport a on a.airport_key = f.dest_key group by all"
    )
    more = f'\nmade = mart("{select}")\nm = metric("m", "count(*)", table="flights", dimensions=["origin_key.city", "dest_key.city"])'
    loaded = project(tmp_path, more)
    (part,), (rollup,) = parts_of(loaded.metrics), rollups_of(loaded.graph)["flights"]
    assert match(part, ["dest_key.city"], "", rollup, has_bounds=False) is not None
    assert match(part, ["origin_key.city"], "", rollup, has_bounds=False) is None
    assert rollup.tables == ("flights", "dim_airport")


@pytest.mark.parametrize(
    ("where", "mart", "condition"),
    [
        ("late > 15", "select origin, count(*) as n from flights where (LATE>15) group by 1", ""),
        ("late > 15", "select late as l, count(*) as n from flights group by 1", '("m"."l" > 15)'),
        ("late > 15", "select origin, count(*) as n from flights group by 1", None),
        ("late > 15", "select late, count(*) as n from flights where late > 10 group by 1", None),
        ("", "select origin, count(*) as n from flights where late > 15 group by 1", None),
    ],
)
def test_the_condition_of_a_metric_on_a_pre_aggregation(tmp_path, where, mart, condition):
    more = f'\nmade = mart("{mart}")\nm = metric("m", "count(*)", table="flights", where="{where}" or None)'
    loaded = project(tmp_path, more)
    (part,), (rollup,) = parts_of(loaded.metrics), rollups_of(loaded.graph)["flights"]
    found = match(part, [], "", rollup, has_bounds=False)
    assert (None if found is None else found.where.replace("m.", '"m".')) == condition
