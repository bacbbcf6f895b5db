"""Partitioning: hidden transforms, and changes of `partition_by` that rewrite nothing; readers see the same rows after each."""

from __future__ import annotations

import random
import uuid
from collections import Counter

import duckdb
import pytest
from deltalake import DeltaTable

from pipeline.core.errors import ConflictError, DefinitionError, Place
from pipeline.core.partition_fields import PartitionField, partitioning
from pipeline.kernel.engine import connect
from pipeline.kernel.partition_transforms import buckets_in, transformed
from pipeline.kernel.planner.pruning import file_conditions
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql import parse
from pipeline.lake import Lake, files_for, former_files
from pipeline.lake.history import history
from tests.rigs.liquid_table import Liquid, events
from tests.rigs.proofs import examples

PARTITIONINGS = (
    (),
    ("country",),
    ("day(ts)",),
    ("country", "day"),
    ("bucket(4, id)",),
    ("month(ts)", "country"),
    ("year(day)", "truncate(10, id)"),
    ("truncate(1, country)", "bucket(3, country)"),
    ("hour(local)",),
    ("bucket(5, day)", "small"),
)


@pytest.fixture
def liquid(lake):
    def make(partition_by=()):
        return Liquid(lake.table("silver", "t", partition_by=partition_by), lake.table("silver", "plain"))

    return make


@pytest.fixture
def liquid_on_s3(s3):
    def make(partition_by=()):
        lake = Lake(s3.storage(uuid.uuid4().hex))
        return Liquid(lake.table("silver", "t", partition_by=partition_by), lake.table("silver", "plain"))

    return make


def condition(dice):
    literal = {
        "id": lambda: str(dice.randrange(-60, 60)),
        "country": lambda: dice.choice(["'DE'", "'a/b c%=?'", "'it''s'", "'Ü'", "'" + "x" * 80 + "'", "'none'"]),
        "day": lambda: f"date '1970-01-01' + {dice.randrange(-900, 900)}",
        "ts": lambda: f"make_timestamptz({dice.randrange(-(10**15), 10**15)})",
        "small": lambda: str(dice.randrange(-3, 3)),
    }
    dates = lambda: f"'{1970 + dice.randrange(-2, 3)}-{dice.randrange(1, 13):02}-{dice.randrange(1, 29):02}'"  # noqa: E731
    literal |= {"day": dates, "ts": dates, "local": dates, "ts::date": dates}
    name = dice.choice([*literal])
    value = literal[name]
    kind = dice.choice(["=", "=", "<", ">=", "between", "in"])
    if kind == "between":
        return f"{name} between {value()} and {value()}"
    if kind == "in":
        return f"{name} in ({', '.join(value() for _ in range(3))})"
    return f"{name} {kind} {value()}"


def require_same(liquid, dice, times):
    assert liquid.rows() == liquid.plain_rows()
    for _ in range(times):
        where = " and ".join(condition(dice) for _ in range(dice.choice([1, 1, 2])))
        tree = parse(f"select * from t where {where}")
        files = files_for(liquid.table, liquid.seen, file_conditions(tree, "t", liquid.seen.schema))
        assert liquid.rows(where, files) == liquid.plain_rows(where), where


class Follower:
    """Applies the changes of files to the rows that it has."""

    def __init__(self):
        self.version, self.rows, self.changes = None, Counter(), 0

    def follow(self, liquid):
        known = None if self.version is None else self.version
        change = None if known is None else liquid.table.change_since(known.number, known.manifest_id, liquid.seen)
        if change is not None:
            self.changes += 1
            for files, sign in ((change.removed, -1), (change.added, 1)):
                for row in map(repr, liquid.rows_of(Scan(liquid.seen.schema, files))):
                    self.rows[row] += sign
            assert +self.rows == Counter(map(repr, liquid.rows()))
            assert min(self.rows.values(), default=0) >= 0
        self.version, self.rows = liquid.seen, Counter(map(repr, liquid.rows()))


def changed(liquid, dice):
    """Change a table in a random way."""
    step = dice.choice(["merge", "merge", "append", "repartition", "compact", "rewrite", "overwrite"])
    if step == "repartition":
        liquid.repartition(dice.choice(PARTITIONINGS))
    elif step == "compact" and liquid.seen is not None:
        liquid.compact(target_bytes=1 << 20)
    elif step == "rewrite" and liquid.seen is not None:
        liquid.compact(target_bytes=1 << 20, rewrite_bytes=dice.choice([1, 5000, 1 << 30]))
    elif step in {"merge", "append"} or dice.random() < 0.3:
        first = dice.randrange(-50, 50) if step == "merge" else 1000 * (liquid.runs + 1)
        mode = "overwrite" if liquid.seen is None and step == "append" else step.replace("compact", "merge")
        liquid.write(events(range(first, first + dice.randrange(1, 20)), dice), mode.replace("rewrite", "merge"))


def checked_history(liquid, dice, steps):
    follower = Follower()
    for _ in range(steps):
        changed(liquid, dice)
        if liquid.seen is not None:
            if dice.random() < 0.6:
                follower.follow(liquid)
            require_same(liquid, dice, 4)
    return follower.changes


