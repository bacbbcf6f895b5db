"""Results of experiments, from exposures and outcomes in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from ml import experiment, outcome_metric
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
    row = found([outcome_metric("revenue", **REVENUE)], exposed(variants(4000)), ordered(amounts))["revenue"]
    new, old = amounts[1::2], amounts[::2]
    plain = fixed_horizon(difference(*(Moments(2000, a.sum(), (a * a).sum()) for a in (new, old))))
    assert (row["mean"], row["control_mean"]) == pytest.approx((new.mean(), old.mean()))
    assert row["difference"] == pytest.approx(new.mean() - old.mean())
    assert row["low"] < plain.low < plain.high < row["high"]
    assert (row["decision"], row["units"]) == ("better", 2000)
    lower = found([outcome_metric("cost", **REVENUE, better="lower")], exposed(variants(4000)), ordered(amounts))[
        "cost"
    ]
    assert lower["decision"] == "worse"


def test_only_rows_after_the_exposure_count_and_units_without_rows_are_zero(rng):
    orders = pa.concat_tables(
        [ordered(rng.normal(5, 1, 200), hours=-1), ordered([3.0] * 100), ordered([9.0] * 200, 30)]
    )
    rows = found([outcome_metric("revenue", **REVENUE, within="1 day")], exposed(variants(400)), orders)
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
    rows = found(
        [outcome_metric("m", **{**REVENUE, "value": value}, per_unit=per_unit)], exposed(variants(400)), orders
    )
    assert rows["m"]["mean"] == rows["m"]["control_mean"] == mean
    assert rows["m"]["decision"] == "undecided"


def test_durations_shorter_than_a_second_are_exact():
    orders = pa.concat_tables(
        [ordered([1.0] * 400, hours=0.0001), ordered([4.0] * 400, hours=0.0002)]
    )  # 0.36 and 0.72 s
    rows = found(
        [outcome_metric("revenue", **REVENUE, within=timedelta(milliseconds=500))], exposed(variants(400)), orders
    )
    assert rows["revenue"]["mean"] == 1.0


def test_outcomes_may_have_columns_of_any_name():
    """The names that the statement gives to units do not hide columns of the outcomes."""
    names = {"unit": [2.0] * 400, "time": [3.0] * 400, "value": [4.0] * 400, "exposed_at": [5.0] * 400}
    orders = table(user=range(400), at=[START + HOUR] * 400, variant=[1.0] * 400, **names)
    for number, name in enumerate(("variant", *names), 1):
        rows = found([outcome_metric("m", **{**REVENUE, "value": name})], exposed(variants(400)), orders)
        assert rows["m"]["mean"] == number


def test_rows_before_the_exposure_make_the_result_more_precise(rng):
    habit = rng.normal(10, 3, 4000)
    after = habit + rng.normal(0, 1, 4000)
    after[1::2] += 0.3
    orders = pa.concat_tables([ordered(habit, hours=-24), ordered(after)])
    plain = found([outcome_metric("m", **REVENUE)], exposed(variants(4000)), orders)["m"]
    adjusted = found([outcome_metric("m", **REVENUE, before="7 days")], exposed(variants(4000)), orders)["m"]
    assert (plain["decision"], adjusted["decision"]) == ("undecided", "better")
    assert adjusted["low"] < 0.3 < adjusted["high"]


def test_a_guardrail_tolerates_its_margin_and_stops_at_more(rng):
    amounts = rng.normal(10, 2, 8000)
    amounts[1::2] -= 1

    def decision(margin, orders=amounts):
        return found([outcome_metric("m", **REVENUE, guardrail=margin)], exposed(variants(8000)), ordered(orders))["m"]

    assert decision(0.02)["decision"] == "harm"
    assert decision(0.02)["reason"].endswith("more than the tolerated 2 %")
    assert decision(0.1)["decision"] == "undecided"
    assert decision(0.2)["decision"] == "safe"


@pytest.mark.parametrize(
    ("per_unit", "value"), [("any", "amount > 0"), ("sum", "amount"), ("mean", "amount"), ("max", "amount")]
)
def test_harm_of_all_units_is_harm(per_unit, value):
    """Such as a page that is broken for everybody: no values differ, and the control's mean is 0."""
    orders = ordered([0.0, 1.0] * 1000)
    options = {**REVENUE, "value": value, "per_unit": per_unit}
    metrics = [outcome_metric("errors", **options, better="lower", guardrail=0.1), outcome_metric("sales", **options)]
    rows = found(metrics, exposed(variants(2000)), orders)
    assert (rows["errors"]["decision"], rows["sales"]["decision"]) == ("harm", "better")
    assert rows["errors"]["reason"] == "1 instead of 0, more than the tolerated 10 %"
    assert rows["sales"]["reason"] == "1 instead of 0"


