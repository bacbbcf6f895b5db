"""Small data in the data folder of the benchmarks, without other engines: only Headwater is tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

ROOT = Path(__file__).parents[2]
SCALE = "0.001"

# the eight tables of TPC-H with synthetic rows, which contain the words that its queries search for
WORDS = """
create macro pick(words, i) as words[1 + (hash(i) % len(words))::int];
create macro money(i, most) as ((hash(i, 7) % (most * 100)) / 100)::decimal(15, 2);
create macro day_of(i) as date '1992-01-01' + (hash(i, 3) % 2400)::int;
"""
TABLES = {
    "region": """select i as r_regionkey, ['AFRICA', 'AMERICA', 'ASIA', 'EUROPE', 'MIDDLE EAST'][i + 1] as r_name,
        '' as r_comment from range(5) t(i)""",
    "nation": """select i as n_nationkey, ['BRAZIL', 'CANADA', 'FRANCE', 'GERMANY', 'SAUDI ARABIA'][1 + i % 5]
        || case when i < 5 then '' else ' ' || i end as n_name,
        [1, 1, 3, 3, 2][1 + i % 5]::bigint as n_regionkey, '' as n_comment from range(25) t(i)""",
    "supplier": """select i as s_suppkey, 'Supplier ' || i as s_name, 'street ' || i as s_address,
        i % 5 as s_nationkey, (10 + i % 25) || '-' || i as s_phone, money(i, 9000) as s_acctbal,
        case when i % 7 = 0 then 'Customer sad Complaints' else 'fine' end as s_comment from range(1, 21) t(i)""",
    "customer": """select i as c_custkey, 'Customer ' || i as c_name, 'street ' || i as c_address,
        i % 5 as c_nationkey, (10 + i % 25) || '-' || i as c_phone, money(i, 9000) as c_acctbal,
        pick(['BUILDING', 'MACHINERY'], i) as c_mktsegment, '' as c_comment from range(1, 151) t(i)""",
    "part": """select i as p_partkey, pick(['forest green', 'red', 'forest pink', 'green sky'], i) as p_name,
        'Manufacturer' as p_mfgr, pick(['Brand#12', 'Brand#23', 'Brand#34'], i) as p_brand,
        pick(['ECONOMY ANODIZED STEEL', 'PROMO TIN', 'SMALL BRASS'], i * 3) as p_type,
        pick([3, 9, 14, 15], i)::int as p_size, pick(['MED BOX', 'SM CASE', 'LG PKG'], i * 5) as p_container,
        money(i, 1000) as p_retailprice, '' as p_comment from range(1, 201) t(i)""",
    "partsupp": """select i % 200 + 1 as ps_partkey, (i * 7 + i // 200) % 20 + 1 as ps_suppkey,
        (hash(i) % 100)::int as ps_availqty, money(i, 1000) as ps_supplycost, '' as ps_comment from range(800) t(i)""",
    "orders": """select i as o_orderkey, 1 + (hash(i) % 100)::bigint as o_custkey, pick(['F', 'O'], i) as o_orderstatus,
        money(i, 90000) as o_totalprice, day_of(i) as o_orderdate,
        pick(['1-URGENT', '2-HIGH', '5-LOW'], i) as o_orderpriority, 'Clerk' as o_clerk, 0 as o_shippriority,
        case when i % 9 = 0 then 'special requests' else 'none' end as o_comment from range(1, 1501) t(i)""",
    "lineitem": """select i // 8 + 1 as l_orderkey, i % 200 + 1 as l_partkey, (i * 7 + i // 200 % 4) % 20 + 1 as l_suppkey,
        (i % 8)::int as l_linenumber, (1 + hash(i) % 50)::decimal(15, 2) as l_quantity,
        money(i, 90000) as l_extendedprice, (hash(i, 5) % 11 / 100)::decimal(15, 2) as l_discount,
        (hash(i, 6) % 9 / 100)::decimal(15, 2) as l_tax, pick(['A', 'N', 'R'], i) as l_returnflag,
        pick(['O', 'F'], i) as l_linestatus, day_of(i // 8 + 1) + (hash(i) % 60)::int as l_shipdate,
        day_of(i // 8 + 1) + (hash(i, 8) % 60)::int as l_commitdate,
        day_of(i // 8 + 1) + 60 + (hash(i, 9) % 9)::int as l_receiptdate,
        pick(['DELIVER IN PERSON', 'NONE'], i) as l_shipinstruct, pick(['AIR', 'MAIL', 'SHIP'], i * 3) as l_shipmode,
        'line ' || i as l_comment from range(12000) t(i)""",
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The data folder of the benchmarks, with the TPC-H tables."""
    folder = tmp_path_factory.mktemp("bench-data")
    with duckdb.connect() as con:
        con.execute(WORDS)
        for name, query in TABLES.items():
            place = folder / f"tpch-parquet-{SCALE}" / name
            place.mkdir(parents=True)
            con.execute(f"create table {name} as {query}")
            con.execute(f"copy {name} to '{place}/0.parquet'")
        lines = folder / f"tpch-csv-{SCALE}" / "lineitem"
        lines.mkdir(parents=True)
        for part in range(3):
            con.execute(f"copy (from lineitem where l_orderkey % 3 = {part}) to '{lines}/{part}.csv' (header)")
    return folder


@pytest.fixture
def bench(kept, tmp_path):
    """Run a benchmark once like its command line, and return the object that it writes."""

    def run(name, *words, code=0):
        file = tmp_path / "figures.json"
        command = [sys.executable, "-m", "benchmarks", name, "--scale", SCALE, "--runs", "1", "--json", str(file)]
        process = subprocess.run(
            [*command, *words],
            cwd=ROOT,
            env={**os.environ, "HEADWATER_BENCH_DATA": str(kept), "HEADWATER_BENCH_PEERS": str(tmp_path / "none")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == code, process.stdout + process.stderr
        return json.loads(file.read_text())

    return run
