from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import directly_followed_by, event, followed_by, not_followed_by, pattern
from pipeline.core.errors import DefinitionError
from pipeline.core.schema import Schema
from pipeline.streaming.operators.batch_form import StreamedInput
from pipeline.streaming.operators.operator import END

SECOND = 1_000_000
TYPES = {
    "arrivals": pa.schema([("ts", pa.timestamp("us", "UTC")), ("k", pa.string()), ("x", pa.int64())]),
    "departures": pa.schema([("left_at", pa.timestamp("us", "UTC")), ("k", pa.string()), ("y", pa.int64())]),
}
INPUTS = {
    "arrivals": StreamedInput(Schema.of({"ts": "timestamptz", "k": "varchar", "x": "bigint"}), "ts"),
    "departures": StreamedInput(Schema.of({"left_at": "timestamptz", "k": "varchar", "y": "bigint"}), "left_at"),
}
TIMES = {"arrivals": "ts", "departures": "left_at"}
ROW = st.tuples(st.integers(0, 30), st.sampled_from(["a", None]), st.integers(0, 4))


def table(name, rows):
    schema = TYPES[name]
    times = pa.array([None if row[0] is None else row[0] * SECOND for row in rows], pa.int64()).cast(
        schema.field(0).type
    )
    return pa.table([times, [row[1] for row in rows], [row[2] for row in rows]], schema=schema)


@dataclass(frozen=True)
class Plain:
    """One step of the reference implementation: its table, its condition, and its contiguity."""

    table: str
    takes: object
    how: str = "relaxed"
    times: int = 1
    or_more: bool = False


def anything(*_):
    return True


@dataclass
class Walk:
    """The reference implementation: one match, row by row. `rows` are `(time, table, value)` of a key, in order."""

    rows: list[tuple[int, str, int]]
    steps: list[Plain]
    within: int
    taken: list[list[int]]
    """The numbers of the rows taken, by event."""

    @property
    def events(self):
        return [step for step in self.steps if step.how != "absent"]

    @property
    def step(self):
        return self.events[len(self.taken) - 1]

    @property
    def has_enough(self):
        return len(self.taken[-1]) >= self.step.times

    @property
    def is_full(self):
        return len(self.taken) == len(self.events) and self.has_enough

    def fits(self, step, number, taken):
        _, name, value = self.rows[number]
        values = [[self.rows[i][2] for i in group] for group in taken]
        return name == step.table and step.takes(value, values)

    def forbids(self, number):
        passed = 0
        for step in self.steps:
            passed += step.how != "absent"
            if step.how == "absent" and passed == len(self.taken) and self.fits(step, number, self.taken):
                return True
        return False

    def may_take(self, step, number, taken):
        return (step.how != "strict" or number == self.taken[-1][-1] + 1) and self.fits(step, number, taken)

    def look_at(self, number):
        after = self.events[len(self.taken)] if len(self.taken) < len(self.events) else None
        if self.has_enough and after is not None and self.may_take(after, number, [*self.taken, []]):
            self.taken.append([number])
        elif (not self.has_enough or self.step.or_more) and self.may_take(self.step, number, self.taken):
            self.taken[-1].append(number)

    def answer(self):
        """The rows of the match, or None."""
        start = self.taken[0][0]
        if not self.fits(self.steps[0], start, [[]]):
            return None
        for number in range(start + 1, len(self.rows)):
            if self.rows[number][0] > self.rows[start][0] + self.within or (self.is_full and not ends_open(self.steps)):
                break
            if self.has_enough and self.forbids(number):
                return None
            self.look_at(number)
        return self.taken if self.is_full else None


def ends_open(steps):
    return steps[-1].how == "absent" or steps[-1].or_more


