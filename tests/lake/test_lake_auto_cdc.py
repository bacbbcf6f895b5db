"""AUTO CDC: changes in any order of arrival, with the outcomes that Spark's rules give them."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.definitions import Merge
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.merge_options import START_AT, merge_of
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest
from pipeline.kernel.change_events import EventColumns
from pipeline.kernel.engine import connect, schema_of
from pipeline.kernel.types import stored
from pipeline.lake import DeltaStager, MergeSpec, Version, event_merging, merge_events
from tests.rigs.proofs import examples, some

COLUMNS = {"k": "varchar", "x": "bigint", "y": "bigint", "s": "bigint", "op": "varchar"}
HERE = Place("test")


def options(**changed: Any) -> Merge:
    given_options = {
        "sequence_by": "s",
        "apply_as_deletes": "op = 'D'",
        "except_column_list": ["s", "op"],
        **changed,
    }
    merge = merge_of(("k",), given_options, HERE)  # type: ignore[arg-type]
    assert merge is not None
    return merge


@dataclass
class Applying:
    """A table to which batches of changes are applied, each in a commit."""

    table: Any
    how: Merge
    columns: dict[str, str] = field(default_factory=lambda: COLUMNS)
    seen: Version | None = None
    numbers: Any = field(default_factory=itertools.count)
    conflicts: int = 0

    def apply(self, *events: dict[str, Any]) -> Any:
        run = f"r{next(self.numbers)}"
        with connect() as con:
            rows = select_of(events, self.columns)
            schema = stored(schema_of(con, rows))
            staged = self.table.stager(run).stage(con, rows, 0) if events else ()
        work = MergeSpec(self.table, ("k",), self.how, run, tuple(staged), schema, self.seen)
        result = merge_events(work, DeltaStager(self.table.storage.at("aside"), run))
        merged = result.merged
        self.conflicts += merged.conflicts
        assert merged.rows_out + merged.superseded + merged.deletes + merged.conflicts == len(events)
        mode = "merge" if self.seen is not None else "overwrite"
        manifest = Manifest(self.table.name, run, "f", mode, tombstones=merged.tombstones)
        self.seen = self.table.commit(manifest, merged.files, result.schema, self.seen, merged.removed)
        return result

    def rows(self) -> list[tuple[Any, ...]]:
        assert self.seen is not None
        with connect() as con:
            return con.sql(f"select * from ({self.seen.scan().query()}) order by all").fetchall()


def select_of(events: Any, columns: dict[str, str]) -> str:
    def text(value: Any) -> str:
        return "null" if value is None else f"'{value}'" if isinstance(value, str) else str(value)

    rows = [
        ", ".join(f"{text(event.get(name))}::{kind} as {name}" for name, kind in columns.items()) for event in events
    ]
    nothing = ", ".join(f"null::{kind} as {name}" for name, kind in columns.items())
    return " union all ".join(f"select {row}" for row in rows) or f"select {nothing} where false"


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Restore the number of files that a property test changes."""
    monkeypatch.setattr(event_merging, "MAX_EVENT_FILES", event_merging.MAX_EVENT_FILES)


@pytest.fixture
def applying(lake):
    names = itertools.count()

    def make(how: Merge, columns: dict[str, str] | None = None) -> Applying:
        return Applying(lake.table("silver", f"t{next(names)}"), how, columns or COLUMNS)

    return make


def row(x: int | None, s: int, y: int | None = None, k: str = "k", op: str = "U") -> dict[str, Any]:
    return {"k": k, "x": x, "y": y, "s": s, "op": op}


def gone(s: int, k: str = "k") -> dict[str, Any]:
    return {"k": k, "s": s, "op": "D"}


