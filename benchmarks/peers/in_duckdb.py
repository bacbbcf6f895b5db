"""The jobs in DuckDB: `in_duckdb.py JOB ARGUMENTS FOLDER`; writes its result to the folder."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb

from benchmarks import star_schema
from benchmarks.peers.dashboard import ask
from benchmarks.peers.feature_views import joined
from benchmarks.peers.timings import Clock

LINEITEM = (
    "{l_orderkey: 'bigint', l_partkey: 'bigint', l_suppkey: 'bigint', l_linenumber: 'integer', l_quantity: 'double', "
    "l_extendedprice: 'double', l_discount: 'double', l_tax: 'double', l_returnflag: 'varchar', "
    "l_linestatus: 'varchar', l_shipdate: 'date', l_commitdate: 'date', l_receiptdate: 'date', "
    "l_shipinstruct: 'varchar', l_shipmode: 'varchar', l_comment: 'varchar'}"
)


def etl(clock: Clock, lines: str, to: str) -> None:
    """CSV to zstd Parquet by month, and a summary."""
    duckdb.execute("set preserve_insertion_order = false")
    with clock.part("shipped"):
        duckdb.execute(
            f"""copy (
                select *, date_trunc('month', l_shipdate)::date as ship_month,
                    l_extendedprice * (1 - l_discount) as revenue
                from read_csv('{lines}/*.csv', header = true, columns = {LINEITEM}) where l_quantity > 5
            ) to '{to}/shipped' (format parquet, compression zstd, partition_by (ship_month))"""
        )
    with clock.part("by_month"):
        duckdb.execute(
            f"""copy (
                select ship_month, l_returnflag, count(*) as lines, sum(revenue) as revenue
                from read_parquet('{to}/shipped/*/*.parquet') group by all
            ) to '{to}/by_month' (format parquet, per_thread_output true)"""
        )


def tpch(clock: Clock, tables: str, queries: str, to: str) -> None:
    """TPC-H queries over Parquet; each result is written to Parquet."""
    for folder in Path(tables).iterdir():
        duckdb.execute(f"create view {folder.name} as from read_parquet('{folder}/*.parquet')")
    for text in Path(queries).read_text(encoding="utf-8").split(";"):
        name = text.strip()[3:6]
        Path(to, name).mkdir()
        with clock.part(name):
            duckdb.execute(f"copy ({text}) to '{to}/{name}/0.parquet' (compression zstd)")


def medallion(clock: Clock, lines: str, to: str) -> None:
    """Bronze unchanged; silver validated, with invalid rows separated; gold. A duplicate key fails the job."""
    duckdb.execute("set preserve_insertion_order = false")
    with clock.part("bronze"):
        duckdb.execute(
            f"""copy (from read_csv('{lines}/*.csv', header = true, columns = {LINEITEM}))
            to '{to}/bronze' (format parquet, compression zstd, per_thread_output true)"""
        )
    with clock.part("silver"):
        duckdb.execute(
            f"""create temp table judged as
            select l_orderkey, l_linenumber, l_partkey, l_suppkey, l_quantity, l_shipmode, l_shipdate,
                l_extendedprice * (1 - l_discount) as revenue,
                coalesce(l_quantity > 1, false) as is_more_than_one, coalesce(l_discount < 0.1, false) as is_modest
            from read_parquet('{to}/bronze/*.parquet')"""
        )
        kept = "select * exclude (is_more_than_one, is_modest) from judged where is_more_than_one"
        twice = "select 1 from judged where is_more_than_one group by l_orderkey, l_linenumber having count(*) > 1"
        if duckdb.execute(f"{twice} limit 1").fetchone():
            raise SystemExit("duplicate key")
        duckdb.execute(f"copy ({kept}) to '{to}/silver' (format parquet, compression zstd, per_thread_output true)")
        aside = "from judged where not is_more_than_one"
        duckdb.execute(f"copy ({aside}) to '{to}/aside' (format parquet, compression zstd, per_thread_output true)")
        warned = "select count(*) as warned from judged where not is_modest"
        duckdb.execute(f"copy ({warned}) to '{to}/warned' (format parquet, per_thread_output true)")
    with clock.part("gold"):
        duckdb.execute(
            f"""copy (
                select date_trunc('month', l_shipdate)::date as month, l_shipmode, count(*) as lines,
                    sum(revenue) as revenue
                from read_parquet('{to}/silver/*.parquet') group by all
            ) to '{to}/gold' (format parquet, compression zstd, per_thread_output true)"""
        )


def groupby(clock: Clock, rows: str, to: str) -> None:
    """Five aggregates by one key, Parquet to Parquet."""
    duckdb.execute("set preserve_insertion_order = false")
    with clock.part("totals"):
        duckdb.execute(
            f"""copy (
                select k, count(*) as n, sum(v) as total, avg(v) as mean, max(v) as most
                from read_parquet('{rows}/*.parquet') group by k
            ) to '{to}/totals' (format parquet, compression zstd, per_thread_output true)"""
        )


def join(clock: Clock, left: str, right: str, memory_bytes: str, to: str) -> None:
    """Join of two tables by key, Parquet to Parquet, within a memory budget."""
    duckdb.execute(f"set preserve_insertion_order = false; set memory_limit = '{memory_bytes}B'")
    with clock.part("joined"):
        duckdb.execute(
            f"""copy (
                select l.id, l.a + r.a as total, l.b * r.b as product
                from read_parquet('{left}/*.parquet') as l join read_parquet('{right}/*.parquet') as r on l.id = r.id
            ) to '{to}/joined' (format parquet, compression zstd, per_thread_output true)"""
        )


def features(clock: Clock, labels: str, *views: str) -> None:
    """Labelled rows with features as of their times, Parquet to Parquet."""
    *folders, to = views
    duckdb.execute("set preserve_insertion_order = false")
    with clock.part("examples"):
        duckdb.execute(
            f"""copy ({joined(Path(labels), [Path(folder) for folder in folders])})
            to '{to}/examples' (format parquet, compression zstd, per_thread_output true)"""
        )


def merge(clock: Clock, base: str, changes: str, to: str) -> None:
    """Upsert into a table of DuckDB's own file; the later change wins, and a delete removes the row."""
    shutil.copy(f"{base}/accounts.duckdb", to)
    with clock.part("merge"), duckdb.connect(f"{to}/accounts.duckdb") as con:
        has_deletes = "op" in con.sql(f"from read_parquet('{changes}/*.parquet')").columns
        op = "op" if has_deletes else "'U' as op"
        con.execute(
            f"""merge into accounts using (select id, step, balance, owner, {op} from read_parquet('{changes}/*.parquet')) as changes
            on accounts.id = changes.id
            when matched and changes.op = 'D' then delete
            when matched and changes.step >= accounts.step
                then update set step = changes.step, balance = changes.balance, owner = changes.owner
            when not matched and changes.op <> 'D'
                then insert (id, step, balance, owner) values (changes.id, changes.step, changes.balance, changes.owner)"""
        )
        con.execute("checkpoint")


