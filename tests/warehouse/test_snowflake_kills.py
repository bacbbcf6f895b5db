"""Loading into Snowflake is exactly once: the process is killed before each statement, and the next one completes it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ConflictError
from pipeline.core.schema import Schema
from pipeline.kernel.scan import DataFile, Scan
from pipeline.warehouse import Load
from pipeline.warehouse.snowflake.connection import snowflake_address
from pipeline.warehouse.snowflake.engine import SnowflakeWarehouse
from tests.rigs.proofs import some

SCHEMA = Schema.of({"id": "BIGINT", "v": "VARCHAR"})
KILLED = """
import os, pickle, signal, sys
from pipeline.warehouse.snowflake.connection import snowflake_address
from pipeline.warehouse.snowflake.engine import SnowflakeWarehouse

url, loads, step = pickle.loads(bytes.fromhex(sys.argv[1]))
seen = []

def reached(statement):
    seen.append(statement)
    if len(seen) == step:
        os.kill(os.getpid(), signal.SIGKILL)

warehouse = SnowflakeWarehouse(snowflake_address(url), reached)
for load in loads:
    warehouse.load(load)
print(len(seen))
warehouse.close()
"""
STEPS = 59
"""The statements of the three loads below; a test fails if there are more."""


@pytest.fixture
def loads(tmp_path):
    """A first load with a key, one that appends rows, and one that changes, adds and removes rows."""

    def write(name: str, *rows: tuple[int, str]) -> DataFile:
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"id": [row[0] for row in rows], "v": [row[1] for row in rows]}), path)
        return DataFile(str(path), len(rows), path.stat().st_size)

    kept = write("kept", *((number, "kept") for number in range(10, 20)))
    old, more, new = write("old", (1, "a"), (2, "b")), write("more", (3, "c")), write("new", (1, "changed"), (4, "d"))
    return (
        Load("t", 1, 7, Scan(SCHEMA, (kept, old)), key=("id",)),
        Load("t", 2, 8, Scan(SCHEMA, (kept, old, more)), key=("id",), since=(1, 7), added=(more,)),
        Load("t", 3, 9, Scan(SCHEMA, (kept, more, new)), key=("id",), since=(2, 8), added=(new,), removed=(old,)),
    )


def run(url, loads, step):
    argument = pickle.dumps((url, loads, step)).hex()
    return subprocess.run(
        [sys.executable, "-c", KILLED, argument], capture_output=True, text=True, check=False, env={**os.environ}
    )


@pytest.mark.parametrize("step", some(range(1, STEPS + 1), 2))
def test_a_load_killed_before_any_statement_is_completed_once(snowflake_account, snowflake, snowflake_url, loads, step):
    process = run(snowflake_url, loads, step)
    assert process.returncode == -signal.SIGKILL, process.stderr[-2000:]
    snowflake_account.abandon_sessions()
    before = snowflake.loaded().get("t")
    known = [load for load in loads if (load.version, load.manifest_id) == before]
    if known:  # readers see the version that the ledger names
        assert snowflake.query("select count(*) as n from t").to_pylist() == [{"N": known[0].scan.rows}]
    for load in loads:
        if before is None or load.version >= before[0]:
            snowflake.load(load)
    assert snowflake.loaded() == {"t": (3, 9)}
    rows = snowflake.query("select id, v from t where id < 10 order by id").to_pylist()
    assert [tuple(row.values()) for row in rows] == [(1, "changed"), (3, "c"), (4, "d")]
    assert snowflake.query("select count(*) as n, count(distinct id) as d from t").to_pylist() == [{"N": 13, "D": 13}]


def test_the_steps_are_all_statements_of_the_loads(snowflake_url, loads):
    process = run(snowflake_url, loads, 0)
    assert process.stdout == f"{STEPS}\n", process.stderr[-2000:]


def test_transactions_contain_no_ddl(snowflake, loads):
    """Snowflake commits before DDL; fakesnow does not, so it would not notice."""
    seen = []
    snowflake.sessions.reached = seen.append
    for load in loads:
        snowflake.load(load)
    words = [statement.split()[0] for statement in seen]
    assert words.count("BEGIN") == words.count("COMMIT") == 3
    inside = False
    for word in words:
        inside = word == "BEGIN" or (inside and word != "COMMIT")
        assert not inside or word in {"BEGIN", "UPDATE", "SELECT", "DELETE", "INSERT", "MERGE"}


def test_files_that_an_interrupted_attempt_uploaded_are_used(snowflake_account, snowflake, snowflake_url, loads):
    """The upload is killed after PUT: the next attempt sends no PUT."""
    seen = []
    snowflake.sessions.reached = seen.append
    first = loads[0]
    process = run(
        snowflake_url,
        (first,),
        1 + next(number for number, word in enumerate(_words(first, snowflake_account), 1) if word == "PUT"),
    )
    assert process.returncode == -signal.SIGKILL, process.stderr[-2000:]
    snowflake_account.abandon_sessions()
    snowflake.load(first)
    words = [statement.split()[0] for statement in seen]
    assert "COPY" in words
    assert "PUT" not in words


def _words(load, account):
    """Return the first words of the statements of a load into an empty schema."""
    seen = []
    warehouse = SnowflakeWarehouse(snowflake_address(account.url()), seen.append)
    warehouse.load(load)
    warehouse.close()
    return [statement.split()[0] for statement in seen]


OTHERS_LATEST = 13
"""The statements of the third load up to that which takes its lock: then other loads wait, which fakesnow does not."""


@pytest.mark.parametrize("step", some(range(1, OTHERS_LATEST + 1), 2))
def test_another_process_that_loads_the_version_meanwhile_changes_nothing(snowflake, snowflake_url, loads, step):
    """Before a statement of one load, another process loads the same version completely, and removes the staged files."""
    for load in loads[:2]:
        snowflake.load(load)
    seen = []

    def reached(statement):
        seen.append(statement)
        if len(seen) == step:
            snowflake.load(loads[2])

    late = SnowflakeWarehouse(snowflake_address(snowflake_url), reached)
    late.load(loads[2])
    late.close()
    assert "COMMIT" not in seen[:step]
    assert snowflake.loaded() == {"t": (3, 9)}
    assert snowflake.query("select count(*) as n, count(distinct id) as d from t").to_pylist() == [{"N": 13, "D": 13}]


def test_loads_that_never_agree_end_with_a_conflict(snowflake, snowflake_url, loads):
    """Whenever the load is about to begin its transaction, another process has recreated the table."""
    others = [Load("t", 0, number, loads[0].scan, key=("id",)) for number in range(10, 20)]

    def reached(statement):
        if statement == "BEGIN":
            snowflake.load(others.pop())

    late = SnowflakeWarehouse(snowflake_address(snowflake_url), reached)
    with pytest.raises(
        ConflictError, match="other processes load table 't' of the warehouse at the same time; let one"
    ):
        late.load(loads[2])
    late.close()
    assert snowflake.query("select count(*) as n from t").to_pylist() == [{"N": loads[0].scan.rows}]