A, B, C = 1, 2, 3
NEXT: dict[str, Any] = {}
"""Separates the batches of a case."""
CASES = {
    1: ([row(A, 1), row(B, 2)], [B], [(A, 1, 2), (B, 2, None)]),
    2: ([row(B, 2), NEXT, row(A, 1)], [B], [(A, 1, 2), (B, 2, None)]),
    3: ([row(A, 1), NEXT, gone(2)], [], [(A, 1, 2)]),
    4: ([gone(2), NEXT, row(A, 1)], [], [(A, 1, 2)]),
    5: ([gone(2), NEXT, row(A, 1), NEXT, row(C, 3)], [C], [(A, 1, 2), (C, 3, None)]),
    6: ([row(A, 1), gone(3), NEXT, row(B, 2)], [], [(A, 1, 2), (B, 2, 3)]),
    7: ([row(A, 1), row(A, 1)], [A], [(A, 1, None)]),
    8: ([row(A, 1), NEXT, row(A, 2)], [A], [(A, 1, None)]),
    9: ([row(A, 1), row(A, 5), NEXT, row(B, 3)], [A], [(A, 1, 3), (B, 3, 5), (A, 5, None)]),
    10: ([row(A, 1), row(B, 3), NEXT, row(A, 2)], [B], [(A, 1, 3), (B, 3, None)]),
    11: ([row(A, 1), gone(2), gone(2)], [], [(A, 1, 2)]),
    12: ([row(A, 1), gone(1)], [], []),
}
"""The events in order of arrival, the current values of SCD 1, and (value, start, end) of the versions of SCD 2."""


@pytest.mark.parametrize("number", CASES)
@pytest.mark.parametrize("scd_type", [1, 2])
def test_cases_of_order(applying, number: int, scd_type: int):
    events, current, versions = CASES[number]
    table = applying(options(stored_as_scd_type=scd_type, track_history_column_list=["x"] if scd_type == 2 else []))
    for is_next, batch in itertools.groupby(events, lambda event: event is NEXT):
        if not is_next:
            table.apply(*batch)
    expected = [("k", x, None) for x in current] if scd_type == 1 else [("k", x, None, s, e) for x, s, e in versions]
    assert sorted(table.rows(), key=str) == sorted(expected, key=str)
    assert table.conflicts == 0


def test_case_8_with_the_sequence_tracked(applying):
    table = applying(options(stored_as_scd_type=2, except_column_list=["op"]))
    table.apply(row(A, 1))
    table.apply(row(A, 2))
    assert [r[1:] for r in table.rows()] == [(A, None, 1, 1, 2), (A, None, 2, 2, None)]


def test_case_13_equal_sequences_with_different_rows_are_quarantined(applying):
    both = applying(options(stored_as_scd_type=2))
    result = both.apply(row(A, 1), row(B, 1))
    assert (both.conflicts, len(result.merged.quarantined)) == (1, 1)
    one_by_one = applying(options(stored_as_scd_type=2))
    one_by_one.apply(row(B, 1))
    one_by_one.apply(row(A, 1))
    assert one_by_one.conflicts == 1
    assert both.rows() == one_by_one.rows() == [("k", B, None, 1, None)]
    tied = applying(options(sequence_by=["s", "y"], except_column_list=["s", "op", "y"]))
    tied.apply(row(A, 1, y=2), row(B, 1, y=1))
    assert (tied.rows(), tied.conflicts) == ([("k", A)], 0)
    (aside,) = tied.apply(row(B, 1, y=2)).merged.quarantined
    with connect() as con:
        place = f"{tied.table.storage.at('aside').uri}/{aside.path}"
        ((rejected,),) = con.sql(f"select row from read_parquet('{place}')").fetchall()
    assert json.loads(rejected) == {"k": "k", "x": A, "s": 1, "y": 2}


IGNORING = {
    14: ([row(1, 1, 1), row(None, 2, 2)], (1, 2), [(1, 1, 1, 2), (1, 2, 2, None)]),
    15: (
        [row(1, 1), row(None, 3, 2), NEXT, row(7, 2)],
        (7, 2),
        [(1, None, 1, 2), (7, None, 2, 3), (7, 2, 3, None)],
    ),
    16: ([row(1, 1), gone(2), row(None, 3, 2)], (None, 2), [(1, None, 1, 2), (None, 2, 3, None)]),
}