@pytest.mark.parametrize("since", ["2026-01-01T01:30", START + 1.5 * HOUR, (START + 1.5 * HOUR).replace(tzinfo=UTC)])
def test_exposures_before_a_time_do_not_count(since):
    early = exposed(variants(200)[::-1])
    late = exposed(variants(400), hours=2)
    rows = found(
        [outcome_metric("m", **REVENUE)], pa.concat_tables([early, late]), ordered([1.0] * 400, hours=3), since=since
    )
    assert rows[None]["reason"] == "old 200; new 200; 200 exposures before since= do not count"
    assert rows["m"]["control_mean"] == 1.0


def test_days_of_outcomes_are_an_error_unless_exposures_have_days_too():
    """A day begins before the exposures of that day: its outcomes would be lost."""
    orders, days = ordered([1.0] * 400), pa.array([START.date()] * 400)
    dated = orders.set_column(2, "at", days)
    with pytest.raises(Exception, match="metric m: at of orders is a date, which does not say whether a row is after"):
        found([outcome_metric("m", **REVENUE)], exposed(variants(400)), dated)
    rows = found([outcome_metric("m", **REVENUE)], exposed(variants(400)).set_column(2, "at", days), dated)
    assert rows["m"]["mean"] == 1.0


def test_a_wrong_ratio_makes_every_result_broken(rng):
    sides = ["new" if rng.random() < 0.4 else "old" for _ in range(4000)]
    rows = found([outcome_metric("m", **REVENUE)], exposed(sides), ordered(rng.normal(10, 1, 4000)))
    assert (rows[None]["decision"], rows["m"]["decision"]) == ("broken", "broken")
    weighted = found(
        [outcome_metric("m", **REVENUE)],
        exposed(sides),
        ordered(rng.normal(10, 1, 4000)),
        variants={"old": 6, "new": 4},
    )
    assert (weighted[None]["decision"], weighted["m"]["decision"]) == ("safe", "undecided")


def test_units_of_several_variants_unknown_variants_and_incomplete_exposures_are_counted():
    exposures = pa.concat_tables(
        [exposed(variants(400)), exposed(["new"]), table(user=[None, 7], variant=["new", None], at=[START, START])]
    )
    orders = ordered([1000.0, *([1.0] * 399)])
    rows = found([outcome_metric("m", **REVENUE)], exposures, orders)
    assert (rows["m"]["mean"], rows["m"]["control_mean"]) == (1.0, 1.0)  # without the user who saw both
    assert rows[None]["reason"] == (
        "old 199; new 200; 1 units saw several variants and are excluded; 2 exposures without unit, variant or time"
    )
    assert rows[None]["units"] == 399
    odd = found([outcome_metric("m", **REVENUE)], exposed([*variants(400), "nwe"]), orders)
    assert odd[None]["decision"] == "broken"
    assert "unknown variant 'nwe': 1 units" in odd[None]["reason"]


def test_few_units_are_not_decided():
    rows = found([outcome_metric("m", **REVENUE)], exposed(variants(50)), ordered([1.0, 9.0] * 25))
    assert (rows["m"]["decision"], rows["m"]["reason"]) == ("undecided", "25 units, needs 100 in each variant")
    empty = found([outcome_metric("m", **REVENUE)], exposed(variants(50)).slice(0, 0), ordered([1.0]))
    assert (empty["m"]["units"], empty["m"]["mean"]) == (0, None)


