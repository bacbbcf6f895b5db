"""Merging keeps the last row per key for any distribution over merges, and rewrites only files that lose rows."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipeline.core.definitions import Merge
from pipeline.core.errors import ConflictError, DefinitionError
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest
from pipeline.kernel.engine import connect, schema_of
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import DataFile, Scan
from pipeline.kernel.sql_text import literal
from pipeline.kernel.types import stored
from pipeline.lake import MergeSpec, Version, merge, replace_keys
from pipeline.lake.merging import overlapping

HOW = Merge(("seq",), "op = 'D'")


@dataclass
class Merging:
    """A table that SELECTs are merged into, one after the other."""

    table: object
    key: tuple[str, ...] = ("id",)
    how: Merge = HOW
    seen: Version | None = None
    runs: itertools.count = field(default_factory=lambda: itertools.count(1))
    limits: Limits = field(default_factory=Limits)

    def merge(self, *selects):
        """Stage each SELECT as a split, merge them and commit; return the result."""
        run = f"r{next(self.runs)}"
        with connect() as con:
            schema = stored(schema_of(con, selects[0]))
            staged = [f for n, text in enumerate(selects) for f in self.table.stager(run).stage(con, text, n)]
        work = MergeSpec(self.table, self.key, self.how, run, tuple(staged), schema, self.seen, self.limits)
        result = merge(work)
        mode = "merge" if self.seen is not None else "overwrite"
        manifest = Manifest(self.table.name, run, "f", mode, tombstones=result.tombstones)
        self.seen = self.table.commit(manifest, result.files, schema, self.seen, result.removed)
        return result

    def rows(self, columns="id, seq, op, v", order_by="all"):
        with connect() as con:
            return con.sql(f"select {columns} from ({self.seen.scan().query()}) order by {order_by}").fetchall()


@pytest.fixture
def merging(lake):
    def make(partition_by=(), **fields):
        return Merging(lake.table("silver", "t", partition_by=partition_by), **fields)

    return make


def values(*events):
    rows = ", ".join(
        f"({i}::bigint, {s}::bigint, {literal(op)}, {'null' if v is None else literal(v)}::varchar)"
        for i, s, op, v in events
    )
    if not events:
        return "select 0::bigint as id, 0::bigint as seq, '' as op, '' as v where false"
    return f"select * from (values {rows}) as t(id, seq, op, v)"


def test_row_with_the_greatest_sequence_stays(merging):
    t = merging()
    result = t.merge(values((1, 1, "I", "a"), (2, 1, "I", "b"), (1, 3, "U", "c"), (1, 2, "U", "late")))
    assert (result.rows_out, result.superseded, result.deletes) == (2, 2, 0)
    assert t.rows() == [(1, 3, "U", "c"), (2, 1, "I", "b")]
    result = t.merge(values((1, 2, "U", "older"), (2, 2, "U", "newer"), (3, 1, "I", "d")))
    assert (result.rows_out, result.superseded, result.deletes) == (2, 1, 0)
    assert t.rows() == [(1, 3, "U", "c"), (2, 2, "U", "newer"), (3, 1, "I", "d")]


def test_late_older_row_does_not_restore_a_deleted_key(merging):
    t = merging()
    t.merge(values((1, 1, "I", "a"), (2, 1, "I", "b")))
    result = t.merge(values((1, 5, "D", None), (9, 1, "D", None)))
    assert (result.rows_out, result.superseded, result.deletes) == (0, 0, 2)
    assert t.rows() == [(2, 1, "I", "b")]
    result = t.merge(values((1, 4, "U", "late"), (1, 5, "D", None), (9, 1, "I", "at once")))
    assert (result.rows_out, result.superseded, result.deletes) == (0, 3, 0)
    assert t.rows() == [(2, 1, "I", "b")]
    result = t.merge(values((1, 6, "I", "again")))
    assert result.rows_out == 1
    assert t.rows() == [(1, 6, "I", "again"), (2, 1, "I", "b")]


def test_ties_of_key_and_sequence_are_resolved_in_any_order(lake):
    events = [(1, 1, "I", "a"), (1, 1, "I", "b"), (1, 1, "I", None), (2, 1, "I", "x"), (2, 1, "D", None)]
    results = set()
    for number, permutation in enumerate(random.Random(1).sample([*itertools.permutations(events)], 12)):  # noqa: S311 - not for security
        t = Merging(lake.table("silver", f"t{number}"))
        t.merge(values(*permutation[:2]))
        t.merge(values(*permutation[2:]))
        results.add(tuple(t.rows()))
    assert results == {((1, 1, "I", "b"),)}


def last_rows(events):
    """The model: per key the event with the greatest sequence; a delete wins over a row, then the greatest text wins."""
    kept = {}
    for event in events:
        kept[event[0]] = max(kept.get(event[0], event), event, key=lambda e: (e[1], e[2] == "D", e[2], e[3] or ""))
    return sorted(e for e in kept.values() if e[2] != "D")


@pytest.mark.share(1)
@pytest.mark.parametrize(("seed", "partition_by"), [(0, ()), (1, ()), (2, ()), (3, ("op",)), (4, ("id",))])
def test_any_distribution_over_merges_gives_the_last_row_per_key(merging, seed, partition_by):
    chance = random.Random(seed)  # noqa: S311 - not for security
    events = [
        (chance.randrange(12), chance.randrange(8), chance.choice("IUUD"), chance.choice("abc")) for _ in range(90)
    ]
    cuts = sorted(chance.sample(range(1, len(events)), 11))
    t = merging(partition_by)
    for start, end in itertools.pairwise([0, *cuts, len(events)]):
        middle = chance.randint(start, end)
        result = t.merge(values(*events[start:middle]), values(*events[middle:end]))
        assert result.rows_out + result.superseded + result.deletes == end - start
        assert t.rows() == last_rows(events[:end])
    assert len(t.seen.manifest.tombstones) <= 8


def test_only_files_that_lose_a_row_are_rewritten(merging):
    t = merging()
    t.merge(
        *(
            f"select i as id, 1::bigint as seq, 'I' as op, 'v' as v from range({n * 100}, {n * 100 + 100}) t(i)"
            for n in range(4)
        )
    )
    before = {file.uri for file in t.seen.files}
    result = t.merge(values((150, 2, "U", "x"), (500, 1, "I", "new"), (-1, 0, "I", "new")))
    after = {file.uri for file in t.seen.files}
    assert len(before - after) == 1
    assert result.removed == before - after
    assert len(after - before) == 1  # the new row is written together with the remaining rows
    assert t.seen.rows == 402


def test_new_keys_are_appended_without_rewrites(merging):
    t = merging()
    t.merge("select 2 * i as id, 1::bigint as seq, 'I' as op, 'v' as v from range(100) t(i)")
    result = t.merge("select 2 * i + 1 as id, 1::bigint as seq, 'I' as op, 'v' as v from range(50) t(i)")
    assert (result.removed, result.rows_out) == (frozenset(), 50)
    assert len(t.seen.files) == 2


def test_update_can_move_a_row_to_another_partition(merging):
    t = merging(("op",))
    t.merge(values((1, 1, "a b/ü", "x"), (2, 1, "a b/ü", "y"), (3, 1, "c", "z")))
    untouched = next(file.uri for file in t.seen.files if "op=c" in file.uri)
    t.merge(values((1, 2, "d", "x2")))
    assert t.rows() == [(1, 2, "d", "x2"), (2, 1, "a b/ü", "y"), (3, 1, "c", "z")]
    assert untouched in {file.uri for file in t.seen.files}
    table = DeltaTable(t.table.storage.uri)
    assert sorted(row["op"] for row in pa.table(table.to_pyarrow_table()).to_pylist()) == ["a b/ü", "c", "d"]


@pytest.mark.parametrize(
    ("kind", "partitions"),
    [("date '2026-01-31' + i::int", ("k",)), ("date '2026-01-31' + i::int", ()), ("timestamptz '2026-01-01' + i * interval 1 day", ("k",)),
     ("i % 2 = 0", ("k",)), ("'key ' || i", ()), ("i::decimal(10, 2) / 4", ()), ("timestamp '2026-01-01' + i * interval 1 hour", ("k",)),
     ("repeat('ü', 70) || i", ()), ("case when i = 0 then 'nan'::double else i end", ())],
)  # fmt: skip
def test_keys_of_every_type_are_matched(merging, kind, partitions):
    t = merging(partitions, key=("n", "k"))
    rows = f"select i as n, {kind} as k, SEQ::bigint as seq, 'I' as op from range(4) t(i)"
    t.merge(rows.replace("SEQ", "1"))
    result = t.merge(rows.replace("SEQ", "2"))
    assert (result.rows_out, result.superseded) == (4, 0)
    assert t.rows("n, seq", "n") == [(0, 2), (1, 2), (2, 2), (3, 2)]


def test_files_without_bounds_are_always_read():
    bounds = pa.table({"uri": ["a", "b", "c"], "min_0": [None, 1, 5], "max_0": [None, 3, 9]})

    def ranges(*pairs):
        return pa.table({"low_0": [p[0] for p in pairs], "high_0": [p[1] for p in pairs]})

    assert overlapping(bounds, ranges((4, 4))) == ["a"]
    assert overlapping(bounds, ranges((3, 3))) == ["a", "b"]
    assert overlapping(bounds, ranges((0, 0), (9, 12))) == ["a", "c"]
    assert overlapping(bounds, ranges((0, 10))) == ["a", "b", "c"]
    assert overlapping(bounds, ranges()) == []


def test_every_key_column_excludes_files():
    bounds = pa.table({"uri": ["a", "b"], "min_0": [1, 1], "max_0": [9, 9], "min_1": ["a", "p"], "max_1": ["f", "z"]})
    ranges = pa.table({"low_0": [2], "high_0": [2], "low_1": ["q"], "high_1": ["q"]})
    assert overlapping(bounds, ranges) == ["b"]


def test_bounds_truncated_to_milliseconds_still_match():
    def at(us):
        return pa.array([us], pa.timestamp("us"))

    bounds = pa.table({"uri": ["a"], "min_0": at(1_000), "max_0": at(2_000)})
    assert overlapping(bounds, pa.table({"low_0": at(2_999), "high_0": at(2_999)})) == ["a"]
    assert overlapping(bounds, pa.table({"low_0": at(3_001), "high_0": at(3_001)})) == []


def test_rewritten_staged_files_are_removed(merging):
    t = merging()
    t.merge(values((1, 1, "I", "a"), (1, 2, "I", "b")))
    t.merge(values((1, 3, "I", "c")))
    there = {str(path) for path in Path(t.table.storage.uri).glob("*.parquet")}
    assert {file.uri for file in t.seen.files} <= there
    assert len(there) == 2  # the files of this version and the last one


def test_merge_into_an_old_version_is_a_conflict(merging):
    t = merging()
    t.merge(values((1, 1, "I", "a")))
    other = replace(t, runs=itertools.count(10))
    t.merge(values((1, 2, "I", "b")))
    with pytest.raises(ConflictError, match="another process committed 't'"):
        other.merge(values((1, 3, "I", "c")))
    assert t.rows() == [(1, 2, "I", "b")]


def test_missing_file_cannot_be_replaced(merging):
    t = merging()
    t.merge(values((1, 1, "I", "a")))
    with pytest.raises(
        ConflictError, match=r"does not have a file that should be replaced: got .*gone.parquet; another"
    ):
        t.table.commit(
            Manifest("t", "r9", "f", "merge"),
            (),
            t.seen.schema,
            t.seen,
            frozenset({f"{t.table.storage.uri}/gone.parquet"}),
        )


@pytest.mark.parametrize(
    ("fields", "select", "message"),
    [
        ({}, "select 1 as id, 'I' as op", "no column 'seq', by which it is merged: got id, op"),
        ({}, "select 1 as id, 1 as seq", "the deletes of table .* cannot be determined: got .*op"),
        ({}, "select 1 as id, 1 as seq, 'I' as op, 1 as File_Index", "column 'file_index', which is a reserved name"),
    ],
)
def test_rows_that_cannot_be_merged_are_rejected(merging, fields, select, message):
    with pytest.raises(DefinitionError, match=message):
        merging(**fields).merge(select)


@pytest.mark.proof
def test_merge_larger_than_memory_spills(merging):
    t = merging(limits=Limits(memory_bytes=120 << 20, threads=2))
    rows = "select (i * 7919) % 1500000 as id, {}::bigint as seq, 'I' as op, md5(i::varchar) as v from range({}) t(i)"
    t.merge(rows.format(1, 1_500_000))
    result = t.merge(rows.format(2, 700_000))
    assert (result.rows_out, t.seen.rows) == (700_000, 1_500_000)
    assert t.rows("distinct seq, count(*) over (partition by seq)", "seq") == [(1, 800_000), (2, 700_000)]


def test_removed_file_has_the_same_partition_in_the_log(merging):
    t = merging(("d", "tz", "ts", "b", "text", "none"))
    rows = (
        "select 1::bigint as id, {}::bigint as seq, 'I' as op, date '2026-01-31' as d, true as b, 'a b/ü%' as text, "
        "timestamptz '2026-01-31 10:00:00.5+00' as tz, timestamp '2026-01-31 10:00:00.25' as ts, null::varchar as none"
    )
    t.merge(rows.format(1))
    t.merge(rows.format(2))
    texts = [path.read_text() for path in sorted(Path(t.table.storage.uri).glob("_delta_log/*.json"))]
    entries = [json.loads(line) for text in texts for line in text.splitlines()]
    added, *_ = [entry["add"] for entry in entries if "add" in entry]
    [removed] = [entry["remove"] for entry in entries if "remove" in entry]
    assert (removed["path"], removed["partitionValues"]) == (added["path"], added["partitionValues"])
    assert removed["dataChange"]


def test_change_feed_of_a_merge_is_consistent(merging):
    t = merging()
    t.merge(values((1, 1, "I", "a"), (2, 1, "I", "b"), (3, 1, "I", "c")))
    t.merge(values((1, 2, "U", "x"), (3, 2, "D", None)))
    feed = pa.table(DeltaTable(t.table.storage.uri).load_cdf(1, 1)).to_pylist()
    count = Counter()
    for row in feed:
        count[row["id"], row["v"]] += {"insert": 1, "delete": -1}[row["_change_type"]]
    assert {key: n for key, n in count.items() if n} == {(1, "a"): -1, (1, "x"): 1, (3, "c"): -1}


def test_files_added_and_removed_since_a_version(merging):
    t = merging()
    t.merge(values((1, 1, "I", "a")))
    first = t.seen
    t.merge(values((1, 2, "U", "x")))
    change = t.table.change_since(first.number, first.manifest_id, t.seen)
    assert (change.removed, change.added) == (first.files, t.seen.files)
    assert t.table.added_since(first.number, first.manifest_id, t.seen) is None
    assert t.table.change_since(first.number, 7, t.seen) is None
    Path(first.files[0].uri).unlink()
    assert t.table.change_since(first.number, first.manifest_id, t.seen) is None


def test_only_rows_of_the_given_keys_are_replaced(merging):
    t = merging()
    t.merge(values((1, 1, "I", "a"), (2, 1, "I", "b"), (3, 1, "I", "c")))
    with connect() as con:
        text = values((2, 5, "U", "new"), (2, 6, "U", "and another"))
        staged, schema = t.table.stager("r2").stage(con, text, 0), stored(schema_of(con, text))
        keys = t.table.stager("keys").stage(con, "select 2::bigint as k union all select 3", 0)
    scan = Scan(Schema.of({"k": "BIGINT"}), (DataFile(f"{t.table.storage.uri}/{keys[0].path}", 2, 1),))
    result = replace_keys(MergeSpec(t.table, ("id",), None, "r2", staged, schema, t.seen), scan, ("k",))
    t.seen = t.table.commit(Manifest("t", "r2", "f", "merge"), result.files, schema, t.seen, result.removed)
    assert t.rows() == [(1, 1, "I", "a"), (2, 5, "U", "new"), (2, 6, "U", "and another")]