def plain_matches(case, steps, within, *, overlapping=False):
    tables = list(dict.fromkeys(step.table for step in steps))
    all_matches = []
    for key in ("a", None):
        ordered = sorted((row[0], tables.index(name), row[2]) for name in tables for row in case[name] if row[1] == key)
        rows = [(at, tables[number], value) for at, number, value in ordered]
        walks = (Walk(rows, steps, within, [[start]]).answer() for start in range(len(rows)))
        matches = [match for match in walks if match]
        matches.sort(key=lambda match: match[0][0] if ends_open(steps) else (match[-1][-1], match[0][0]))
        end = -1
        for match in matches:
            if overlapping or match[0][0] > end:
                end = match[-1][-1]
                all_matches.append((key, *(tuple(rows[i][2] for i in group) for group in match)))
    return sorted(all_matches, key=repr)


def values(rows, names):
    def one(value):
        return tuple(value) if isinstance(value, list) else (value,)

    return sorted(((row["k"], *(one(row[name]) for name in names)) for row in rows), key=repr)


CASES = {
    "one after the other": (
        (event("a", "arrivals", "x > 1"), followed_by("b", "departures", "y > 1")),
        [Plain("arrivals", lambda v, _: v > 1), Plain("departures", lambda v, _: v > 1)],
        {"a": "a.x", "b": "b.y"},
    ),
    "a condition on an earlier event": (
        (
            event("a", "arrivals"),
            followed_by("b", "departures", "y > a.x"),
            followed_by("c", "arrivals", "c.x = b.y and x > 0"),
        ),
        [
            Plain("arrivals", anything),
            Plain("departures", lambda v, m: v > m[0][0]),
            Plain("arrivals", lambda v, m: v == m[1][0] and v > 0),
        ],
        {"a": "a.x", "b": "b.y", "c": "c.x"},
    ),
    "directly": (
        (
            event("a", "arrivals", "x > 0"),
            directly_followed_by("b", "arrivals", "x > a.x"),
            followed_by("c", "departures"),
        ),
        [
            Plain("arrivals", lambda v, _: v > 0),
            Plain("arrivals", lambda v, m: v > m[0][0], "strict"),
            Plain("departures", anything),
        ],
        {"a": "a.x", "b": "b.x", "c": "c.y"},
    ),
    "not in between": (
        (
            event("a", "arrivals", "x > 1"),
            not_followed_by("no", "arrivals", "x = 0 or no.x = a.x"),
            followed_by("b", "departures", "y > 0"),
        ),
        [
            Plain("arrivals", lambda v, _: v > 1),
            Plain("arrivals", lambda v, m: v in {0, m[0][0]}, "absent"),
            Plain("departures", lambda v, _: v > 0),
        ],
        {"a": "a.x", "b": "b.y"},
    ),
    "not before the end": (
        (event("a", "arrivals", "x > 1"), not_followed_by("no", "departures", "y >= a.x")),
        [Plain("arrivals", lambda v, _: v > 1), Plain("departures", lambda v, m: v >= m[0][0], "absent")],
        {"a": "a.x"},
    ),
    "three times, each more": (
        (
            event("a", "arrivals", "x > coalesce(previous.x, -1)", times=3),
            followed_by("b", "departures", "y < a[1].x + len(a)", times=2),
        ),
        [
            Plain("arrivals", lambda v, m: not m[0] or v > m[0][-1], times=3),
            Plain("departures", lambda v, m: v < m[0][0] + 3, times=2),
        ],
        {"a": "[r.x for r in a]", "b": "[r.y for r in b]"},
    ),
    "twice or more, until": (
        (
            event("a", "arrivals"),
            directly_followed_by("fall", "arrivals", "x < coalesce(previous.x, a.x)", or_more=True),
            followed_by("b", "arrivals", "x > fall[-1].x"),
        ),
        [
            Plain("arrivals", anything),
            Plain("arrivals", lambda v, m: v < (m[1][-1] if len(m) > 1 and m[1] else m[0][0]), "strict", or_more=True),
            Plain("arrivals", lambda v, m: v > m[1][-1]),
        ],
        {"a": "a.x", "fall": "[r.x for r in fall]", "b": "b.x"},
    ),
    "two or more to the end": (
        (event("a", "arrivals", "x > 1"), followed_by("b", "departures", "y > 1", times=2, or_more=True)),
        [Plain("arrivals", lambda v, _: v > 1), Plain("departures", lambda v, _: v > 1, times=2, or_more=True)],
        {"a": "a.x", "b": "[r.y for r in b]"},
    ),
}