@pytest.mark.share(2)
@pytest.mark.parametrize("seed", range(60))
def test_any_history_of_changes_gives_the_rows_of_a_plain_table(liquid, seed):
    dice = random.Random(seed)  # noqa: S311 - not for security
    checked_history(liquid(dice.choice(PARTITIONINGS)), dice, examples(12, 40))


@pytest.mark.share(1)
@pytest.mark.parametrize("seed", range(60))
def test_any_history_of_changes_on_an_object_store_gives_the_rows_of_a_plain_table(liquid_on_s3, seed):
    dice = random.Random(seed)  # noqa: S311 - not for security
    checked_history(liquid_on_s3(dice.choice(PARTITIONINGS)), dice, examples(5, 40))


@pytest.mark.parametrize(
    ("text", "value", "kind", "expected"),
    [
        ("year(c)", "timestamptz '2025-12-31 23:30:00-05'", "TIMESTAMPTZ", "2026-01-01"),
        ("month(c)", "date '1969-12-31'", "DATE", "1969-12-01"),
        ("day(c)", "timestamptz '2026-03-29 00:30:00+02'", "TIMESTAMPTZ", "2026-03-28"),
        ("day(c)", "timestamp '1969-12-31 23:59:59.999999'", "TIMESTAMP", "1969-12-31"),
        ("hour(c)", "timestamptz '2026-03-29 00:30:00+02'", "TIMESTAMPTZ", "2026-03-28 22:00:00"),
        ("day(c)", "'infinity'::timestamp", "TIMESTAMP", "infinity"),
        ("truncate(10, c)", "-1", "INTEGER", "-10"),
        ("truncate(10, c)", "-9223372036854775808", "BIGINT", "-9223372036854775810"),
        ("truncate(3, c)", "'Ünïcode'", "VARCHAR", "Ünï"),
        ("bucket(16, c)", "42", "SMALLINT", "2"),
        ("bucket(16, c)", "42", "BIGINT", "2"),
        ("bucket(16, c)", "-1", "BIGINT", "15"),
        ("bucket(16, c)", "-9223372036854775808", "BIGINT", "12"),
        ("bucket(16, c)", "9223372036854775807", "BIGINT", "13"),
        ("bucket(16, c)", "'42'", "VARCHAR", "8"),
        ("bucket(16, c)", "date '2026-01-01'", "DATE", "15"),
        ("day(c)", "null", "DATE", None),
        ("bucket(16, c)", "null", "BIGINT", None),
    ],
)
def test_transforms_never_change(text, value, kind, expected):
    with connect() as con:
        sql = transformed(PartitionField.of(text), value, kind)
        assert con.execute(f"select ({sql})::varchar").fetchone() == (expected,)


@pytest.mark.parametrize("ids", ["i", "-i", "i * 16", "i * 1000000", "i * 4294967296", "i * 86400000000", "i * i"])
def test_buckets_are_of_about_the_same_size(ids):
    with connect() as con:
        bucket = transformed(PartitionField.of("bucket(16, c)"), ids, "BIGINT")
        sizes = con.execute(f"select count(*) from range(50000) r(i) group by {bucket}").fetchall()
    assert (len(sizes), all(50_000 / 16 * 0.8 < size < 50_000 / 16 * 1.2 for (size,) in sizes)) == (16, True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ()),
        ("day(ts)", ("day(ts)",)),
        (["Bucket( 16,id )", "country"], ("bucket(16, id)", "country")),
        (["hour(ts)", "amount (EUR)"], ("hour(ts)", "amount (EUR)")),
        ('truncate(4, "two words")', ("truncate(4, two words)",)),
    ],
)
def test_partition_fields_are_written_as_text(value, expected):
    assert partitioning(value, Place("p.py", 1)) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("days(ts)", r"unknown transform 'days'; did you mean 'day'\?"),
        ("bucket(id)", r"bucket in partition_by= needs a number: got bucket\(id\); write bucket\(16, id\)"),
        ("bucket(20000, id)", "with a number from 1 to 10,000"),
        ("truncate(0, id)", "with a number of at least 1"),
        ("day(2, ts)", r"day in partition_by= has no number: got day\(2, ts\); write day\(ts\)"),
        (["day(ts)", "day( ts )"], r"partition_by= names 'day\(ts\)' twice; remove one"),
    ],
)
def test_invalid_partition_fields_are_refused(value, message):
    with pytest.raises(DefinitionError, match=message):
        partitioning(value, Place("p.py", 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("day(id)", r"cannot be partitioned by day\(id\): got column 'id' of BIGINT; day takes a column of DATE"),
        ("bucket(4, x)", r"bucket takes a column of TINYINT, SMALLINT, INTEGER, BIGINT, VARCHAR, DATE"),
        ("day(missing)", r"no column 'missing' to partition by: got id, .*; correct day\(missing\) in partition_by="),
    ],
)
def test_columns_that_cannot_be_transformed_are_refused(liquid, text, message):
    with pytest.raises(DefinitionError, match=message):
        liquid((text,)).write(events(range(3), random.Random(1)), "overwrite")  # noqa: S311 - not for security


