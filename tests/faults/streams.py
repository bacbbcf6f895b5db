"""A project of streams that tests kill in every way, and the oracle that detects lost and duplicate rows.

`clicks` is a computed log of three partitions with all kinds of rows: in time, late, without a time, from the future,
and violating an expectation. `kept` processes them one by one, `minutes` in windows; `below` and `hours` read these two
tables. The oracle does not use the streams: it computes the rows again from their numbers.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

from pipeline.connectors.direct_tail import DirectTail
from pipeline.connectors.generator import Generator
from pipeline.core.epochs import Epoch
from pipeline.core.sources import Extent, Tail
from pipeline.core.staging import Manifest, manifest_id_of
from pipeline.kernel.engine import connect
from pipeline.lake.log_files import number_of
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.streaming.runtime.job import StreamJob, StreamJobOptions
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.start import StartPosition
from pipeline.streaming.runtime.verify import verify

PROCESSES = multiprocessing.get_context("forkserver")  # children fork before DuckDB has started threads
PROCESSES.set_forkserver_preload(["tests.faults.streams"])
AT_ONCE = Intervals(batch_s=0.02, commit_s=0.0, idle_commit_s=0.0)
"""Every micro-batch is an epoch, so that a run and its repetition divide the log at the same offsets."""
TABLES = ("kept", "minutes", "below", "hours")

TOML = """\
[project]
name = "clicks"
definitions = "clicks.py"
"""
COLUMNS = {
    "id": "p * 1000000 + i",
    "happened": """case when i % 53 = 7 then null when i % 59 = 9 then timestamp '2100-01-01'
             else timestamp '2026-01-01' + to_seconds(i * 5 - case when i % 13 = 4 then 30 + hash(i, p, 3) % 300 else hash(i, p) % 10 end) end""",
    "key": "'k' || hash(i, p, 1) % 9",
    "amount": "(hash(i, p, 2) % 100)::integer",
}
PROJECT = """\
from pipeline import drop, quarantine, source, sql
from tests.faults.streams import COLUMNS, dripping

clicks = source(
    dripping(COLUMNS, partitions={partitions}, count={count}, step={step}),
    schema={{"id": "bigint", "happened": "timestamp", "key": "varchar", "amount": "integer"}},
    event_time="happened",
    lateness="30 seconds",
    stored=False,
)
kept = sql(
    "select id, happened, key, amount, _source, _position from clicks",
    expect=[quarantine("sold", "amount > 4"), drop("real", "key <> 'k7'")],
)
minutes = sql(
    "select tumble(happened, interval '1 minute') as minute, key, count(*) as n, sum(id)::bigint as ids from clicks group by all",
    expect=[quarantine("not_k8", "key <> 'k8'")],
)
below = sql("select id, key, amount * 2 as twice from kept where amount < 90")
hours = sql("select tumble(happened, interval '10 minutes') as hour, count(*) as n, sum(id)::bigint as ids from kept group by all")
"""


@dataclass(frozen=True)
class Dripping(Generator):
    """A computed log that offers a few rows at a time, so that epochs do not depend on timing."""

    step: int = 40

    @contextmanager
    def tail(self, offsets: Mapping[str, int]) -> Iterator[Tail]:
        yield DirectTail(self, dict(offsets), max_rows=self.step, ends_at=dict.fromkeys(offsets, self.count or 0))


def dripping(columns: Mapping[str, str], *, partitions: int, count: int, step: int) -> Dripping:
    return Dripping(dict(columns), partitions, count, step=step)


@dataclass(frozen=True)
class Uneven(Generator):
    """A computed log without an end, whose partitions currently contain the given numbers of rows."""

    counts: tuple[int, ...] = (0,)

    def extents(self) -> Mapping[str, Extent]:
        return {f"generator://{self.fingerprint}/{p}": Extent(0, count) for p, count in enumerate(self.counts)}


@dataclass(frozen=True)
class Clicks:
    """The project's folder and the size of its log."""

    folder: Path
    count: int = 160
    """The number of rows of each partition."""
    step: int = 40
    partitions: int = 3
    names: tuple[str, ...] = TABLES
    environment: str = ""
    """The sections of `headwater.toml` about the lake; without them, it is a local folder."""

    def write(self) -> Clicks:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "headwater.toml").write_text(TOML + self.environment)
        text = PROJECT.format(partitions=self.partitions, count=self.count, step=self.step)
        (self.folder / "clicks.py").write_text(text)
        return self

    def workspace(self) -> Workspace:
        return Workspace(load(self.folder))

    @property
    def rows(self) -> pa.Table:
        """All rows of the log with their positions."""
        columns = ", ".join(f"({text}) as {name}" for name, text in COLUMNS.items())
        base = f"select i, p from range({self.count}) a(i), range({self.partitions}) b(p)"
        with duckdb.connect() as con:
            return con.sql(f"select {columns}, i as _position, p from ({base})").to_arrow_table()


