"""Results of experiments, from exposures and outcomes in memory."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from ml import experiment, metric
from ml.experiments import difference, fixed_horizon
from ml.experiments.moments import Moments
from pipeline.core.errors import DefinitionError

START = datetime(2026, 1, 1)  # noqa: DTZ001 - naive, as in tables
HOUR = timedelta(hours=1)
REVENUE = {"of": "orders", "value": "amount", "unit": "user", "time": "at"}


def table(**columns):
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def exposed(variants, hours=0):
    """Return one exposure for each user, whose number is the place of the variant."""
    return table(user=range(len(variants)), variant=variants, at=[START + hours * HOUR] * len(variants))


def ordered(amounts, hours=1):
    """Return one order for each user, `hours` after the exposure."""
    return table(user=range(len(amounts)), amount=amounts, at=[START + hours * HOUR] * len(amounts))


def found(metrics, exposures, orders, **options):
    options = {"variants": {"old": 1, "new": 1}, **options}
    defined = experiment(exposures="exposures", unit="user", time="at", metrics=metrics, **options).named("e")
    sums = defined.companions[0].transform(exposures=exposures, orders=orders)
    rows = defined.transform(sums).to_pylist()
    return {row["metric"]: row for row in rows}


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def variants(n):
    return ["old", "new"] * (n // 2)


def test_a_goal_is_the_difference_of_the_means_of_units(rng):
    amounts = rng.normal(10, 2, 4000)
    amounts[1::2] += 1
    row = found([metric("revenue", **REVENUE)], exposed(variants(4000)), ordered(amounts))["revenue"]
    new, old = amounts[1::2], amounts[::2]
    plain = fixed_horizon(difference(*(Moments(2000, a.sum(), (a * a).sum()) for a in (new, old))))
    assert (row["mean"], row["control_mean"]) == pytest.approx((new.mean(), old.mean()))
    assert row["difference"] == pytest.approx(new.mean() - old.mean())
    assert row["low"] < plain.low < plain.high < row["high"]
    assert (row["decision"], row["units"]) == ("better", 2000)
    lower = found([metric("cost", **REVENUE, better="lower")], exposed(variants(4000)), ordered(amounts))["cost"]
    assert lower["decision"] == "worse"


def test_only_rows_after_the_exposure_count_and_units_without_rows_are_zero(rng):
    orders = pa.concat_tables(
        [ordered(rng.normal(5, 1, 200), hours=-1), ordered([3.0] * 100), ordered([9.0] * 200, 30)]
    )
    rows = found([metric("revenue", **REVENUE, within="1 day")], exposed(variants(400)), orders)
    assert rows["revenue"]["control_mean"] == pytest.approx(3.0 * 50 / 200)
    assert rows["revenue"]["units"] == 200


@pytest.mark.parametrize(
    ("per_unit", "value", "mean"),
    [
        ("sum", "amount", 5.0),
        ("count", "amount", 2.0),
        ("max", "amount", 4.0),
        ("any", "amount > 3", 1.0),
        ("mean", "amount", 2.5),
    ],
)
def test_rows_become_the_number_of_a_unit(per_unit, value, mean):
    orders = pa.concat_tables([ordered([1.0] * 400), ordered([4.0] * 400)])
    rows = found([metric("m", **{**REVENUE, "value": value}, per_unit=per_unit)], exposed(variants(400)), orders)
    assert rows["m"]["mean"] == rows["m"]["control_mean"] == mean
    assert rows["m"]["decision"] == "undecided"


def test_durations_shorter_than_a_second_are_exact():
    orders = pa.concat_tables(
        [ordered([1.0] * 400, hours=0.0001), ordered([4.0] * 400, hours=0.0002)]
    )  # 0.36 and 0.72 s
    rows = found([metric("revenue", **REVENUE, within=timedelta(milliseconds=500))], exposed(variants(400)), orders)
    assert rows["revenue"]["mean"] == 1.0


def test_outcomes_may_have_columns_of_any_name():
    """The names that the statement gives to units do not hide columns of the outcomes."""
    names = {"unit": [2.0] * 400, "time": [3.0] * 400, "value": [4.0] * 400, "exposed_at": [5.0] * 400}
    orders = table(user=range(400), at=[START + HOUR] * 400, variant=[1.0] * 400, **names)
    for number, name in enumerate(("variant", *names), 1):
        rows = found([metric("m", **{**REVENUE, "value": name})], exposed(variants(400)), orders)
        assert rows["m"]["mean"] == number


def test_rows_before_the_exposure_make_the_result_more_precise(rng):
    habit = rng.normal(10, 3, 4000)
    after = habit + rng.normal(0, 1, 4000)
    after[1::2] += 0.3
    orders = pa.concat_tables([ordered(habit, hours=-24), ordered(after)])
    plain = found([metric("m", **REVENUE)], exposed(variants(4000)), orders)["m"]
    adjusted = found([metric("m", **REVENUE, before="7 days")], exposed(variants(4000)), orders)["m"]
    assert (plain["decision"], adjusted["decision"]) == ("undecided", "better")
    assert adjusted["low"] < 0.3 < adjusted["high"]


def test_a_guardrail_tolerates_its_margin_and_stops_at_more(rng):
    amounts = rng.normal(10, 2, 8000)
    amounts[1::2] -= 1

    def decision(margin, orders=amounts):
        return found([metric("m", **REVENUE, guardrail=margin)], exposed(variants(8000)), ordered(orders))["m"]

    assert decision(0.02)["decision"] == "harm"
    assert decision(0.02)["reason"].endswith("more than the tolerated 2 %")
    assert decision(0.1)["decision"] == "undecided"
    assert decision(0.2)["decision"] == "safe"


def test_a_wrong_ratio_makes_every_result_broken(rng):
    sides = ["new" if rng.random() < 0.4 else "old" for _ in range(4000)]
    rows = found([metric("m", **REVENUE)], exposed(sides), ordered(rng.normal(10, 1, 4000)))
    assert (rows[None]["decision"], rows["m"]["decision"]) == ("broken", "broken")
    weighted = found(
        [metric("m", **REVENUE)], exposed(sides), ordered(rng.normal(10, 1, 4000)), variants={"old": 6, "new": 4}
    )
    assert (weighted[None]["decision"], weighted["m"]["decision"]) == ("safe", "undecided")


def test_units_of_several_variants_unknown_variants_and_incomplete_exposures_are_counted():
    exposures = pa.concat_tables(
        [exposed(variants(400)), exposed(["new"]), table(user=[None, 7], variant=["new", None], at=[START, START])]
    )
    orders = ordered([1000.0, *([1.0] * 399)])
    rows = found([metric("m", **REVENUE)], exposures, orders)
    assert (rows["m"]["mean"], rows["m"]["control_mean"]) == (1.0, 1.0)  # without the user who saw both
    assert rows[None]["reason"] == (
        "old 199; new 200; 1 units saw several variants and are excluded; 2 exposures without unit, variant or time"
    )
    assert rows[None]["units"] == 399
    odd = found([metric("m", **REVENUE)], exposed([*variants(400), "nwe"]), orders)
    assert odd[None]["decision"] == "broken"
    assert "unknown variant 'nwe': 1 units" in odd[None]["reason"]


def test_few_units_are_not_decided():
    rows = found([metric("m", **REVENUE)], exposed(variants(50)), ordered([1.0, 9.0] * 25))
    assert (rows["m"]["decision"], rows["m"]["reason"]) == ("undecided", "25 units, needs 100 in each variant")
    empty = found([metric("m", **REVENUE)], exposed(variants(50)).slice(0, 0), ordered([1.0]))
    assert (empty["m"]["units"], empty["m"]["mean"]) == (0, None)


def test_more_goals_need_stronger_evidence(rng):
    amounts = rng.normal(10, 2, 4000)
    one = found([metric("m", **REVENUE)], exposed(variants(4000)), ordered(amounts))["m"]
    two = found([metric("m", **REVENUE), metric("n", **REVENUE)], exposed(variants(4000)), ordered(amounts))["m"]
    assert two["high"] - two["low"] > one["high"] - one["low"]


def test_units_are_assigned_by_the_name_of_the_experiment():
    defined = experiment(
        variants={"old": 1, "new": 1}, exposures="e", unit="u", time="t", metrics=[metric("m", **REVENUE)], traffic=0.5
    )
    assert defined.named("one").assignment.variant(1) in {None, "old", "new"}
    assert [defined.named("one").assignment.variant(i) for i in range(99)] != [
        defined.named("two").assignment.variant(i) for i in range(99)
    ]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"metrics": []}, "no metrics"),
        ({"metrics": [metric("m", **REVENUE)] * 2}, "two metrics are named 'm'"),
        ({"units": 0}, "units="),
        ({"alpha": 1}, "alpha="),
        ({"variants": {"a": 1}}, r"an experiment needs two variants.*test_ml_experiment_results.py:\d+"),
        ({"traffic": 2}, r"a share that is not in \[0, 1\]: got traffic=2.*test_ml_experiment_results.py:\d+"),
    ],
)
def test_invalid_experiments(options, problem):
    plain = {"variants": {"a": 1, "b": 1}, "metrics": [metric("m", **REVENUE)]}
    with pytest.raises(DefinitionError, match=f"(?s){problem}"):
        experiment(exposures="e", unit="u", time="t", **{**plain, **options})


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"per_unit": "median"}, "unknown per_unit='median'"),
        ({"better": "more"}, "better= of metric 'm'"),
        ({"guardrail": -0.1}, "guardrail= of metric 'm'"),
        ({"per_unit": "mean", "before": "1 day"}, "before= of metric 'm'"),
    ],
)
def test_invalid_metrics(options, problem):
    with pytest.raises(DefinitionError, match=problem):
        metric("m", **REVENUE, **options)
