"""The point-in-time join equals a loop over what was known, case by case and on random histories."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import duckdb
import pyarrow as pa
import pytest

from ml import feature_service, feature_view, features, training_set
from pipeline.batch.planning import execution_plan
from pipeline.core.errors import DefinitionError
from pipeline.core.execution import ExecutionLimits
from pipeline.core.refusal import Refusal
from pipeline.core.schema import Column, Schema
from pipeline.kernel.planner.exchange import exchange
from tests.batch.conftest import SMALL_NODES
from tests.batch.conftest import cluster as cluster  # noqa: PLC0414 - re-exported fixtures
from tests.batch.conftest import scan as scan  # noqa: PLC0414
from tests.batch.conftest import step as step  # noqa: PLC0414
from tests.rigs import proofs

START = datetime(2024, 1, 1, tzinfo=UTC)
LABELS = "select id, e, t, late from labels"
VIEW = "select e, t, known, x from rows"


def at(minutes):
    return None if minutes is None else START + timedelta(minutes=minutes)


def view(text=VIEW, **options):
    options = {"entity": "e", "event_time": "t", "known_at": "known" if "known" in text else "", **options}
    return feature_view(text, **options).named("shown")


def examples(shown, *selected, text=LABELS, others=(), **options):
    """Return the resolved training set of a view."""
    chosen = selected or (features("shown", **options),)
    table = training_set(text, key="id", event_time="t", features=chosen).named("examples")
    inputs = {each.name: each for each in (shown, *others)}
    return table.transform.over({**dict.fromkeys(table.inputs, shown), **inputs})


def labels(*rows, kind=None):
    kind = kind or pa.timestamp("us", "UTC")
    times = [at(t) if isinstance(t, int | float | None) else t for _, t in rows]
    return pa.table(
        {
            "id": pa.array(range(len(rows)), pa.int64()),
            "e": pa.array([e for e, _ in rows], pa.string()),
            "t": pa.array(times, kind),
            "late": pa.array([True] * len(rows)),
        }
    )


def history(*rows, kind=None, names=("e", "t", "known", "x")):
    """Rows of entity, event time, time of arrival and value; times in minutes."""
    times = {"t": kind or pa.timestamp("us", "UTC"), "known": pa.timestamp("us", "UTC")}
    columns = {}
    for number, name in enumerate(names):
        values = [row[number] for row in rows]
        if name in times:
            values = [at(v) if isinstance(v, int | float | None) else v for v in values]
        columns[name] = pa.array(values, times.get(name, pa.string() if name == "e" else None))
    return pa.table(columns)


def joined(transform, found, rows, name="x"):
    return transform(labels=found, shown=rows).sort_by("id")[name].to_pylist()


def answer(rows, found, **options):
    """Return the values of `x` for labelled rows, as the join computes them."""
    strict = options.pop("strict", False)
    text = options.pop("text", VIEW)
    return joined(examples(view(text, **options), strict=strict), found, rows)


NO_ARRIVAL = "select e, t, x from rows"


def test_the_time_of_the_row_itself_counts_unless_strict():
    rows = history(("a", 5, 1), names=("e", "t", "x"))
    found = labels(("a", 4), ("a", 5), ("a", 6))
    assert answer(rows, found, text=NO_ARRIVAL) == [None, 1, 1]
    assert answer(rows, found, text=NO_ARRIVAL, strict=True) == [None, None, 1]


def test_of_rows_with_one_event_time_the_one_known_last_counts():
    rows = history(("a", 5, 7, 2), ("a", 5, 6, 1), ("a", 5, 9, 3))
    assert answer(rows, labels(("a", 5), ("a", 6), ("a", 7), ("a", 9))) == [None, 1, 2, 3]


def test_a_correction_is_not_seen_before_it_is_known():
    rows = history(("a", 1, 1, 10), ("a", 1, 100, 11))
    assert answer(rows, labels(("a", 50), ("a", 99), ("a", 100))) == [10, 10, 11]


def test_a_late_row_is_seen_after_its_arrival_and_replaces_nothing_newer():
    rows = history(("a", 10, 10, 1), ("a", 5, 20, 0), ("b", 5, 20, 7))
    assert answer(rows, labels(("a", 8), ("a", 15), ("a", 25), ("b", 15), ("b", 20))) == [None, 1, 1, None, 7]


def test_a_value_applies_until_it_is_exactly_as_old_as_the_ttl():
    rows = history(("a", 0, 1), names=("e", "t", "x"))
    found = labels(("a", 60), ("a", 61))
    assert answer(rows, found, text=NO_ARRIVAL, ttl="1 hour") == [1, None]
    assert answer(rows, found, text=NO_ARRIVAL, ttl=timedelta(minutes=60, microseconds=1)) == [1, None]


def test_an_older_value_does_not_take_the_place_of_a_stale_one_or_of_null():
    rows = history(("a", 0, 1), ("a", 30, None), names=("e", "t", "x"))
    assert answer(rows, labels(("a", 29), ("a", 30), ("a", 95)), text=NO_ARRIVAL, ttl="1 hour") == [1, None, None]


@pytest.mark.parametrize("known", [True, False])
def test_a_deleted_entity_has_no_values_until_it_returns(known):
    text = f"select e, t, {'known, ' * known}x, gone from rows"
    names = ("e", "t", *(["known"] * known), "x", "gone")
    rows = [("a", 0, 1, False), ("a", 10, 2, True), ("a", 20, 3, None)]
    rows = [(e, t, *([t] * known), x, gone) for e, t, x, gone in rows]
    shown = view(text, deleted_when="gone")
    found = labels(("a", 5), ("a", 10), ("a", 15), ("a", 20))
    assert joined(examples(shown), found, history(*rows, names=names)) == [1, None, None, 3]


def test_rows_without_entity_or_time_have_no_features_and_stay():
    rows = history((None, 0, 0, 9), ("a", None, 0, 9), ("a", 0, None, 9), ("a", 0, 0, 1))
    assert answer(rows, labels((None, 5), ("a", None), ("b", 5), ("a", 5))) == [None, None, None, 1]


@pytest.mark.parametrize(
    "kind", [pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ms"), pa.timestamp("us", "UTC")]
)
def test_times_are_compared_as_instants_in_utc(kind):
    def cast(table):
        return table.set_column(1, "t", table["t"].cast(pa.timestamp("us")).cast(kind))

    rows = cast(history(("a", 5, 1), names=("e", "t", "x")))
    berlin = labels(("a", 4), ("a", 5)).set_column(
        2, "t", labels(("a", 4), ("a", 5))["t"].cast(pa.timestamp("us", "Europe/Berlin"))
    )
    assert answer(rows, berlin, text=NO_ARRIVAL) == [None, 1]


def test_a_date_applies_from_its_end():
    rows = history(("a", date(2024, 1, 1), 1), kind=pa.date32(), names=("e", "t", "x"))
    assert answer(rows, labels(("a", 1439), ("a", 1440)), text=NO_ARRIVAL) == [None, 1]
    assert answer(
        rows, labels(("a", date(2024, 1, 1)), ("a", date(2024, 1, 2)), kind=pa.date32()), text=NO_ARRIVAL
    ) == [None, 1]


def test_the_time_of_a_row_is_that_of_the_view():
    rows = history(("a", date(2024, 1, 1), 1), kind=pa.date32(), names=("e", "t", "x"))
    assert joined(examples(view(NO_ARRIVAL), at="seen"), labels(("a", 1440)), rows, "seen") == [date(2024, 1, 1)]


def test_a_delay_shifts_when_a_row_is_available():
    rows = history(("a", 0, 1), names=("e", "t", "x"))
    assert answer(rows, labels(("a", 179), ("a", 180)), text=NO_ARRIVAL, delay="3 hours") == [None, 1]
    corrected = history(("a", 0, 200, 1))
    assert answer(corrected, labels(("a", 180), ("a", 200)), delay="3 hours") == [None, 1]


def test_the_age_is_counted_from_the_event_time_and_not_from_the_arrival():
    assert answer(history(("a", 0, 50, 1)), labels(("a", 60), ("a", 61)), ttl="1 hour") == [1, None]


def test_a_view_is_used_twice_under_other_names():
    places = "select id, e, 'b' as to_e, t from labels"
    transform = examples(
        view(NO_ARRIVAL),
        features("shown", prefix="from_"),
        features("shown", "x as there", on={"e": "to_e"}, at="there_at"),
        text=places,
    )
    rows = history(("a", 0, 1), ("b", 3, 2), names=("e", "t", "x"))
    found = transform(labels=labels(("a", 5), ("b", 1)), shown=rows).sort_by("id")
    assert found.select(["from_x", "there", "there_at"]).to_pylist() == [
        {"from_x": 1, "there": 2, "there_at": at(3)},
        {"from_x": None, "there": None, "there_at": None},
    ]


def test_an_entity_of_several_columns():
    shown = feature_view("select e, f, t, x from rows", entity=["e", "f"], event_time="t").named("shown")
    transform = examples(shown, text="select id, e, 1 as f, t from labels")
    rows = history(("a", 1, 0, 5), ("a", 2, 1, 6), names=("e", "f", "t", "x"))
    assert joined(transform, labels(("a", 9)), rows) == [5]


def brute_force(rows, found, ttl, strict, delay):
    """Return the value of each labelled row by looking at all rows that were available at its time."""
    out = []
    for e, t in found:
        known = []
        if e is not None and t is not None:
            for number, (of, time, arrival, x, gone) in enumerate(rows):
                if of != e or time is None or arrival is None:
                    continue
                available = max(time + delay, arrival)
                if available < t or (available == t and not strict):
                    known.append((time, arrival, number, x, gone))
        newest = max(known, key=lambda row: row[:2], default=None)
        is_shown = newest is not None and not newest[4] and (ttl is None or t <= newest[0] + ttl)
        out.append(newest[3] if is_shown and newest is not None else None)
    return out


def random_case(rng):
    entities = ["a", "b", "c", None]
    seen, rows = set(), []
    for _ in range(rng.randint(0, 40)):
        time = rng.choice([None, *range(12)]) if rng.random() < 0.1 else rng.randint(0, 12)
        arrival = None if rng.random() < 0.05 else (time or 0) + rng.choice([0, 0, 1, 3, 9])
        row = (rng.choice(entities), time, arrival)
        if row not in seen:  # the key of a view
            seen.add(row)
            rows.append((*row, rng.choice([None, *range(5)]), rng.random() < 0.15))
    found = [(rng.choice([*entities, "d"]), rng.choice([None, *range(24)])) for _ in range(30)]
    options = {"ttl": rng.choice([None, 3, 8]), "strict": rng.random() < 0.5, "delay": rng.choice([0, 0, 2])}
    return rows, found, options


@pytest.mark.parametrize("seed", range(proofs.examples(40, 2000)))
def test_random_histories_equal_a_loop(seed):
    rows, found, options = random_case(random.Random(seed))  # noqa: S311 - a reproducible seed
    shown = view(
        "select e, t, known, x, gone from rows",
        deleted_when="gone",
        ttl=None if options["ttl"] is None else timedelta(minutes=options["ttl"]),
        delay=timedelta(minutes=options["delay"]),
    )
    transform = examples(shown, strict=options["strict"])
    if not rows:
        rows = [("z", 0, 0, 1, False)]
    names = ("e", "t", "known", "x", "gone")
    assert joined(transform, labels(*found), history(*rows, names=names)) == brute_force(rows, found, **options)


@pytest.mark.parametrize("known", [True, False])
def test_large_views_are_joined_in_buckets_of_the_entity(known):
    shown = view(VIEW if known else NO_ARRIVAL, ttl="1 day", delay="1 hour")
    columns = {"e": "VARCHAR", "t": "TIMESTAMP WITH TIME ZONE", "known": "TIMESTAMP WITH TIME ZONE", "x": "BIGINT"}
    schemas = {
        "labels": Schema(tuple(Column(n, k) for n, k in {"id": "BIGINT", "late": "BOOLEAN", **columns}.items())),
        "shown": Schema(tuple(Column(n, k) for n, k in columns.items())),
    }
    found = exchange(examples(shown).tree, schemas, {"labels": 1 << 40, "shown": 1 << 40}, 1 << 20)
    assert not isinstance(found, Refusal), found
    assert found.keys == {"labels": ('"e"',), "shown": ('"e"',)}


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning")  # Ray sets what it deprecates itself
def test_buckets_on_ray_equal_the_local_result(step, scan):
    rng = random.Random(7)  # noqa: S311 - a reproducible seed
    rows = [(f"e{rng.randint(0, 50)}", n, n + rng.choice([0, 0, 90]), n) for n in range(4000)]
    found = [(f"e{rng.randint(0, 55)}", rng.randint(0, 4200)) for _ in range(4000)]
    table = replace(
        training_set(LABELS, key="id", event_time="t", features=[features("shown")]).named("examples"),
        transform=examples(view(ttl="3 hours", delay="1 minute")),
    )
    shown = history(*rows)
    scans = {"labels": scan(*halves(labels(*found))), "shown": scan(*halves(shown))}
    limits = ExecutionLimits("ray", nodes=lambda: SMALL_NODES)
    assert execution_plan(table, scans, limits=limits).strategy == "exchange"
    assert step(table, scans, "ray").rows == step(table, scans).rows


def halves(table):
    return table.slice(0, table.num_rows // 2), table.slice(table.num_rows // 2)


OTHER = feature_view("select f, t, x, y from rows", entity="f", event_time="t").named("other")


@pytest.mark.parametrize(
    ("selected", "message"),
    [
        (features("shown", "z"), r"feature view 'shown' has no feature 'z'; known: 'x'"),
        (features("shown", on={"f": "e"}), r"on= names 'f', which is not an entity column of 'shown'; known: 'e'"),
        (features("shown", on={"e": "g"}), r"no column 'g', the entity of 'shown'; select it, or pass on=\{'e': …\}"),
        (features("other"), r"no column 'f', the entity of 'other'; select it"),
        (
            features("shown", "x as late"),
            r"two columns 'late', of the labelled rows and of 'shown'; write 'name as other'",
        ),
        (features("shown", at="x"), r"two columns 'x', of 'shown' and of 'shown'"),
    ],
)
def test_features_that_do_not_fit_are_errors(selected, message):
    with pytest.raises(DefinitionError, match=message):
        examples(view(), selected, others=(OTHER,))


def test_definitions_that_cannot_be_are_errors():
    with pytest.raises(DefinitionError, match=r"takes names of columns: got 'x \+ 1'; write 'name' or 'name as other'"):
        features("shown", "x + 1")
    with pytest.raises(DefinitionError, match="a feature service has no features"):
        feature_service()
    with pytest.raises(DefinitionError, match="a feature view has no features"):
        view("select e, t from rows")
    with pytest.raises(DefinitionError, match="no column 'seen', its time"):
        view(known_at="seen")
    with pytest.raises(DefinitionError, match="deleted_when' is not a SQL condition"):
        view(deleted_when="x x x")
    with pytest.raises(DefinitionError, match="ttl= is not a duration"):
        view(ttl="soon")


def test_a_training_set_over_another_table_is_an_error():
    other = training_set("select e, t from rows", key="e", event_time="t").named("shown")
    with pytest.raises(DefinitionError, match="names 'shown', which is not a feature view: got a training set"):
        examples(other, features("shown"))


def test_the_statement_is_one_select_of_duckdb():
    assert duckdb.extract_statements(examples(view()).sql)