# -- a run in a child process


@dataclass(frozen=True)
class Kill:
    """When a process kills itself: the n-th time, counting from 1, that it reaches a step; without a name, any step."""

    nth: int
    table: str | None = None
    step: str | None = None


@dataclass(frozen=True)
class Orders:
    """What a process must do."""

    folder: str
    names: tuple[str, ...] = TABLES
    shards: int = 2
    source_tasks: int = 2
    drain: bool = True
    kill: Kill | None = None
    files: bool = False
    """Whether file operations count as steps."""
    begin: StartPosition = "committed"
    forever: bool = False
    """Whether it runs until it is killed."""
    take_over: bool = False
    """Whether it takes over the lease of another process."""
    stop: tuple[int, str] | None = None
    """The process suspends itself the n-th time, counting from 1, that it reaches this step, until SIGCONT."""
    intervals: Intervals = AT_ONCE


@dataclass
class _Points:
    """Counts the steps of a process, and kills or suspends it at the configured step."""

    orders: Orders
    pipe: Any
    reached_steps: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reached(self, table: str, step: str) -> None:
        with self.lock:
            self.reached_steps.append((table, step))
            if self.orders.stop == ([s for _, s in self.reached_steps].count(step), step):
                self.pipe.send("stops")
                os.kill(os.getpid(), signal.SIGSTOP)
            kill = self.orders.kill
            if kill is None:
                return
            alike = [(t, s) for t, s in self.reached_steps if kill.table in {None, t} and kill.step in {None, s}]
            if len(alike) >= kill.nth and (table, step) == alike[-1]:
                os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Count Python's operations on files of the project."""
        if event not in {"open", "os.rename", "os.remove", "os.mkdir"} or not isinstance(args[0], str | Path):
            return
        path = str(args[0])
        if event == "open" and "w" not in str(args[1] or ""):
            return
        _, _, inside = path.partition(f"{self.orders.folder}/.headwater/lake/")
        layer, _, below = inside.partition("/")
        if layer and below:
            self.reached(below.partition("/")[0], event)


def _child(orders: Orders, pipe: Any) -> None:
    points = _Points(orders, pipe)
    if orders.files:
        sys.addaudithook(points.audit)
    stream_options = StreamOptions(
        orders.begin, orders.intervals, shards=orders.shards, source_tasks=orders.source_tasks
    )
    try:
        ends = not orders.forever
        drain = orders.drain and ends
        job_options = StreamJobOptions(orders.names, ends, drain, stream_options, take_over=orders.take_over)
        StreamJob(Workspace(load(Path(orders.folder))), job_options, on_step=points.reached).run()
    except BaseException as error:
        pipe.send(error)
        raise
    pipe.send(points.reached_steps)


@dataclass
class Child:
    """A process that runs the streams."""

    process: Any
    pipe: Any

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()

    def send(self, what: signal.Signals) -> None:
        os.kill(self.process.pid, what)

    def stopped(self) -> None:
        """Wait until it has suspended itself."""
        assert self.pipe.recv() == "stops"
        status = Path(f"/proc/{self.process.pid}/stat")
        while status.read_text().rpartition(")")[2].split()[0] != "T":  # all its threads
            os.sched_yield()

    def wait(self, seconds: float = 60) -> Any:
        """Return the steps that it reached or the error that it raised; `None` if it was killed."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "the process did not end"
        if self.process.exitcode == -signal.SIGKILL:
            return None
        return self.pipe.recv()


def start(orders: Orders) -> Child:
    parent, child = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_child, args=(orders, child))
    process.start()
    child.close()
    return Child(process, parent)


def run(orders: Orders) -> list[tuple[str, str]] | None:
    """Run the streams to the end or until they are killed; return the steps that they reached."""
    with start(orders) as child:
        exit_code = child.wait()
    if isinstance(exit_code, BaseException):
        raise exit_code
    return exit_code


# -- the oracle


@dataclass(frozen=True)
class Epochs:
    """The commits of a table, from its log and its manifests."""

    manifests: Sequence[Manifest]

    @property
    def last(self) -> Epoch:
        epoch = self.manifests[-1].epoch
        assert epoch is not None
        return epoch


def epochs_of(workspace: Workspace, name: str) -> Epochs:
    """Return a table's commits in order; check that each refers to a complete manifest."""
    storage = workspace.table(name).storage
    epochs = []
    for entry in storage.names("_delta_log/"):
        if not entry.endswith(".json"):
            continue
        actions = [json.loads(line) for line in storage.read_text(entry).splitlines()]
        if not any({"add", "remove", "txn"} & action.keys() for action in actions):
            continue  # a vacuum adds an entry
        marks = [action["txn"]["version"] for action in actions if action.get("txn", {}).get("appId") == "headwater"]
        if any("headwater.compacted" in action.get("commitInfo", {}) for action in actions):
            continue
        (mark,) = marks
        if not storage.has(f"_headwater/{mark:016x}.json"):
            assert not epochs, f"{name}: manifest {mark:016x} is missing, but older ones exist"
            continue  # an old manifest that was cleaned up
        text = storage.read_text(f"_headwater/{mark:016x}.json")
        assert manifest_id_of(text) == mark
        epochs.append(Manifest.from_json(text))
    return Epochs(epochs)


