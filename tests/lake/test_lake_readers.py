"""Readers of others see the same rows in the lake's tables, also after their partitioning has changed."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipeline.kernel.engine import connect
from pipeline.lake import Lake, Storage
from pipeline.lake.cloning import clone
from tests.rigs.liquid_table import Liquid, events


def rows_as_text(table: pa.Table):
    lines = ({name: str(row[name]) for name in sorted(row)} for row in table.to_pylist())
    return sorted(json.dumps(line) for line in lines)


def in_polars(locations):
    import polars as pl  # noqa: PLC0415 - takes a second

    return [rows_as_text(pl.read_delta(location).to_arrow()) for location in locations]


def in_delta_rs(locations):
    return [rows_as_text(DeltaTable(location).to_pyarrow_table()) for location in locations]


def in_another_environment(reader, home=".peers-readers", needs="bin/python"):
    def read(locations):
        folder = Path(__file__).parents[2] / home
        python = folder / "bin" / "python"
        if not (python.exists() and list(folder.glob(needs))):
            pytest.skip("the readers of Delta tables are not installed: make peers")
        command = [python, Path(__file__).parents[1] / "rigs" / "delta_readers_program.py", reader, *locations]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]

    return read


READERS = {
    "polars": in_polars,
    "delta-rs": in_delta_rs,
    "duckdb": in_another_environment("duckdb"),
    "delta-kernel": in_another_environment("delta-kernel"),
    "spark": in_another_environment("spark", ".peers-streams", "jars/delta-spark*.jar"),
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Tables of each kind by name, with their rows."""
    lake, dice = Lake(Storage(str(tmp_path_factory.mktemp("readers") / "lake"))), random.Random(8)  # noqa: S311 - not for security
    kinds = {
        "plain": ((), ()),
        "partitioned": (("country", "day"),) * 2,
        "transformed": (("day(ts)", "bucket(3, id)"),) * 2,
    }
    kinds |= {"changed": (("country", "small"), ("month(ts)",)), "undone": (("country",), ())}
    made = {}
    for name, (first, second) in kinds.items():
        t = made[name] = Liquid(lake.table("silver", name, partition_by=first), lake.table("silver", f"{name}_plain"))
        t.write(events(range(20), dice), "overwrite")
        t.repartition(second)
        t.write(events(range(10, 30), dice), "merge")
        added = events(range(100, 105), dice).replace("id / 7.0 as x", "id / 7.0 as x, 'new' as added")
        t.write(added, "append")
    locations = {name: (t.table.storage.uri, t) for name, t in made.items()}
    copy = lake.storage.at("elsewhere", "clone")
    clone(made["changed"].table.storage, made["changed"].seen, copy)
    return {**locations, "clone": (copy.uri, made["changed"])}


@pytest.mark.parametrize(
    "reader", ["polars", "delta-rs", "duckdb", "delta-kernel", pytest.param("spark", marks=pytest.mark.proof)]
)
def test_readers_of_others_see_the_same_rows(tables, reader):
    found = READERS[reader]([location for location, _ in tables.values()])
    for (name, (_, t)), rows in zip(tables.items(), found, strict=True):
        with connect() as con:
            expected = rows_as_text(con.sql(t.seen.scan().query()).to_arrow_table())
        assert len(expected) == len(t.plain_rows())
        assert rows == expected, name