def pattern_of(steps, select, *, within="9 seconds", **options):
    return pattern(*steps, by="k", within=within, event_time=TIMES, select=select, **options)


def test_matches_equal_those_of_a_reference_implementation(drive, chopped, proof):
    @cache
    def made_of(name, after):
        steps, _, select = CASES[name]
        definition = pattern_of(steps, select, after_match=after)
        return definition, definition.transform.operator(INPUTS, definition.place)

    pattern_cases = st.tuples(
        st.sampled_from(list(CASES)), st.sampled_from(["skip past last event", "skip to next event"])
    )

    @proof
    @given(chopped(dict.fromkeys(INPUTS, ROW)), pattern_cases)
    def holds(case, pattern_case):
        definition, streamed = made_of(*pattern_case)
        _, plain, select = CASES[pattern_case[0]]
        expected = plain_matches(case.rows, plain, 9, overlapping=pattern_case[1] == "skip to next event")
        driven = drive(streamed, case.blocks(table), case.shards)
        assert values(driven.rows, select) == expected
        assert (
            values(definition(**{n: table(n, case.rows[n]) for n in definition.inputs}).to_pylist(), select) == expected
        )
        assert not driven.late
        assert driven.state_rows == 0

    holds()


def driven_seconds(drive, steps, select, arrivals, departures, **options):
    definition = pattern_of(steps, select, **options)
    blocks = {"arrivals": table("arrivals", arrivals), "departures": table("departures", departures)}
    return [
        tuple(row.values())[1:]
        for row in drive(definition.transform.operator(INPUTS, definition.place), [(blocks, END)]).rows
    ]


FOLLOWED = (event("a", "arrivals"), followed_by("b", "departures"))
SECONDS = {"a": "second(a.ts)", "b": "second(b.left_at)"}


def test_overlapping_matches_are_emitted_once(drive):
    # arrivals    1   3       8
    # departures        5   7    9
    #             a-----b     a--b     the one from 3 completes together with the one from 1, which started first
    #                 a-b
    rows = [(1, "a", 0), (3, "a", 0), (8, "a", 0)], [(5, "a", 0), (7, "a", 0), (9, "a", 0)]
    assert driven_seconds(drive, FOLLOWED, SECONDS, *rows) == [(1, 5), (8, 9)]
    every = driven_seconds(drive, FOLLOWED, SECONDS, *rows, after_match="skip to next event")
    assert sorted(every) == [(1, 5), (3, 5), (8, 9)]


def test_within_is_inclusive_and_rows_with_equal_times_are_ordered(drive):
    # arrivals    1      11     20         within 9: 1 to 10 is a match, 11 to 21 is not
    # departures     10           21
    #            20 and 20: an arrival is before a departure, in the order of the steps
    rows = [(1, "a", 0), (11, "a", 0)], [(10, "a", 0), (21, "a", 0)]
    assert driven_seconds(drive, FOLLOWED, SECONDS, *rows) == [(1, 10)]
    assert driven_seconds(drive, FOLLOWED, SECONDS, [(20, "a", 0)], [(20, "a", 0)]) == [(20, 20)]


def test_a_match_without_a_following_event_is_emitted_when_within_expires(drive):
    # arrivals   1    3       departure 11 is within 9 of 3, but not of 1
    # watermark          10 | 11 |
    definition = pattern_of((event("a", "arrivals"), not_followed_by("b", "departures")), {"a": "second(a.ts)"})
    none = {"arrivals": table("arrivals", []), "departures": table("departures", [])}
    epochs = [
        (none | {"arrivals": table("arrivals", [(1, "a", 0), (3, "a", 0)])}, 10 * SECOND),
        (none | {"departures": table("departures", [(11, "a", 0)])}, 10 * SECOND + 1),
        (none, END),
    ]
    driven = drive(definition.transform.operator(INPUTS, definition.place), epochs)
    assert [[row["a"] for row in epoch.to_pylist()] for epoch in driven.epochs] == [[], [1], []]