def committed_once_each(workspace: Workspace, name: str) -> Epochs:
    """Check that epochs 1, 2, 3 … are committed once, offsets and watermarks never decrease, and totals are sums."""
    epochs = epochs_of(workspace, name)
    numbers = [m.epoch.number for m in epochs.manifests if m.epoch is not None]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), f"{name}: {numbers}"
    before: Epoch | None = None
    first = epochs.manifests[0]
    assert first.epoch is not None
    rows_in = first.epoch.totals["rows_in"] - first.flow.rows_in
    assert numbers[0] > 1 or rows_in == 0
    for manifest in epochs.manifests:
        epoch, flow = manifest.epoch, manifest.flow
        assert epoch is not None
        assert flow.uncounted == 0, f"{name} epoch {epoch.number}: {flow}"
        rows_in += flow.rows_in
        assert epoch.totals["rows_in"] == rows_in, f"{name} epoch {epoch.number}"
        if before is not None:
            assert epoch.watermark >= before.watermark
            assert all(epoch.offsets[uri] >= offset for uri, offset in before.offsets.items())
        before = epoch
    return epochs


def feed_is_snapshot(workspace: Workspace, name: str) -> None:
    """Check that the change data feed yields the rows of the table, and that it has only inserts."""
    storage = workspace.table(name).storage
    first = min(number for entry in storage.names("_delta_log/") if (number := number_of(entry)) >= 0)
    with duckdb.connect() as con:
        read = DeltaTable(storage.uri, storage_options=dict(storage.options) or None).load_cdf(starting_version=first)
        con.register("feed", pa.RecordBatchReader.from_stream(read).read_all())
        kinds = con.sql("select distinct _change_type from feed").fetchall()
        assert {kind for (kind,) in kinds} <= {"insert"}, f"{name}: {kinds}"
        changes = con.sql(
            "select * exclude (_change_type, _commit_version, _commit_timestamp) from feed"
        ).to_arrow_table()
    there = multiset(workspace.lake.rows(workspace.table(name)))
    assert (multiset(changes) <= there) if first else (multiset(changes) == there), name


def multiset(rows: pa.Table) -> Counter[str]:
    return Counter(json.dumps(row, sort_keys=True, default=str) for row in rows.to_pylist())


def quarantine_of(workspace: Workspace, name: str) -> pa.Table:
    """Return the quarantine: `reasons`, the position, and the row as text."""
    table = workspace.lake.quarantine(name)
    if table.version() is None:
        return pa.table(
            {n: pa.array([], pa.string()) for n in ("reasons", "_source", "row")}
            | {"_position": pa.array([], pa.int64())}
        )
    rows = workspace.lake.rows(table)
    return rows.select(["reasons", "_source", "_position", "row"])


EXPECTED = {
    "kept": "select id, happened, key, amount from read where amount > 4 and key <> 'k7'",
    "minutes": """select time_bucket(interval '1 minute', happened) as minute, key, count(*) as n, sum(id)::bigint as ids
                  from read where key <> 'k8' group by all""",
    "below": "select id, key, amount * 2 as twice from kept where amount < 90",
    "hours": """select time_bucket(interval '10 minutes', happened) as hour, count(*) as n, sum(id)::bigint as ids
                from kept where id not in (from late_hours) group by all""",
}


def oracle(clicks: Clicks, names: Sequence[str] = TABLES) -> dict[str, Counter[str]]:
    """Check all invariants of a project whose streams have ended and drained; return the rows of its tables."""
    workspace = clicks.workspace()
    for name in names:
        committed_once_each(workspace, name)
        feed_is_snapshot(workspace, name)
        result = verify(workspace, name)
        assert result.holds, f"{name}: {result}"
    with duckdb.connect() as con:
        con.register("log", clicks.rows)
        for name in names:
            con.register(f"there_{name}", workspace.lake.rows(workspace.table(name)))
            con.register(f"aside_{name}", quarantine_of(workspace, name))
            _by_id(con, clicks, name)
            _as_computed(con, name)
    return {name: multiset(workspace.lake.rows(workspace.table(name))) for name in names}


