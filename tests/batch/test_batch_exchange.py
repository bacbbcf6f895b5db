"""Statements in buckets on Ray return the same result as in one process."""

from __future__ import annotations

import re
import uuid

import pyarrow as pa
import pytest

from pipeline.batch.planning import execution_plan
from pipeline.core.execution import ExecutionLimits, NodeResources
from pipeline.kernel.sql import sql
from pipeline.quality import quarantine

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.timeout(120),
    # Ray's settings class sets options that Ray itself deprecates
    pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning"),
]

ORDERS = [
    pa.table(
        {
            "id": range(n * 50, n * 50 + 50),
            "c": [None if i == 7 else i % 9 for i in range(50)],
            "x": [i / 4 for i in range(50)],
        }
    )
    for n in range(4)
]
CUSTOMERS = [pa.table({"c": range(n * 5, n * 5 + 5), "name": [f"c{n * 5 + i}" for i in range(5)]}) for n in range(2)]
HOT = [pa.table({"id": range(400), "c": [1] * 390 + list(range(10)), "x": [0.5] * 400})]


@pytest.mark.share(1)
@pytest.mark.parametrize(
    ("text", "orders"),
    [
        ("select o.id, k.name, o.x from orders o join customers k on o.c = k.c", ORDERS),
        ("select o.id, k.name from orders o join customers k on o.c = k.c", HOT),
        ("select o.id, k.name from orders o full join customers k on o.c = k.c", ORDERS),
        ("select c, median(x) as mid, count(distinct id) as n from orders group by c having count(*) > 1", ORDERS),
        ("select id, c, row_number() over (partition by c order by id) as n from orders", ORDERS),
        ("select distinct c from orders", ORDERS),
        ("select o.id, k.name from orders o join customers k on o.c = k.c order by o.id desc limit 7", ORDERS),
        ("select k.name, sum(o.x) as x from orders o join customers k on o.c = k.c group by k.name order by x limit 3", ORDERS),
    ],
    ids=["join", "hot key", "full join", "any aggregate", "window", "distinct", "top", "groups across buckets"],
)  # fmt: skip
def test_results_in_buckets_equal_the_local_result(step, scan, text, orders):
    table = sql(text).named("t")
    scans = {
        name: scan(*parts) for name, parts in (("orders", orders), ("customers", CUSTOMERS)) if name in table.inputs
    }
    here = step(table, scans)

    there = step(table, scans, "ray")

    assert there.rows == here.rows
    assert there.outcome.schema == here.outcome.schema
    assert there.outcome.flow.rows_in == sum(part.num_rows for part in orders)


@pytest.mark.proof
def test_buckets_are_exchanged_over_an_object_store(step, scan, s3):
    """The workers write and read the buckets in the lake's storage, from which they are removed."""
    table = sql("select o.id, k.name, o.x from orders o full join customers k on o.c = k.c").named("t")
    scans = {"orders": scan(*ORDERS), "customers": scan(*CUSTOMERS)}
    lake = s3.storage(uuid.uuid4().hex)

    there = step(table, scans, "ray", lake)

    assert (
        execution_plan(table, scans, limits=limits_of(NodeResources(1, 1 << 20), NodeResources(1, 1 << 20))).strategy
        == "exchange"
    )
    assert there.rows == step(table, scans).rows
    assert [name for name in lake.names() if not name.startswith("silver/t/part-")] == []


def test_the_plan_names_the_partitioned_inputs(scan):
    scans = {"orders": scan(*ORDERS), "customers": scan(*CUSTOMERS)}
    table = sql("select o.id, k.name from orders o full join customers k on o.c = k.c").named("t")

    plan = execution_plan(table, scans, limits=limits_of(NodeResources(1, 1 << 30), NodeResources(1, 1 << 30)))

    assert (plan.strategy, plan.executor) == ("exchange", "ray")
    assert plan.reason == "'customers' and 'orders' in buckets by \"c\""


@pytest.mark.parametrize(
    ("nodes", "strategy", "why"),
    [
        ([NodeResources(2, 64 << 30)], "gather", "execution is set to ray"),
        (
            [NodeResources(2, 64 << 30), NodeResources(2, 64 << 30)],
            "gather",
            r"; one worker: \d+\.\d s in one worker, \d+\.\d s in buckets",
        ),
        ([NodeResources(2, 64 << 30)] * 16, "exchange", r"; buckets: \d+\.\d s in one worker, \d+\.\d s in buckets"),
        ([NodeResources(2, 1 << 30)] * 2, "exchange", "execution is set to ray"),
    ],
    ids=["one node", "two nodes", "many nodes", "too little memory"],
)
def test_rows_are_gathered_or_partitioned_by_estimated_time(scan, nodes, strategy, why):
    scans = {"orders": scan(*ORDERS), "customers": scan(*CUSTOMERS)}
    table = sql("select o.id, k.name from orders o full join customers k on o.c = k.c").named("t")

    plan = execution_plan(table, scans, limits=limits_of(*nodes))

    assert (plan.strategy, plan.executor) == (strategy, "ray")
    assert re.search(why, plan.why)


def limits_of(*nodes: NodeResources) -> ExecutionLimits:
    return ExecutionLimits("ray", nodes=lambda: nodes)


def test_expectations_and_keys_are_validated_across_buckets(step, scan):
    table = sql(
        "select o.c, o.id % 3 as r, count(distinct o.id) as n from orders o join customers k on o.c = k.c group by all",
        key=("c", "r"), expect=[quarantine("few", "n < 8")],
    ).named("t")  # fmt: skip
    scans = {"orders": scan(*ORDERS), "customers": scan(*CUSTOMERS)}

    here, there = (step(table, scans, execution) for execution in ("inline", "ray"))

    assert there.rows == here.rows
    assert sorted(row["row"] for row in there.quarantined) == sorted(row["row"] for row in here.quarantined) != []
    assert there.outcome.checks == here.outcome.checks