def test_a_hidden_partition_is_not_a_column_and_prunes(liquid):
    t = liquid(("day(ts)", "bucket(4, id)"))
    t.write(
        "select (i * 7919) % 1000 as id, timestamptz '2026-01-01 00:00:00+00' + to_minutes((36 * i)::bigint) as ts, i as ts_day "
        "from range(640) r(i)",
        "overwrite",
    )
    columns = DeltaTable(t.table.storage.uri).metadata().partition_columns
    assert (t.seen.schema.names, columns) == (("id", "ts", "ts_day"), [])

    def opened(where):
        conditions = file_conditions(parse(f"select * from t where {where}"), "t", t.seen.schema)
        files = files_for(t.table, t.seen, conditions)
        assert t.rows(where, files) == t.plain_rows(where)
        return len(files)

    buckets = Counter(buckets_in(file.uri.removeprefix(f"{t.table.storage.uri}/"), "id")[4] for file in t.seen.files)
    assert (len(t.seen.files), buckets) == (64, {0: 16, 1: 16, 2: 16, 3: 16})
    assert opened("ts >= '2026-01-16'") == 4
    assert opened("ts::date = '2026-01-03' and ts_day > 0") == 4
    assert opened("id = 481") <= 16
    assert opened("ts between '2026-01-01' and '2026-01-01 23:00:00' and 481 = id") == 1
    assert opened("id in (481, 481)") <= 16
    assert opened("id < 481") > 60


@pytest.mark.parametrize("place", ["liquid", "liquid_on_s3"])
def test_a_changed_partitioning_rewrites_no_file(request, place):
    t = request.getfixturevalue(place)(("country",))
    dice = random.Random(5)  # noqa: S311 - not for security
    t.write(events(range(40), dice), "overwrite")
    before = {file.uri for file in t.seen.files}
    t.repartition(("day(ts)",))
    t.write(events(range(100, 110), dice), "append")
    modes = [(each.mode, each.removed_files) for each in history(t.table.storage)]
    assert modes == [("append", 0), ("partitioning", 0), ("overwrite", 0)]
    assert before < {file.uri for file in t.seen.files}
    assert {file.uri for file in former_files(t.table, t.seen)} == before
    assert t.seen.partition_by == ()
    where = "country = 'DE'"
    files = files_for(t.table, t.seen, file_conditions(parse(f"select * from t where {where}"), "t", t.seen.schema))
    assert len(before) > 2
    kept = before & {file.uri for file in files}  # others are skipped by their bounds; a file of nulls has none
    assert len(kept) == 2
    assert t.rows(where, files) == t.plain_rows(where)
    assert t.rows() == t.plain_rows()


@pytest.mark.parametrize("place", ["liquid", pytest.param("liquid_on_s3", marks=pytest.mark.proof)])
def test_maintenance_rewrites_former_files_up_to_a_limit(request, place):
    t = request.getfixturevalue(place)(("country",))
    dice = random.Random(6)  # noqa: S311 - not for security
    t.write(events(range(60), dice), "overwrite")
    t.repartition(("bucket(2, id)",))
    t.compact()
    assert len(former_files(t.table, t.seen)) == len(t.seen.files)
    size = max(file.size_bytes for file in t.seen.files)
    left = [len(former_files(t.table, t.seen))]
    while left[-1]:
        t.compact(rewrite_bytes=2 * size, target_bytes=1 << 20)
        left.append(len(former_files(t.table, t.seen)))
    assert len(left) > 2
    assert left == sorted(left, reverse=True)
    assert t.rows() == t.plain_rows()


def test_a_changed_clustering_is_taken_over_up_to_a_limit(liquid):
    t = liquid()
    t.write("select i as id, hash(i)::varchar as word from range(20000) r(i)", "overwrite")
    (first,) = t.seen.files
    t.compact(cluster_by=("word",), target_bytes=1000)
    assert t.seen.files == (first,)
    t.compact(cluster_by=("word",), target_bytes=1000, rewrite_bytes=1)
    (second,) = t.seen.files
    assert (second.uri != first.uri, t.rows()) == (True, t.plain_rows())
    words = [row[0] for row in duckdb.sql(f"select word from '{second.uri}'").fetchall()]
    assert words == sorted(words)
    t.compact(cluster_by=("word",), target_bytes=1000, rewrite_bytes=1)
    assert t.seen.files == (second,)


def test_the_log_of_another_writer_wins_over_a_change_of_partitioning(liquid):
    t = liquid(("country",))
    dice = random.Random(7)  # noqa: S311 - not for security
    t.write(events(range(10), dice), "overwrite")
    seen = t.seen
    t.write(events(range(20, 25), dice), "append")
    t.repartition(("day(ts)",))
    with pytest.raises(ConflictError, match="another process committed 't' concurrently"):
        t._write(t.table, events(range(30, 33), dice), "append", "late", seen)  # noqa: SLF001 - the test's own
    assert t.table.version().partition_by == ("country",)
