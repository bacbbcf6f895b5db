"""A table whose partitioning changes, beside one that has the same rows without partitions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.core.definitions import Merge
from pipeline.core.staging import Manifest
from pipeline.kernel.engine import connect, schema_of
from pipeline.kernel.scan import Scan
from pipeline.kernel.types import stored
from pipeline.lake import CompactionOptions, MergeSpec, Version, compact, merge


def events(ids, dice):
    """Return a SELECT of one row per id: dates around the epoch, nulls, and texts that need escaping in paths."""
    countries = ["DE", "a/b c%=?", "Ünïcode", "it's", None, "x" * 80]
    rows = [
        (
            each,
            dice.randrange(100),
            "D" if dice.random() < 0.2 else "I",
            dice.choice(countries),
            dice.randrange(-900, 900),
            dice.choice([None, dice.randrange(-(10**9), 10**9)]),
        )
        for each in ids
    ]
    values = ", ".join(
        f"({i}::bigint, {s}::bigint, '{op}', {'null' if c is None else duckdb_text(c)}::varchar, "
        f"date '1970-01-01' + {d}, {'null' if t is None else t}::bigint)"
        for i, s, op, c, d, t in rows
    )
    return (
        "select id, seq, op, country, day, make_timestamptz(t * 1000000) as ts, make_timestamp(t * 999999) as local, "
        f"(id % 3)::smallint as small, id / 7.0 as x from (values {values}) as v(id, seq, op, country, day, t)"
    )


def duckdb_text(value):
    return "'" + value.replace("'", "''") + "'"


@dataclass
class Liquid:
    """A table whose partitioning changes, and the same events merged into a table without partitions."""

    table: object
    plain: object
    seen: Version | None = None
    seen_plain: Version | None = None
    runs: int = 0

    def write(self, select, how):
        self.runs += 1
        run = f"r{self.runs}"
        self.seen = self._write(self.table, select, how, run, self.seen)
        self.seen_plain = self._write(self.plain, select, how, run, self.seen_plain)

    def _write(self, table, select, how, run, seen):
        with connect(filesystem=table.storage.filesystem()) as con:
            schema = stored(schema_of(con, select))
            staged = table.stager(run).stage(con, select, 0)
        mode, removed, tombstones = how, frozenset(), ()
        if how == "merge":
            merging = Merge(("seq",), "op = 'D'")
            merged = merge(MergeSpec(table, ("id",), merging, run, staged, schema, seen))
            staged, removed, tombstones = merged.files, merged.removed, merged.tombstones
            mode = "merge" if seen is not None else "overwrite"
        known = () if seen is None or seen.manifest is None else seen.manifest.tombstones
        manifest = Manifest(table.name, run, "f", mode, tombstones=tombstones or known)
        return table.commit(manifest, staged, schema, seen, removed)

    def repartition(self, partition_by):
        self.table = replace(self.table, partition_by=partition_by)

    def compact(self, **how):
        compact(self.table, self.table.head(), CompactionOptions(**how))
        self.seen = self.table.version()

    def rows(self, where="true", files=None):
        scan = self.seen.scan() if files is None else Scan(self.seen.schema, files)
        return self.rows_of(scan, where)

    def plain_rows(self, where="true"):
        return self.rows_of(self.seen_plain.scan(), where)

    def rows_of(self, scan, where="true"):
        return rows_of(scan.query(), where, self.table.storage.filesystem())


def rows_of(query, where="true", filesystem=None):
    with connect(filesystem=filesystem) as con:
        return con.execute(f"select * from ({query}) where {where} order by all").fetchall()
