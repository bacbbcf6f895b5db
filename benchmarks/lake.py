"""Work on a Delta table of 60 million rows, compared with delta-rs, Polars and DuckDB, each in turn.

`upsert`, `update`, `cdc` and `sync` change a table by its key: see `merge`. `append` adds 1 % of new rows; compared are
reading the file, writing and committing. `compact` rewrites 50 files as few; compared is the entire process. `point` reads one row by its
key, and `travel` sums a column of the version before a merge; compared is the median of seven calls in a process
that has already done it once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import duckdb
from deltalake import DeltaTable, write_deltalake

from benchmarks import data, merge
from benchmarks.interleaved_runs import Answer, Case, Contestant, Ran
from benchmarks.measure import measure
from benchmarks.merge import Changes
from benchmarks.peer import Script, peer
from benchmarks.project import HEADWATER, Project, seconds, source_text, written

ROWS = 60_000_000
"""The rows of the table at scale 1."""
SUITE = {
    "upsert": Changes(600_000, ROWS),
    "update": Changes(3_200_000, ROWS, new=0.0),
    "cdc": Changes(1_800_000, ROWS, deletes=0.2),
    "sync": Changes(15_000_000, ROWS, new=0.2),
}
SMALL_FILES, SMALL_ROWS = 50, 200_000
SCHEMA = {"id": "bigint", "step": "bigint", "balance": "double", "owner": "varchar"}
ACCOUNTS = f"accounts = sql('select {', '.join(SCHEMA)} from changes')\n"
MANUAL = "from pipeline import lake_policy\nby_hand = lake_policy(maintenance='manual')\n"


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield each job, or only the given ones."""
    for name, changes in SUITE.items():
        if name in only or not only:
            yield merge.case(name, changes.scaled(scale))
    others: dict[str, Callable[[float], Case]] = {
        "append": _append,
        "compact": _compact,
        "point": partial(_read, "point"),
        "travel": partial(_read, "travel"),
    }
    for name, case in others.items():
        if name in only or not only:
            yield case(scale)


def _append(scale: float) -> Case:
    changes = Changes(600_000, ROWS, new=1 - 1e-9).scaled(scale)
    news = data.made(f"accounts-after-{changes.rows}", _after(changes), changes.count)
    base = merge.peers_base(changes.table)
    peers = [peer(Script("deltalake", "append", [base, news / "00000.parquet"], merge.of_deltalake, "parts"))]
    ours = Contestant("auto", partial(_appended, changes, news), is_ours=True)
    expected = _answer(f"read_parquet(['{changes.table}/*.parquet', '{news}/*.parquet'])")
    return Case("append", expected, [ours, *peers], {"rows": changes.rows, "new": changes.count})


def _after(changes: Changes) -> str:
    return f"select (i + {changes.rows})::bigint as id, 1::bigint as step, i::double as balance, 'owner ' || i % 1000 as owner"


def _appended(changes: Changes, news: Path, folder: Path) -> Ran:
    project = Project(data.copied(_appended_base(changes), folder / "project"))
    (project.folder / "data" / "news.parquet").symlink_to(news / "00000.parquet")
    result, steps = project.run()
    parts = seconds(steps)
    return Ran(sum(parts.values()), result.seconds, result.peak_bytes, _rows(project), parts)


def _appended_base(changes: Changes) -> Path:
    def make(folder: Path) -> None:
        definitions = source_text("changes", Path("data/*.parquet"), SCHEMA, stored=False) + ACCOUNTS
        _linked(written(folder, definitions), changes.table)
        Project(folder).run()

    return data.once(f"append-project-{changes.table.name}", make)


def _linked(project: Path, table: Path) -> None:
    (project / "data").mkdir()
    for file in table.iterdir():
        (project / "data" / file.name).symlink_to(file)


def _compact(scale: float) -> Case:
    rows = max(100, round(SMALL_ROWS * scale))
    small = data.made(f"accounts-{SMALL_FILES}-of", Changes(0, 0).accounts("i", step=1), rows * SMALL_FILES)
    arguments = [_small_files_of_delta(small, rows)]
    peers = [peer(Script("deltalake", "compact", arguments, merge.of_deltalake))]
    ours = Contestant("auto", partial(_compacted, small, rows), is_ours=True)
    facts = {"rows": rows * SMALL_FILES, "files": SMALL_FILES}
    return Case("compact", _answer(f"'{small}/*.parquet'"), [ours, *peers], facts)