def read(clock: Clock, form: str, rows: str, to: str) -> None:
    """Files to zstd Parquet."""
    duckdb.execute("set preserve_insertion_order = false")
    readers = {
        "csv": f"read_csv('{rows}/*.csv', header = true, columns = {LINEITEM})",
        "ndjson": f"read_json('{rows}/*.json', columns = {LINEITEM})",
        "parquet": f"read_parquet('{rows}/*.parquet')",
    }
    with clock.part("read"):
        duckdb.execute(
            f"copy (from {readers[form]}) to '{to}/rows' (format parquet, compression zstd, per_thread_output true)"
        )


def refresh(clock: Clock, facts: str, news: str, statement: str, to: str) -> None:
    """Aggregate all facts into a table of a file."""
    duckdb.execute(f"attach '{to}/sales.duckdb' as mart")
    duckdb.execute(f"create view facts as from read_parquet(['{facts}/*.parquet', '{news}/*.parquet'])")
    with clock.part("sales"):
        duckdb.execute(f"create table mart.sales as {statement}")
    duckdb.execute("detach mart")


def queries(clock: Clock, sales: str, of: str, to: str) -> None:
    """Ask the queries of a dashboard over a star schema in its own file, with one connection."""
    with duckdb.connect(f"{to}/sales.duckdb") as con:
        for statement in star_schema.IN_DUCKDB:
            con.execute(statement.format(sales))
        con.execute("checkpoint")
    with duckdb.connect(f"{to}/sales.duckdb", read_only=True) as con:
        ask(clock, of, lambda text: con.sql(text).to_arrow_table(), to)


JOBS: dict[str, Callable[..., None]] = {
    "etl": etl,
    "medallion": medallion,
    "tpch": tpch,
    "groupby": groupby,
    "join": join,
    "features": features,
    "merge": merge,
    "refresh": refresh,
    "queries": queries,
    "read": read,
}

if __name__ == "__main__":
    clock = Clock()
    JOBS[sys.argv[1]](clock, *sys.argv[2:])
    clock.say()