@pytest.mark.parametrize("number", IGNORING)
def test_cases_with_ignored_nulls(applying, number: int):
    events, current, versions = IGNORING[number]
    for scd_type in (1, 2):
        table = applying(options(stored_as_scd_type=scd_type, ignore_null_updates=True))
        for is_next, batch in itertools.groupby(events, lambda event: event is NEXT):
            if not is_next:
                table.apply(*batch)
        rows = [r[1:] for r in table.rows()]
        assert sorted(rows, key=lambda r: r[2:]) == ([current] if scd_type == 1 else versions)


def test_only_some_nulls_are_ignored(applying):
    for chosen in ({"ignore_null_updates_column_list": ["x"]}, {"ignore_null_updates_except_column_list": ["y"]}):
        table = applying(options(**chosen))
        table.apply(row(1, 1, 1), row(None, 2, None))
        assert table.rows() == [("k", 1, None)]


def test_case_17_only_tracked_columns_begin_a_version(applying):
    for chosen in ({"track_history_column_list": ["x"]}, {"track_history_except_column_list": ["y"]}):
        table = applying(options(stored_as_scd_type=2, **chosen))
        table.apply(row(1, 1, 1), row(1, 2, 2), row(2, 3, 3))
        assert [r[1:] for r in table.rows()] == [(1, 2, 1, 3), (2, 3, 3, None)]


def test_case_18_snapshots(applying):
    how = {"from_snapshots": True, "apply_as_deletes": None}
    snapshots = ([row(A, 1), row(9, 1, k="m")], [row(A, 2)], [row(B, 3), row(9, 3, k="m")])
    for order in some(itertools.permutations(range(3)), 2):
        history, current = (applying(options(stored_as_scd_type=n, **how)) for n in (2, 1))
        for number in order:
            history.apply(*snapshots[number])
            current.apply(*snapshots[number])
        assert [(r[0], r[1], *r[3:]) for r in history.rows()] == [
            *(("k", A, 1, 3), ("k", B, 3, None), ("m", 9, 1, 2), ("m", 9, 3, None)),
        ]
        assert current.rows() == [("k", B, None), ("m", 9, None)]


def test_a_truncate_deletes_all_keys_with_a_lower_sequence(applying):
    how = options(apply_as_truncates="op = 'T'")
    events = [row(1, 1), row(2, 2, k="l"), {"k": None, "s": 3, "op": "T"}, row(4, 4, k="l"), row(9, 2, k="late")]
    for order in some(itertools.permutations(range(5)), 3):
        table = applying(how)
        for number in order:
            table.apply(events[number])
        assert table.rows() == [("l", 4, None)]


def test_values_that_were_not_sent_keep_what_is_there(applying):
    columns = {**COLUMNS, "missing": "varchar[]"}
    how = options(unavailable_columns="missing")
    events = [row(1, 1, 1), {**row(None, 2, 2), "missing": "[x]"}, row(None, 3, 3)]
    for order in some(itertools.permutations(range(3)), 2):
        table = applying(how, columns)
        for number in order[:-1]:
            table.apply(events[number])
        table.apply(events[order[-1]])
        assert table.rows() == [("k", None, 3)]
    table = applying(how, columns)
    table.apply(*events[:2])
    assert table.rows() == [("k", 1, 2)]


def fold(events: list[dict[str, Any]], *, ignores: bool) -> dict[str, list[tuple[Any, ...]]]:
    """Sort by sequence and apply one after the other: the versions of each key."""
    versions: dict[str, list[tuple[Any, ...]]] = {}
    state: dict[str, tuple[Any, ...] | None] = {}
    for event in sorted(events, key=lambda e: (e["s"], e["op"] == "D")):
        key, known = event["k"], versions.setdefault(event["k"], [])
        before = state.get(key)
        after = None if event["op"] == "D" else (event["x"], event["y"])
        if after is not None and ignores and before is not None:
            after = tuple(old if new is None else new for new, old in zip(after, before, strict=True))
        if known and known[-1][3] is None and (after is None or before != after):
            known[-1] = (*known[-1][:3], event["s"])
        if after is not None and before != after:
            known.append((*after, event["s"], None))
        state[key] = after
    return {key: [v for v in each if v[2] != v[3]] for key, each in versions.items()}