def _compacted(small: Path, rows: int, folder: Path) -> Ran:
    project = Project(data.copied(_small_files(small, rows), folder / "project"))
    result = measure([HEADWATER, "lake", "compact", "accounts", "--json"], project.folder)
    return Ran(result.seconds, result.seconds, result.peak_bytes, _rows(project))


def _small_files(small: Path, rows: int) -> Path:
    """Return the project whose table has one file for each of many runs."""

    def make(folder: Path) -> None:
        definitions = source_text("changes", Path("data/*.parquet"), SCHEMA, stored=False) + ACCOUNTS + MANUAL
        project = Project(written(folder, definitions))
        (folder / "data").mkdir()
        for number in range(SMALL_FILES):
            _write_part(small, rows, number, folder / "data" / f"{number:03}.parquet")
            project.run()

    return data.once(f"compact-project-{small.name}", make)


def _small_files_of_delta(small: Path, rows: int) -> Path:
    def make(folder: Path) -> None:
        for number in range(SMALL_FILES):
            _write_part(small, rows, number, folder / "part.parquet")
            with duckdb.connect() as con:
                reader = con.sql(f"from '{folder}/part.parquet'").to_arrow_reader()
                write_deltalake(str(folder / "accounts"), reader, mode="append")

    return data.once(f"compact-peers-{small.name}", make)


def _write_part(small: Path, rows: int, number: int, to: Path) -> None:
    with duckdb.connect() as con:
        chosen = f"id >= {number * rows} and id < {(number + 1) * rows}"
        con.execute(f"copy (from '{small}/*.parquet' where {chosen}) to '{to}' (compression zstd)")


def _read(name: str, scale: float) -> Case:
    changes = Changes(100_000, ROWS).scaled(scale)
    expected = {
        "point": f"from read_parquet('{changes.table}/*.parquet') where id = {changes.rows // 3}",
        "travel": f"select sum(step)::bigint as total from read_parquet('{changes.table}/*.parquet')",
    }
    with duckdb.connect() as con:
        answer = con.sql(expected[name]).fetchall()
    ours, delta = _merged(changes), _merged_by_delta(changes)
    script = Script("headwater", name, [ours, str(changes.rows // 3)], _of_read, "parts")
    in_process = Contestant("call", partial(script.run, python=Path(sys.executable)), is_ours=True)
    peers = [
        peer(Script(who, name, [delta, str(changes.rows // 3)], _of_read, "parts")) for who in ("polars", "deltalake")
    ]
    return Case(name, answer, [in_process, *peers], {"rows": changes.rows})


def _merged(changes: Changes) -> Path:
    """Return the project after a merge of changes that are not in the row that `point` reads."""

    def make(folder: Path) -> None:
        data.copied(merge.ours_base(changes), folder / "project")
        _write_changes(changes, folder / "project" / "data" / "news.parquet")
        Project(folder / "project").run()

    return data.once(f"read-project-{changes.table.name}", make) / "project"


def _merged_by_delta(changes: Changes) -> Path:
    def make(folder: Path) -> None:
        data.copied(merge.peers_base(changes.table) / "accounts", folder / "accounts")
        _write_changes(changes, folder / "news.parquet")
        with duckdb.connect() as con:
            news = con.sql(f"from '{folder}/news.parquet'").to_arrow_table()
        table = DeltaTable(str(folder / "accounts")).merge(
            news, "old.id = new.id", source_alias="new", target_alias="old"
        )
        table.when_matched_update_all().when_not_matched_insert_all().execute()

    return data.once(f"read-peers-{changes.table.name}", make)


def _write_changes(changes: Changes, to: Path) -> None:
    with duckdb.connect() as con:
        others = f"from '{changes.news}/*.parquet' where id <> {changes.rows // 3}"
        con.execute(f"copy ({others}) to '{to}' (compression zstd)")


def _rows(project: Project) -> Answer:
    return project.rows(merge.ANSWER.format("accounts"))


def _answer(source: str) -> Answer:
    with duckdb.connect() as con:
        return con.sql(merge.ANSWER.format(source)).fetchall()


def _of_read(folder: Path) -> Answer:
    with duckdb.connect() as con:
        return con.sql(f"from '{folder}/rows.parquet'").fetchall()
