"""What a monitor says about rows, case by case: bins, counts and results run on tables in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from ml import alarms, monitor, rows_of, same_weekday, trailing
from ml.monitoring.alarm_rules import Alarms
from ml.monitoring.hysteresis import states
from pipeline.core.errors import DefinitionError, ModelError

START = datetime(2026, 1, 5)  # a Monday  # noqa: DTZ001 - naive, as in tables
DAY = timedelta(days=1)


def days(*values, name="x", start=START):
    """Return a table with the values of each day."""
    times = [start + i * DAY + timedelta(seconds=k % 86_000) for i, day in enumerate(values) for k in range(len(day))]
    return pa.table({"at": pa.array(times, pa.timestamp("us")), name: pa.array([v for day in values for v in day])})


def judged(monitored, rows, **others):
    """Return the results of a monitor on tables in memory."""
    monitored = monitored.named("m")
    tables = {monitored.of: rows, **others}
    for part in monitored.companions:
        transform = part.transform.over({})
        tables[part.name] = transform(**{name: tables[name] for name in transform.inputs})
    return monitored.transform(**{name: tables[name] for name in monitored.transform.inputs}).to_pylist()


def of(results, day, feature="x", segment=None):
    start = (START + day * DAY).replace(tzinfo=UTC)
    return next(v for v in results if (v["window_start"], v["feature"], v["segment"]) == (start, feature, segment))


def fixed(**options):
    return monitor(of="rows", time="at", reference=rows_of("base"), **options)


def numbers(rng, *means, n=4000, sd=1.0):
    return [rng.normal(mean, sd, n).tolist() for mean in means]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def base(rng):
    return days(*numbers(rng, 0, 0, 0))


def test_1_a_window_without_rows_is_no_data_and_not_no_drift(rng, base):
    found = judged(fixed(numerical=["x"]), days(*numbers(rng, 0), [], *numbers(rng, 0)), base=base)
    assert [v["state"] for v in found] == ["quiet", "no data", "quiet"]
    assert (of(found, 1)["rows"], of(found, 1)["psi"]) == (0, None)


def test_2_few_rows_are_not_judged(rng, base):
    found = judged(fixed(numerical=["x"]), days(*numbers(rng, 5, n=8)), base=base)
    assert (found[0]["state"], found[0]["reason"]) == ("not judged", "8 rows, needs 1,000")
    found = judged(fixed(numerical=["x"]), days(*numbers(rng, 0)), base=days(*numbers(rng, 0, n=300)))
    assert found[0]["reason"] == "the rows of base: 300 rows, needs 1,000"


def test_3_any_other_value_than_the_only_one_is_an_alarm():
    once = alarms(windows=(1, 1))
    for changed in (5.0, 3.0, 7.0):
        rows = days([5.0] * 3000, [5.0] * 2999 + [changed])
        found = judged(fixed(numerical=["x"], alarms=once), rows, base=days([5.0] * 3000))
        assert [v["state"] for v in found] == ["quiet", "quiet" if changed == 5.0 else "alarm"]
        assert found[1]["wasserstein"] is None


def test_4_a_new_category_is_named_and_counted():
    old, new = ["a", "b"] * 2000, ["a", "b"] * 1940 + ["c", "d"] * 60
    options = {"categorical": ["x"], "alarms": alarms(windows=(1, 1))}
    found = judged(fixed(**options), days(old, new, ["a", "b"] * 1990 + ["c", "d"] * 10), base=days(old))
    assert [v["state"] for v in found] == ["quiet", "alarm", "quiet"]
    assert found[1]["new_share"] == pytest.approx(0.03)
    assert "3 % new values: 'c', 'd'" in found[1]["reason"]


def test_5_a_category_that_is_gone_has_a_finite_index():
    found = judged(fixed(categorical=["x"]), days(["a"] * 4000), base=days(["a", "b"] * 2000))
    assert found[0]["state"] == "suspected"
    assert found[0]["psi"] == pytest.approx(0.5 * np.log(2) + (0.5 - 1e-4) * np.log(5000), rel=0.01)


def test_6_nulls_are_a_bin_of_their_own(rng):
    mixed = [None if i % 50 == 0 else v for i, v in enumerate(numbers(rng, 0)[0])]
    rows = days([None if i % 100 < 61 else v for i, v in enumerate(numbers(rng, 0)[0])], [None] * 2000)
    found = judged(fixed(numerical=["x"]), rows, base=days(mixed, mixed))
    assert [v["null_share"] for v in found] == [0.61, 1.0]
    assert "nulls 2 % -> 61 %" in found[0]["reason"]
    assert [v["state"] for v in found] == ["suspected", "alarm"]
    assert found[1]["wasserstein"] is None


def test_7_another_unit_is_said(rng):
    seconds, millis = rng.normal(20, 3, 4000), rng.normal(20_000, 3000, 4000)
    found = judged(fixed(numerical=["x"]), days(millis.tolist()), base=days(seconds.tolist()))
    assert "check the unit" in found[0]["reason"]


def test_8_weekends_are_compared_with_weekends(rng):
    week = [0, 0, 0, 0, 0, 3, 3]
    rows = days(*numbers(rng, *week, *week, *week, *week))
    weekly = judged(monitor(of="rows", time="at", reference=same_weekday(4), numerical=["x"]), rows)
    daily = judged(monitor(of="rows", time="at", reference=trailing("3 days"), numerical=["x"]), rows)
    assert {v["state"] for v in weekly[7:]} == {"quiet"}
    assert weekly[0]["reason"] == "the same weekday of the last 4 weeks: no rows"
    assert "alarm" in {v["state"] for v in daily}


def test_9_a_slow_drift_is_found_against_a_fixed_reference_only(rng, base):
    rows = days(*numbers(rng, *np.linspace(0, 1.5, 30)))
    against_base = judged(fixed(numerical=["x"]), rows, base=base)
    against_yesterday = judged(monitor(of="rows", time="at", reference=trailing("1 day"), numerical=["x"]), rows)
    assert against_base[-1]["state"] == "alarm"
    assert {v["state"] for v in against_yesterday[1:]} == {"quiet"}


def test_10_and_12_many_features_and_many_rows_raise_no_false_alarm(rng):
    n = 50_000
    times = [START + DAY * (i * 3 // n) for i in range(n)]
    columns = {f"x{k}": rng.normal(0.02, 1, n) for k in range(12)}
    base = pa.table({f"x{k}": rng.normal(0, 1, n) for k in range(12)})
    found = judged(
        fixed(numerical=list(columns)), pa.table({"at": pa.array(times, pa.timestamp("us")), **columns}), base=base
    )
    assert {v["state"] for v in found} == {"quiet"}
    assert min(v["p_value"] for v in found) < 0.05


def test_10_weights_judge_all_features_together(rng):
    moved, same = rng.normal(2, 1, 4000), rng.normal(0, 1, 4000)
    rows = pa.table({"at": pa.array([START] * 4000, pa.timestamp("us")), "x": moved, "y": same})
    base = pa.table({"x": rng.normal(0, 1, 4000), "y": rng.normal(0, 1, 4000)})
    for weights, state in (({"x": 0.9, "y": 0.1}, "suspected"), ({"x": 0.01, "y": 0.99}, "quiet")):
        found = judged(fixed(numerical=["x", "y"], alarms=alarms(weights=weights)), rows, base=base)
        assert of(found, 0, None)["state"] == state
        assert of(found, 0, "x")["state"] == "suspected"


def test_11_one_segment_drifts_and_the_total_does_not(rng):
    n = 20_000
    place = np.array(["big", "small"])[(np.arange(n) % 10 == 0).astype(int)]
    table = {"at": pa.array([START] * n, pa.timestamp("us")), "place": pa.array(place)}
    base = pa.table({**table, "x": rng.normal(0, 1, n)})
    rows = pa.table({**table, "x": rng.normal(0, 1, n) + np.where(place == "small", 1.5, 0)})
    found = judged(fixed(numerical=["x"], segment="place"), rows, base=base)
    assert of(found, 0)["state"] == "quiet"
    assert of(found, 0, segment="big")["state"] == "quiet"
    assert (of(found, 0, segment="small")["state"], of(found, 0, segment="small")["rows"]) == ("suspected", 2000)


def test_15_and_16_windows_are_cut_at_versions_and_arms(rng, base):
    rows = days(*numbers(rng, 0, 0, 3, 3))
    versions = pa.array(["1"] * 8000 + ["2"] * 8000)
    found = judged(fixed(numerical=["x"], by="version"), rows.append_column("version", versions), base=base)
    assert [(v["version"], v["state"]) for v in found] == [
        ("1", "quiet"),
        ("1", "quiet"),
        ("2", "suspected"),
        ("2", "alarm"),
    ]


def test_17_an_alarm_goes_on_until_it_ends_and_is_one(rng, base):
    means = [0, 3, 3, 0.4, 3, 0, 0, 0]
    found = judged(fixed(numerical=["x"]), days(*numbers(rng, *means)), base=base)
    assert [v["state"] for v in found] == ["quiet", "suspected", "alarm", "alarm", "alarm", "alarm", "quiet", "quiet"]
    assert {v["since"] for v in found[2:6]} == {(START + 2 * DAY).replace(tzinfo=UTC)}
    assert found[6]["since"] is None


def test_18_a_prediction_that_drifts_alone_is_suspected_of_another_fault(rng):
    def table(x, score):
        at = [START + DAY * (i // 4000) for i in range(8000)]
        return pa.table(
            {"at": pa.array(at, pa.timestamp("us")), "x": rng.normal(x, 1, 8000), "score": rng.normal(score, 1, 8000)}
        )

    options = {"numerical": ["x", "score"], "prediction": "score"}
    alone = of(judged(fixed(**options), table(0, 2), base=table(0, 0)), 1, "score")
    both = of(judged(fixed(**options), table(2, 2), base=table(0, 0)), 1, "score")
    assert alone["state"] == both["state"] == "alarm"
    assert "no feature drifts" in alone["reason"]
    assert "no feature drifts" not in both["reason"]


def test_nan_and_infinity_are_counted_and_break_no_mean(rng, base):
    odd = [*numbers(rng, 0)[0], *[float("nan")] * 200, *[float("inf")] * 100]
    found = judged(fixed(numerical=["x"]), days(odd), base=base)
    assert found[0]["rows"] == 4300
    assert found[0]["new_share"] == pytest.approx(300 / 4300, abs=2e-3)
    assert "mean" in found[0]["reason"]
    assert "nan" not in found[0]["reason"]


def test_rows_without_a_time_are_counted(rng, base):
    rows = pa.concat_tables([days(*numbers(rng, 0)), pa.table({"at": pa.nulls(3, pa.timestamp("us")), "x": [1.0] * 3})])
    found = judged(fixed(numerical=["x"]), rows, base=base)
    assert (found[-1]["window_start"], found[-1]["rows"], found[-1]["reason"]) == (None, 3, "3 rows without a time")


def test_a_wrong_time_is_an_error(rng, base):
    rows = pa.concat_tables([days(*numbers(rng, 0)), days([1.0], start=datetime(1600, 1, 1))])  # noqa: DTZ001 - likewise
    with pytest.raises(ModelError, match="check the time column"):
        judged(fixed(numerical=["x"]), rows, base=base)


def test_expressions_and_names_that_need_quotes(rng):
    rows = days(*numbers(rng, 0), name="select x")
    columns = {"it's": 'abs("select x")', "day": "extract('hour' from at)"}
    found = judged(monitor(of="rows", time="at", reference=trailing("1 day"), numerical=columns), rows)
    assert [v["feature"] for v in found] == ["it's", "day"]


def test_without_a_reference_there_are_no_bins():
    found = judged(fixed(numerical=["x"]), days([1.0] * 5000), base=days([1.0] * 199))
    assert found == []


@pytest.mark.parametrize(
    ("highs", "lows", "expected"),
    [
        ("0100000", "1011111", "0100000"),  # one high window
        ("0110000", "1001111", "0122000"),  # two of three; two low ones end it
        ("0101000", "1010111", "0102200"),
        ("0110101", "1001010", "0122201"),  # two low ones of three end it, and a high one is only suspected
    ],
)
def test_states(highs, lows, expected):
    def flags(text):
        return np.array([c == "1" for c in text])

    state, _ = states(flags(highs), flags(lows), np.ones(len(highs), bool), Alarms())
    assert "".join(map(str, state)) == expected


def test_windows_that_are_not_judged_neither_count_nor_end_an_alarm():
    def flags(text):
        return np.array([c == "1" for c in text])

    #                            high       low        judged: of the last three, two are low only without the gap
    state, since = states(flags("1100000"), flags("0010001"), flags("1110001"), Alarms())
    assert "".join(map(str, state)) == "1222220"
    assert since.tolist() == [-1, 1, 1, 1, 1, 1, -1]


def test_a_large_difference_must_be_significant_too(rng, base):
    rows = days(*numbers(rng, 0.55, 0.55))
    sure = alarms(significance=1e-250)
    assert {v["state"] for v in judged(fixed(numerical=["x"], alarms=sure), rows, base=base)} == {"quiet"}
    assert judged(fixed(numerical=["x"]), rows, base=base)[-1]["state"] == "alarm"


def test_a_constant_has_no_spread_to_divide_by():
    """The variance of 3,000 times 0.1 by sums is not exactly 0."""
    found = judged(fixed(numerical=["x"]), days([0.1] * 2900 + [0.3] * 100), base=days([0.1] * 3000))
    assert found[0]["wasserstein"] is None


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "no columns to compare"),
        ({"numerical": "x"}, "columns are a list"),
        ({"numerical": ["x"], "categorical": ["x"]}, "names 'x' twice"),
        ({"numerical": ["x"], "prediction": "y"}, "which is not compared"),
        ({"numerical": ["x"], "window": "0.5 seconds"}, "window="),
        ({"numerical": ["x"], "window": "2 days"}, "multiple of window="),
        ({"numerical": ["x"], "bins": 1}, "bins= must be at least 2"),
        (
            {"numerical": ["amount"], "alarms": alarms(weights={"amont": 1})},
            "weights= names 'amont', which is not compared; did you mean 'amount'",
        ),
    ],
)
def test_invalid_monitors(options, problem):
    with pytest.raises(DefinitionError, match=problem):
        monitor(of="rows", time="at", reference=trailing("7 days"), **options)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"enter": 0.1, "leave": 0.2}, "leave="),
        ({"windows": (3, 2)}, "windows="),
        ({"significance": 0}, "significance="),
        ({"weights": {"x": -1}}, "weights="),
    ],
)
def test_invalid_alarms(options, problem):
    with pytest.raises(DefinitionError, match=problem):
        alarms(**options)