def test_more_goals_need_stronger_evidence(rng):
    amounts = rng.normal(10, 2, 4000)
    one = found([outcome_metric("m", **REVENUE)], exposed(variants(4000)), ordered(amounts))["m"]
    two = found(
        [outcome_metric("m", **REVENUE), outcome_metric("n", **REVENUE)], exposed(variants(4000)), ordered(amounts)
    )["m"]
    assert two["high"] - two["low"] > one["high"] - one["low"]


def test_units_are_assigned_by_the_name_of_the_experiment():
    defined = experiment(
        variants={"old": 1, "new": 1},
        exposures="e",
        unit="u",
        time="t",
        metrics=[outcome_metric("m", **REVENUE)],
        traffic=0.5,
    )
    assert defined.named("one").assignment.variant(1) in {None, "old", "new"}
    assert [defined.named("one").assignment.variant(i) for i in range(99)] != [
        defined.named("two").assignment.variant(i) for i in range(99)
    ]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"metrics": []}, "no metrics"),
        ({"metrics": [outcome_metric("m", **REVENUE)] * 2}, "two metrics are named 'm'"),
        ({"units": 0}, "units="),
        ({"alpha": 1}, "alpha="),
        ({"units": "20_000"}, "units= must be a positive whole number: got '20_000'"),
        ({"alpha": "5%"}, "alpha= must be a finite number: got '5%'"),
        ({"metrics": outcome_metric("m", **REVENUE)}, "no metrics"),
        ({"metrics": ["m"]}, "a metric that is none: got 'm'"),
        ({"since": "yesterday"}, "since= is not a time: got 'yesterday'"),
        ({"variants": ["a", "b"]}, r"no names with weights: got \['a', 'b'\]"),
        ({"variants": {0: 1, 1: 1}}, "a variant whose name is no text: got 0"),
        ({"variants": {"": 1, "b": 1}}, "a variant whose name is no text: got ''"),
        (
            {"variants": {"a": "1", "b": 1}},
            "the weight of variant 'a' of an experiment must be a finite number: got '1'",
        ),
        ({"variants": {"a": float("nan"), "b": 1}}, "must be a finite number: got nan"),
        ({"traffic": "half"}, "traffic= of an experiment must be a finite number: got 'half'"),
        ({"slots": 0.5}, "slots= of an experiment must be two shares: got 0.5"),
        ({"variants": {"a": 1}}, r"an experiment needs two variants"),
        ({"traffic": 2}, r"a share that is not in \[0, 1\]: got traffic=2"),
    ],
)
def test_invalid_experiments(options, problem):
    plain = {"variants": {"a": 1, "b": 1}, "metrics": [outcome_metric("m", **REVENUE)]}
    with pytest.raises(DefinitionError, match=rf"(?s){problem}.*test_ml_experiment_results.py:\d+"):
        experiment(exposures="e", unit="u", time="t", **{**plain, **options})


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"per_unit": "median"}, "unknown per_unit='median'"),
        ({"better": "more"}, "better= of metric 'm'"),
        ({"guardrail": -0.1}, "guardrail= of metric 'm'"),
        ({"guardrail": float("inf")}, "guardrail= of metric 'm' must be a finite number: got inf"),
        ({"guardrail": "10%"}, "guardrail= of metric 'm' must be a finite number: got '10%'"),
        ({"guardrail": True}, "guardrail= of metric 'm' must be a finite number: got True"),
        ({"per_unit": "mean", "before": "1 day"}, "before= of metric 'm'"),
        ({"within": "0 days"}, "within= of metric 'm' is 0, so no row would count: got '0 days'"),
        ({"before": timedelta()}, "before= of metric 'm' is 0"),
        ({"name": ""}, "the name of a metric must be a text that is not empty: got ''"),
        ({"name": "(several)"}, r"'\(several\)' is the name of counts"),
        ({"name": "(incomplete)"}, r"'\(incomplete\)' is the name of counts"),
        ({"value": 1}, "value= of metric 'm' must be a text that is not empty: got 1"),
    ],
)
def test_invalid_metrics(options, problem):
    with pytest.raises(DefinitionError, match=rf"(?s){problem}.*test_ml_experiment_results.py:\d+"):
        outcome_metric(**{"name": "m", **REVENUE, **options})