EVENT = st.builds(
    lambda k, x, y, is_delete: {"k": k, "x": x, "y": y, "op": "D" if is_delete else "U"},
    st.sampled_from("abc"),
    st.none() | st.integers(0, 2),
    st.none() | st.integers(0, 1),
    st.sampled_from([False, False, False, True]),
)


@pytest.mark.share(1)
@pytest.mark.parametrize("ignores", [False, True])
@pytest.mark.parametrize("files", [1, 8])
@settings(max_examples=examples(4, 500), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENT, min_size=1, max_size=14), data=st.data())
def test_case_20_any_order_and_division_gives_what_sorting_and_folding_gives(lake, files, ignores, events, data):
    event_merging.MAX_EVENT_FILES = files
    events = [{**event, "s": number} for number, event in enumerate(events)]
    draw = data.draw(st.randoms(use_true_random=False))
    doubled = events + draw.choices(events, k=len(events) // 2)
    draw.shuffle(doubled)
    expected = fold(events, ignores=ignores)
    for scd_type in (1, 2):
        how = options(stored_as_scd_type=scd_type, ignore_null_updates=ignores)
        table = Applying(lake.table("silver", f"t{next(NAMES)}"), how)
        at = 0
        while at < len(doubled):
            size = draw.randint(1, 6)
            for _ in range(draw.randint(1, 2)):  # some batches are applied twice
                table.apply(*doubled[at : at + size])
            at += size
        assert table.conflicts == 0
        if scd_type == 2:
            assert sorted(table.rows(), key=str) == sorted(
                [(k, *v) for k, each in expected.items() for v in each], key=str
            )
        else:
            current = [(k, *v[:2]) for k, each in expected.items() for v in each if v[3] is None]
            assert sorted(table.rows(), key=str) == sorted(current, key=str)
        with connect() as con:
            whole = EventColumns(how, ("k",), Schema.of({name: kind.upper() for name, kind in COLUMNS.items()})).of_all(
                f"({select_of(doubled, COLUMNS)})"
            )
            assert sorted(con.sql(whole).fetchall(), key=str) == sorted(table.rows(), key=str)


NAMES = itertools.count(1000)
WITH_STRUCT = {**COLUMNS, "p": 'struct("a b" bigint, inner_ struct(y bigint, l bigint[]))', "missing": "varchar[]"}


@pytest.mark.share(1)
@pytest.mark.parametrize("files", [1, 8])
@settings(max_examples=examples(4, 300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENT, min_size=1, max_size=14), data=st.data())
def test_the_fields_of_a_struct_inherit_as_columns_do(lake, files, events, data):
    event_merging.MAX_EVENT_FILES = files
    draw = data.draw(st.randoms(use_true_random=False))
    for number, event in enumerate(events):
        written = json.dumps({"a b": event["x"], "inner_": {"y": event["y"], "l": None}})
        is_missing = draw.random() < 0.2
        is_null = event["x"] is event["y"] is None and draw.random() < 0.5
        event |= {"s": number, "p": None if is_null else written, "missing": "[x,y,p]" if is_missing else None}
    draw.shuffle(events)
    how = options(ignore_null_updates=True, unavailable_columns="missing", stored_as_scd_type=draw.choice([1, 2]))
    table = Applying(lake.table("silver", f"t{next(NAMES)}"), how, WITH_STRUCT)
    at = 0
    while at < len(events):
        size = draw.randint(1, 5)
        table.apply(*events[at : at + size])
        at += size
    for _, x, y, p, *_ in table.rows():
        assert (x, y, None) == (
            (None,) * 3 if p is None else (p["a b"], p["inner_"]["y"] if p["inner_"] else None, None)
        )


def test_a_struct_that_was_never_written_is_null_and_an_empty_one_is_not(applying):
    table = applying(options(ignore_null_updates=True, unavailable_columns="missing"), WITH_STRUCT)
    table.apply(row(1, 1), {**row(1, 2, k="l"), "p": '{"a b": null, "inner_": {"y": null, "l": [1, 2]}}'})
    table.apply({**row(1, 3, k="l"), "p": '{"a b": 5, "inner_": {"y": null, "l": [3, null]}}'}, row(1, 4, k="l"))
    assert [r[:2] + r[3:] for r in table.rows()] == [
        ("k", 1, None),
        ("l", 1, {"a b": 5, "inner_": {"y": None, "l": [3, None]}}),
    ]


def test_files_of_changes_are_combined(applying):
    table = applying(options(stored_as_scd_type=2))
    for number in range(20):
        table.apply(row(number, number, k=f"k{number % 3}"))
    assert table.seen is not None
    assert table.seen.manifest is not None
    assert len(table.seen.manifest.tombstones) <= 9
    assert sum(file.rows for file in table.seen.manifest.tombstones) == 20
    assert len(table.rows()) == 20


def test_changes_that_were_replaced_are_forgotten(applying, monkeypatch):
    monkeypatch.setattr(event_merging, "MAX_EVENT_FILES", 1)
    table = applying(options(ignore_null_updates_column_list=["x"], apply_as_truncates="op = 'T'"))
    table.apply(row(0, 1, k="gone"), {"k": None, "s": 2, "op": "T"})
    for number in range(3, 15):
        table.apply(row(number if number < 10 else None, number))
    assert table.rows() == [("k", 9, None)]
    assert table.seen is not None
    assert table.seen.manifest is not None
    kept = sum(file.rows for file in table.seen.manifest.tombstones)
    assert kept <= 4  # the truncate, the last value of x, the last row, and what has just arrived
    table.apply(row(1, 2, k="late"), row(5, 25, k="late"), gone(40))
    assert table.rows() == [("late", 5, None)]


def test_a_column_that_comes_later(applying):
    table = applying(options(ignore_null_updates=True), {n: t for n, t in COLUMNS.items() if n != "y"})
    table.apply(row(1, 1))
    table.columns = COLUMNS
    table.apply(row(None, 2, 5))
    assert table.rows() == [("k", 1, 5)]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {"ignore_nulls_updates": True},
            "unknown option: got ignore_nulls_updates=; did you mean 'ignore_null_updates'[?]",
        ),
        ({"column_list": ["k"]}, "column_list= and except_column_list= contradict each other"),
        ({"stored_as_scd_type": 3}, "stored_as_scd_type= must be 1 or 2"),
        ({"track_history_column_list": ["x"]}, "track_history_column_list= requires stored_as_scd_type=2"),
        ({"except_column_list": ["k"]}, "except_column_list= must not contain the key"),
        ({"from_snapshots": True}, "from_snapshots= and apply_as_deletes= contradict each other"),
        ({"sequence_by": None}, "apply_as_deletes= requires sequence_by="),
        ({"sequence_by": "k"}, "sequence_by= must not be part of the key"),
    ],
)
def test_options_that_contradict_each_other(changed: dict[str, Any], problem: str):
    with pytest.raises(DefinitionError, match=problem):
        options(**changed)
    with pytest.raises(DefinitionError, match="requires a key"):
        merge_of((), {"sequence_by": ["s", "t"]}, HERE)


def test_rows_that_cannot_be_merged(applying):
    with pytest.raises(DefinitionError, match="has no column 'z', by which it is merged"):
        applying(options(except_column_list=["z"])).apply(row(1, 1))
    history = applying(options(stored_as_scd_type=2), {**COLUMNS, START_AT: "bigint"})
    with pytest.raises(DefinitionError, match=f"column '{START_AT}', which is a reserved name"):
        history.apply(row(1, 1))
    with pytest.raises(DefinitionError, match=r"the changes of table .* cannot be applied"):
        applying(options(apply_as_deletes="nowhere", stored_as_scd_type=2)).apply(row(1, 1))