_LOG = "aside_{0} where _position is not null and reasons not in ('sold', 'not_k8')"
_PLACE = "(regexp_extract(_source, '[0-9]+$')::bigint * 1000000 + _position)"


def _by_id(con: duckdb.DuckDBPyConnection, clicks: Clicks, name: str) -> None:
    """Check that every input row is in the table, quarantined, or dropped by an expectation, exactly once."""
    if name == "kept":
        fates = f"""select id from there_kept union all select {_PLACE} from aside_kept
                    union all select id from log where key = 'k7' and {_READABLE}
                       and id not in (select {_PLACE} from aside_kept)"""
        duplicates = con.sql(f"select id, count(*) from ({fates}) group by id having count(*) > 1").fetchall()
        assert not duplicates, f"{name}: {duplicates[:5]} are duplicated"
        lost = con.sql(f"select id from log except select id from ({fates})").fetchall()
        assert not lost, f"{name}: {lost[:5]} are lost"
    if name == "minutes":
        quarantined = f"select {_PLACE} as id from {_LOG.format(name)}"
        (duplicates,) = con.sql(f"select count(*) - count(distinct id) from ({quarantined})").fetchall()[0]
        assert duplicates == 0
        windows = "select sum(n) from (select n from there_minutes union all select (\"row\"->>'n')::bigint from aside_minutes where reasons = 'not_k8')"
        (counted,) = con.sql(windows).fetchall()[0]
        (rejected,) = con.sql(f"select count(*) from ({quarantined})").fetchall()[0]
        assert counted + rejected == clicks.count * clicks.partitions, f"{counted} in windows, {rejected} quarantined"


_READABLE = "happened is not null and happened < timestamp '2090-01-01'"


def _as_computed(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """Check that the table equals its definition, written independently here, over the accepted rows."""
    rejected = (
        f"select {_PLACE} from {_LOG.format(name)}"
        if name in {"kept", "minutes"}
        else "select null::bigint where false"
    )
    con.execute(f"create or replace temp table read as from log where id not in ({rejected})")
    if name in {"below", "hours"}:
        con.execute("create or replace temp view kept as from there_kept")
    if name == "hours":
        con.execute(f"create or replace temp table late_hours as select {_PLACE} as id from aside_hours")
    expected = con.sql(EXPECTED[name]).to_arrow_table()
    there = con.sql(f"select {', '.join(expected.column_names)} from there_{name}").to_arrow_table()
    missing, unexpected = multiset(expected) - multiset(there), multiset(there) - multiset(expected)
    assert not missing, f"{name}: missing {sorted(missing)[:5]}"
    assert not unexpected, f"{name}: unexpected {sorted(unexpected)[:5]}"


class Follower:
    """A reader in a thread that checks that rows of a version are never missing in a later one."""

    def __init__(self, clicks: Clicks, names: Sequence[str] = TABLES, every_s: float = 0.02) -> None:
        self._workspace = clicks.workspace()
        self._reader = connect(filesystem=self._workspace.lake.storage.filesystem())
        self._con = self._reader.__enter__()
        self._names = names
        self._every_s = every_s
        self._stop = threading.Event()
        self._seen: dict[str, tuple[int, dict[str, int]]] = {}
        self.versions = 0
        self.wrong: list[str] = []
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self._reader.__exit__(None, None, None)
        assert not self.wrong, self.wrong

    def _follow(self) -> None:
        while not self._stop.wait(self._every_s):
            self._look()

    def _has_moved(self, removed: set[str], added: set[str]) -> bool:
        """Return whether all rows of the removed files are in the added files."""
        if not added:
            return False
        rows = "select * from read_parquet({})"
        lost = self._con.sql(
            f"{rows.format(sorted(removed))} except all {rows.format(sorted(added))} limit 1"
        ).fetchall()
        return not lost

    def _look(self) -> None:
        for name in self._names:
            table = self._workspace.table(name)
            number, known = self._seen.get(name, (-1, {}))
            try:
                newest = table.number()
                if newest is None or newest == number:
                    continue
                version = table.version()
                assert version is not None
                files = {file.uri: file.rows for file in version.files}
                removed = known.keys() - files.keys()
                if removed and self._has_moved(removed, files.keys() - known.keys()):
                    removed = set()  # small files were compacted
                if removed or version.number < number:
                    self.wrong.append(f"{name} {version.number}: {removed} of version {number} was removed")
                for file in version.files:
                    if (
                        file.uri not in known
                        and file.rows != self._con.sql(f"select count(*) from '{file.uri}'").fetchall()[0][0]
                    ):
                        self.wrong.append(f"{name} {version.number}: {file} is incomplete")
            except Exception as error:  # noqa: BLE001 - reported at the end
                self.wrong.append(f"{name}: {error!r}")
                continue
            self.versions += 1
            self._seen[name] = (version.number, files)
