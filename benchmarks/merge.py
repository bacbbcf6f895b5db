"""Time and memory of upserting few rows into many, compared with delta-rs and DuckDB.

A table with a key exists; a file of changes arrives, 90 % of them to existing rows, spread over all files. Compared
are, for Headwater, the seconds of both steps as recorded by the run (list the file, load it into bronze, merge, commit,
update the catalog); for delta-rs, the merge into a Delta table of the same rows; for DuckDB, the merge into a table of its own
file. `wall` is the entire process; the peers' processes first copy the table.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import duckdb
import pyarrow.dataset as ds
from deltalake import write_deltalake

from benchmarks import data
from benchmarks.interleaved_runs import Answer, Case, Contestant, Ran
from benchmarks.peer import Script, peer
from benchmarks.project import Project, seconds, source_text, written

SIZES = {
    "1k into 10M": (10**3, 10**7),
    "100k into 10M": (10**5, 10**7),
    "1k into 50M": (10**3, 5 * 10**7),
    "100k into 50M": (10**5, 5 * 10**7),
}
"""Changes and rows of each case at scale 1."""
TABLE = "accounts = sql('select id, step, balance, owner from changes', key='id', sequence_by='step')\n"
ANSWER = "select count(*), sum(id)::double, sum(step)::double, sum(balance), count(distinct owner) from {}"


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield each size, or only the given ones."""
    for name, sizes in SIZES.items():
        if name in only or not only:
            changes, rows = (max(10, round(size * scale)) for size in sizes)
            table = data.made("accounts", _accounts("i", step=1), rows)
            news = data.made(f"changes-to-{rows}", _accounts(f"i * {rows} * 10 // ({changes} * 9)", step=2), changes)
            facts = {"rows": rows, "changes": changes, "bytes_in": data.size_bytes(table)}
            base, arguments = _peers_base(table), [_peers_base(table), news / "00000.parquet"]
            peers = [peer(Script(who, "merge", arguments, package, "parts")) for who, package in PEERS.items()]
            ours = Contestant("auto", partial(_ours, table, news), is_ours=True)
            yield Case(
                name,
                _expected(table, news),
                [ours, *peers],
                {**facts, "bytes_delta": data.size_bytes(base / "accounts")},
            )


def _accounts(number: str, *, step: int) -> str:
    balance = f"(hash({number}, {step}) % 1000000)::double / 100"
    return f"select ({number})::bigint as id, {step}::bigint as step, {balance} as balance, 'owner ' || ({number}) % 1000 as owner"


def _ours(table: Path, news: Path, folder: Path) -> Ran:
    project = Project(data.copied(_ours_base(table), folder / "project"))
    shutil.copy(news / "00000.parquet", project.folder / "data" / "news.parquet")
    result, steps = project.run()
    rows = project.rows(ANSWER.format("accounts"))
    parts = seconds(steps)
    return Ran(sum(parts.values()), result.seconds, result.peak_bytes, rows, parts)


def _ours_base(table: Path) -> Path:
    """Return the project with the loaded table. The source's path is relative, so it is the same source in a copy."""

    def make(folder: Path) -> None:
        project = written(folder, source_text("changes", Path("data/*.parquet")) + TABLE)
        (project / "data").mkdir()
        for file in table.iterdir():
            (project / "data" / file.name).symlink_to(file)
        Project(project).run()

    return data.once(f"merge-project-{table.name}", make)


def _peers_base(table: Path) -> Path:
    def make(folder: Path) -> None:
        write_deltalake(str(folder / "accounts"), ds.dataset(table).scanner().to_reader())
        with duckdb.connect(str(folder / "accounts.duckdb")) as con:
            con.execute(f"create table accounts as from read_parquet('{table}/*.parquet')")

    return data.once(f"merge-peers-{table.name}", make)


def _expected(table: Path, news: Path) -> Answer:
    files = [f"'{folder}/*.parquet'" for folder in (table, news)]
    now = (
        f"(from read_parquet([{', '.join(files)}]) qualify row_number() over (partition by id order by step desc) = 1)"
    )
    with duckdb.connect() as con:
        return con.sql(ANSWER.format(now)).fetchall()


def _of_duckdb(folder: Path) -> Answer:
    with duckdb.connect(str(folder / "accounts.duckdb")) as con:
        return con.sql(ANSWER.format("accounts")).fetchall()


def _of_deltalake(folder: Path) -> Answer:
    with duckdb.connect() as con:
        return con.sql(ANSWER.format(f"'{folder}/now/*.parquet'")).fetchall()


PEERS = {"deltalake": _of_deltalake, "duckdb": _of_duckdb}
