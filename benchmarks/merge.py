"""Time and memory of upserting few rows into many, compared with delta-rs and DuckDB.

A table with a key exists; a file of changes arrives, spread over all files: updates, new rows and deletes. Compared
are, for Headwater, the seconds of both steps as recorded by the run (list the file, load it into bronze, merge, commit,
update the catalog); for delta-rs, the merge into a Delta table of the same rows; for DuckDB, the merge into a table of its own
file. `wall` is the entire process; the peers' processes first copy the table.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import duckdb
import pyarrow.dataset as ds
from deltalake import write_deltalake

from benchmarks import data
from benchmarks.interleaved_runs import Answer, Case, Contestant, Ran
from benchmarks.peer import Script, peer
from benchmarks.project import Project, seconds, source_text, written


@dataclass(frozen=True)
class Changes:
    """The number of changes and of the rows of their table, and of the changes, the shares of new rows and of deletes."""

    count: int
    rows: int
    new: float = 0.1
    deletes: float = 0.0

    def scaled(self, scale: float) -> Changes:
        """Return a smaller or larger case."""
        return replace(self, count=max(10, round(self.count * scale)), rows=max(10, round(self.rows * scale)))

    @property
    def table(self) -> Path:
        """The files of the table's rows."""
        return data.made(f"accounts{self._kind}", self.accounts("i", step=1), self.rows)

    @property
    def news(self) -> Path:
        """The files of the changes."""
        number = f"i * {round(self.rows / (1 - self.new))} // {self.count}"
        name = f"changes{self._kind}-{self.new:g}-to-{self.rows}"
        return data.made(name, self.accounts(number, step=2), self.count)

    @property
    def _kind(self) -> str:
        return "-with-deletes" if self.deletes else ""

    def accounts(self, number: str, *, step: int) -> str:
        """Return a SELECT of rows over the numbers `i`; `number` is SQL for their ids."""
        balance = f"(hash({number}, {step}) % 1000000)::double / 100"
        columns = f"({number})::bigint as id, {step}::bigint as step, {balance} as balance, 'owner ' || ({number}) % 1000 as owner"
        if not self.deletes:
            return f"select {columns}"
        is_delete = "false" if step == 1 else f"i % {round(1 / self.deletes)} = 0"
        return f"select {columns}, if({is_delete}, 'D', 'U') as op"


SIZES = {
    "1k into 10M": Changes(10**3, 10**7),
    "100k into 10M": Changes(10**5, 10**7),
    "1k into 50M": Changes(10**3, 5 * 10**7),
    "100k into 50M": Changes(10**5, 5 * 10**7),
}
"""The cases at scale 1."""
TABLE = "accounts = sql('select id, step, balance, owner from changes', key='id', sequence_by='step')\n"
WITH_DELETES = (
    "accounts = sql('select * from changes', key='id', sequence_by='step', apply_as_deletes=\"op = 'D'\", "
    "except_column_list=['op'])\n"
)
ANSWER = "select count(*), sum(id)::double, sum(step)::double, sum(balance), count(distinct owner) from {}"


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield each size, or only the given ones."""
    for name, changes in SIZES.items():
        if name in only or not only:
            yield case(name, changes.scaled(scale))


def case(name: str, changes: Changes) -> Case:
    """Return the case of these changes."""
    table, news = changes.table, changes.news
    facts = {"rows": changes.rows, "changes": changes.count, "bytes_in": data.size_bytes(table)}
    base = peers_base(table)
    peers = [peer(Script(who, "merge", [base, news], answer, "parts")) for who, answer in PEERS.items()]
    ours = Contestant("auto", partial(_ours, changes), is_ours=True)
    return Case(
        name, _expected(table, news), [ours, *peers], {**facts, "bytes_delta": data.size_bytes(base / "accounts")}
    )


def _ours(changes: Changes, folder: Path) -> Ran:
    project = Project(data.copied(ours_base(changes), folder / "project"))
    for file in changes.news.iterdir():
        shutil.copy(file, project.folder / "data" / f"news-{file.name}")
    result, steps = project.run()
    rows = project.rows(ANSWER.format("accounts"))
    parts = seconds(steps)
    return Ran(sum(parts.values()), result.seconds, result.peak_bytes, rows, parts)


def ours_base(changes: Changes) -> Path:
    """Return the project with the loaded table. The source's path is relative, so it is the same source in a copy."""
    table = changes.table

    def make(folder: Path) -> None:
        definition = WITH_DELETES if changes.deletes else TABLE
        project = written(folder, source_text("changes", Path("data/*.parquet")) + definition)
        (project / "data").mkdir()
        for file in table.iterdir():
            (project / "data" / file.name).symlink_to(file)
        Project(project).run()

    return data.once(f"merge-project-{table.name}", make)


def peers_base(table: Path) -> Path:
    """Return a folder with the table `accounts` as a Delta table, and as a table of DuckDB's own file."""

    def make(folder: Path) -> None:
        columns = ["id", "step", "balance", "owner"]
        write_deltalake(str(folder / "accounts"), ds.dataset(table).scanner(columns=columns).to_reader())
        with duckdb.connect(str(folder / "accounts.duckdb")) as con:
            con.execute(f"create table accounts as select {', '.join(columns)} from read_parquet('{table}/*.parquet')")

    return data.once(f"merge-peers-{table.name}", make)


def _expected(table: Path, news: Path) -> Answer:
    files = ", ".join(f"'{folder}/*.parquet'" for folder in (table, news))
    last = f"(from read_parquet([{files}]) qualify row_number() over (partition by id order by step desc) = 1)"
    with duckdb.connect() as con:
        has_deletes = "op" in con.sql(f"from read_parquet('{news}/*.parquet')").columns
        now = f"(from {last} where op <> 'D')" if has_deletes else last
        return con.sql(ANSWER.format(now)).fetchall()


def _of_duckdb(folder: Path) -> Answer:
    with duckdb.connect(str(folder / "accounts.duckdb")) as con:
        return con.sql(ANSWER.format("accounts")).fetchall()


def of_deltalake(folder: Path) -> Answer:
    """Return the answer from the files in the folder `now`."""
    with duckdb.connect() as con:
        return con.sql(ANSWER.format(f"'{folder}/now/*.parquet'")).fetchall()


PEERS = {"deltalake": of_deltalake, "duckdb": _of_duckdb}