def test_a_pattern_over_one_table(drive):
    steps = (
        event("bottom", "arrivals"),
        directly_followed_by("up", "arrivals", "x > previous.x or x > bottom.x", times=2),
    )
    rows = [(1, "a", 3), (2, "a", 1), (3, "a", 2), (4, "a", 5)]
    definition = pattern_of(steps, {"from_": "bottom.x", "to_": "up[-1].x"})
    assert definition.inputs == ("arrivals",)
    assert drive(
        definition.transform.operator(INPUTS, definition.place), [({"arrivals": table("arrivals", rows)}, END)]
    ).rows == [{"k": "a", "from_": 1, "to_": 5}]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pattern_of((followed_by("b", "departures"),), SECONDS), "a pattern must start with exactly one event"),
        (lambda: pattern_of((), SECONDS), "a pattern must start with exactly one event"),
        (
            lambda: pattern_of((*FOLLOWED, event("c", "arrivals")), SECONDS),
            "a pattern must start with exactly one event",
        ),
        (
            lambda: pattern_of((*FOLLOWED, followed_by("A", "arrivals")), SECONDS),
            "the name of a step must be a unique plain identifier",
        ),
        (
            lambda: pattern_of((event("previous", "arrivals"),), SECONDS),
            "the name of a step must be a unique plain identifier",
        ),
        (lambda: pattern_of((event("left", "arrivals"),), SECONDS), "the name of a step is a reserved word of SQL"),
        (lambda: pattern_of((event("a", "arrivals", times=0),), SECONDS), "times= of step 'a' must be positive"),
        (lambda: pattern_of((event("a", "arrivals", "x >"),), SECONDS), "step 'a' is not a SQL expression"),
        (
            lambda: pattern_of((event("a", "arrivals", "max(x) > 1"),), SECONDS),
            "'a' must not contain a subquery, window function or aggregate",
        ),
        (lambda: pattern_of(FOLLOWED, {"a": "a.x, 1"}), "column 'a' is not a single SQL expression"),
        (lambda: pattern_of(FOLLOWED, {"k": "a.k"}), "'k' is already in the output because it is a column of by="),
        (lambda: pattern_of(FOLLOWED, {}), "needs at least one column in by= and in select="),
        (lambda: pattern_of(FOLLOWED, SECONDS, after_match="skip"), "after_match= must be 'skip past last event'"),
        (
            lambda: pattern_of((event("a", "arrivals", or_more=True), not_followed_by("b", "departures")), SECONDS),
            "'b' cannot follow 'a', which has or_more",
        ),
        (
            lambda: pattern(*FOLLOWED, by="k", within="1 day", event_time={"arrivals": "ts"}, select=SECONDS),
            "event_time= has no column for 'departures'",
        ),
    ],
)
def test_invalid_patterns_are_rejected(make, message):
    with pytest.raises(DefinitionError, match=message):
        make()


def test_a_pattern_that_does_not_fit_its_tables_is_rejected():
    wrong = pattern_of((event("a", "arrivals", "z > 1"),), {"a": "a.x"})
    with pytest.raises(DefinitionError, match=r"SQL does not fit its tables: got .*z"):
        wrong.transform.operator(INPUTS, wrong.place)
    other = INPUTS | {"departures": StreamedInput(Schema.of({"left_at": "timestamptz", "k": "bigint"}), "left_at")}
    definition = pattern_of(FOLLOWED, SECONDS)
    with pytest.raises(DefinitionError, match="'k' has different types in 'arrivals' and 'departures'"):
        definition.transform.operator(other, definition.place)


def test_the_fingerprint_of_a_pattern_depends_on_its_behaviour():
    same = pattern_of((event("a", "arrivals"), followed_by("b", "departures")), SECONDS)
    assert pattern_of(FOLLOWED, SECONDS).fingerprint == same.fingerprint
    assert pattern_of(FOLLOWED, SECONDS, within="8 seconds").fingerprint != same.fingerprint
