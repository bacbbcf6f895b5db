"""The number of requests to an object store, which determines how long a run or an epoch takes with a distant store."""

from __future__ import annotations

import itertools
import pickle
import shutil
import socket
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import disk_cache
from pipeline.core.disk_cache import DiskCache
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest
from pipeline.kernel.engine import connect, one
from pipeline.kernel.pool import close_idle
from pipeline.lake import Lake, LakeTable, log_copies
from pipeline.lake.log_copies import LogCopies
from pipeline.lake.object_files import KeptFiles, ObjectFiles
from pipeline.lake.s3_client import ASKED_BYTES
from pipeline.project import Workspace, load
from pipeline.runner import Runner
from pipeline.runner.dry_run import RunOptions
from pipeline.streaming.runtime.job import catch_up
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from tests.rigs.proxy import Fault, Proxy, Rule, proxied

SCHEMA = Schema.of({"a": "INTEGER"})
TABLES = 6
OF_A_RUN = 5
"""Requests of a run that do not belong to a table: its note, runs that were killed, and the end."""
DEFINITIONS = (
    "from pipeline import files, source, sql\n"
    'raw = source(files("data/*.csv"), schema={"a": "bigint"})\n'
    'clicks = source(files("clicks/*.csv"), schema={"at": "timestamp"}, event_time="at", stored=False)\n'
    "minutes = sql(\"select tumble(at, interval '1 minute') as minute, count(*) as n from clicks group by all\")\n"
    + "".join(f't{n} = sql("select a + {n} as a from raw", key="a")\n' for n in range(1, TABLES))
)


@pytest.fixture(scope="module")
def proxy(s3):
    with proxied(s3.port) as s3_proxy:
        yield s3_proxy


@pytest.fixture
def table(s3, proxy) -> LakeTable:
    proxy.latency_s = proxy.jitter_s = 0.0
    return Lake(s3.storage(uuid.uuid4().hex, port=proxy.port)).table("silver", "t")


def requests(proxy: Proxy, work, pattern: str = "") -> int:
    """Return how many requests some work takes."""
    before = len(proxy.seen)
    work()
    return sum(pattern in seen.path for seen in proxy.seen[before:])


def stage(table: LakeTable, n: int, value: str = ""):
    """Stage one row, or 20,000 of an expression."""
    rows = f"select {value or n}::integer as a from range({20_000 if value else 1})"
    with connect(filesystem=table.storage.filesystem()) as con:
        return table.stager(f"r{n}").stage(con, rows, 0)


def manifest_of(n: int) -> Manifest:
    return Manifest(table="t", run_id=f"r{n}", fingerprint="f", mode="append")


@pytest.mark.proof
def test_commits_of_an_open_table_take_as_many_requests_in_a_long_log(table, proxy):
    head, counts = table.head(), []
    for n in range(12):
        files = stage(table, n)
        counts.append(requests(proxy, lambda n=n, files=files: head.commit(manifest_of(n), files, SCHEMA, epoch=n)))
    assert counts == [2] * 12, "its manifest and its entry"
    assert (head.number, head.epoch, table.version().rows) == (11, 11, 12)


def test_reading_small_files_takes_one_request_each(table, proxy):
    for n in range(3):
        table.commit(manifest_of(n), stage(table, n), SCHEMA, table.version())
    storage = table.storage
    assert requests(proxy, lambda: storage.read_bytes("_delta_log/00000000000000000000.json")) == 1
    assert requests(proxy, lambda: storage.read_existing(["_delta_log/00000000000000000000.json", "none"])) == 2
    assert requests(proxy, lambda: storage.names("_nothing/")) == 1
    assert requests(proxy, table.number) == 1

    def rows() -> None:
        assert Lake(storage).rows(table).num_rows == 3

    assert requests(proxy, rows, ".parquet") <= 2 * 3
    assert requests(proxy, rows, ".parquet") == 0


@pytest.mark.parametrize(("size", "asks"), [(0, False), (1, False), (ASKED_BYTES, True)])
def test_small_files_take_one_round_trip(s3, size, asks):
    """What is large is announced first, and sent when the store agrees."""
    received = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += client.recv(1 << 16)
                received.append(b"expect: 100-continue" in head.lower())
                if received[0]:
                    client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = len(head.partition(b"\r\n\r\n")[2])
                while body < size:
                    body += len(client.recv(1 << 16))
                client.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "e"\r\nConnection: close\r\n\r\n')

        answering = threading.Thread(target=answer)
        answering.start()
        s3.storage("place", port=server.getsockname()[1]).write_bytes("name", b"x" * size)
        answering.join()
    assert received == [asks]


def test_a_file_that_is_written_again_is_read_again(table):
    filesystem = table.storage.filesystem()
    path = f"{table.storage.uri}/part-0.parquet"
    for content in (b"first", b"the second"):
        with filesystem.open(path, "wb") as file:
            file.write(content)
        with filesystem.open(path, "rb") as file:
            assert file.read() == content
        assert filesystem.info(path)["size"] == len(content)
    filesystem.rm_file(path)
    assert not filesystem.exists(path)
    assert not filesystem.isdir(path)


def test_kept_files_are_bounded(monkeypatch):
    monkeypatch.setattr("pipeline.lake.object_files.MOST_BYTES", 10)
    monkeypatch.setattr("pipeline.lake.object_files.MOST_FILES", 2)
    kept = KeptFiles()
    for name in "abc":
        kept.describe(name, {"size": 4})
        kept.fill(name, b"1234")
        assert kept.content("a") == (b"1234" if name < "c" or kept.content("a") else None)
    assert [kept.content(name) for name in "abc"] == [b"1234", None, b"1234"]
    assert [kept.info(name) is not None for name in "abc"] == [False, True, True]
    kept.forget("a")
    kept.fill("d", b"123456")
    assert [kept.content(name) is not None for name in "acd"] == [False, True, True]
    kept.forget(None)
    assert kept.content("c") is None


@pytest.fixture
def project(s3, proxy, tmp_path) -> Path:
    proxy.latency_s = proxy.jitter_s = 0.0
    lake = s3.environment(tmp_path, uuid.uuid4().hex, port=proxy.port)
    (tmp_path / "headwater.toml").write_text(f'[project]\nname = "p"\ndefinitions = "p.py"\n{lake}')
    (tmp_path / "p.py").write_text(DEFINITIONS)
    for folder, text in (("data", "a\n1\n2\n"), ("clicks", "at\n2026-01-01 00:00:00\n2026-01-01 00:05:00\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.csv").write_text(text)
    return tmp_path


@pytest.mark.proof
def test_a_run_has_a_budget_of_requests(project, proxy):
    def run() -> None:
        assert not any(step.has_failed for step in Runner(load(project), RunOptions()).run().steps)

    assert requests(proxy, run) <= 7 * TABLES + OF_A_RUN
    assert requests(proxy, run) <= 2 * TABLES + OF_A_RUN
    (project / "data" / "1.csv").write_text("a\n7\n8\n")
    assert requests(proxy, run) <= 7 * TABLES + OF_A_RUN + 5


def test_a_second_process_reads_no_data_that_is_cached(project, proxy, monkeypatch):
    """It lists the logs, and reads log, manifests and rows from the disk."""
    monkeypatch.setattr(disk_cache, "_here", [])
    Runner(load(project), RunOptions(select=("raw", "t1"))).run()
    shutil.rmtree(project / ".headwater" / "cache")

    def query() -> None:
        """Query as a process does that has nothing in memory."""
        monkeypatch.setattr(log_copies, "_copies", LogCopies())
        close_idle()
        workspace = Workspace(load(project))
        workspace.lake.storage.filesystem().invalidate_cache()
        rows = workspace.query("select count(*) as n, max(a) as s from raw join t1 using (a)")
        assert rows.to_pylist() == [{"n": 1, "s": 2}]

    assert requests(proxy, query) == 2 * len(("log", "entry", "manifest", "rows"))
    assert requests(proxy, query) == 2 * len(("log",))


def test_blocks_of_large_files_are_cached(table, proxy, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.lake.object_files.SMALL_BYTES", 1 << 12)
    monkeypatch.setattr(disk_cache, "_here", [DiskCache(tmp_path, 1 << 24)])
    table.commit(manifest_of(0), stage(table, 0, "(1000000 * random())"), SCHEMA, None)
    version = table.version()
    assert version.files[0].size_bytes > 10 << 12

    def total() -> int:
        table.storage.filesystem().invalidate_cache()
        table.storage.know(version.files)
        with connect(filesystem=table.storage.filesystem(), keep=False) as con:
            return one(con, f"select sum(hash(a)) from ({version.scan().query()})")[0]

    sums = []
    assert requests(proxy, lambda: sums.append(total()), ".parquet") > 0
    assert requests(proxy, lambda: sums.append(total()), ".parquet") == 0
    assert sums[0] == sums[1]


@pytest.mark.parametrize("is_here", [True, False], ids=["the driver's machine", "another machine"])
def test_workers_of_ray_use_the_cache_of_their_machine(table, proxy, tmp_path, monkeypatch, is_here):
    """A worker gets the filesystem with a task: it knows the sizes of committed files, and where to cache them."""
    monkeypatch.setattr(disk_cache, "_here", [DiskCache(tmp_path / "project", 1 << 24)])
    monkeypatch.setenv("HEADWATER_TMP", str(tmp_path / "tmp"))
    table.commit(manifest_of(0), stage(table, 0), SCHEMA, None)
    table.storage.filesystem().invalidate_cache()
    query, sent = table.version().scan().query(), pickle.dumps(table.storage.filesystem())
    if not is_here:
        monkeypatch.setattr(disk_cache, "machine", lambda: "another")

    def read() -> None:
        monkeypatch.setattr(disk_cache, "_here", [])
        ObjectFiles.clear_instance_cache()
        with connect(filesystem=pickle.loads(sent), keep=False) as con:  # noqa: S301 - our own
            assert one(con, query) == (0,)

    assert requests(proxy, read, ".parquet") == 1
    assert requests(proxy, read, ".parquet") == 0
    assert (tmp_path / "tmp" / "cache").is_dir() is not is_here


def test_a_process_without_a_cache_gives_none_to_its_workers(table, monkeypatch):
    monkeypatch.setattr(disk_cache, "_here", [])
    pickle.loads(pickle.dumps(table.storage.filesystem()))  # noqa: S301 - our own
    assert disk_cache.cache_here() is None


def test_a_step_computes_while_its_note_is_written(table, proxy):
    """The note of what is staged is there when the step calls for it, which it does before it commits."""
    lake = Lake(replace(table.storage, uri=table.storage.uri.removesuffix("/silver/t")))
    proxy.latency_s = 0.4
    begun = time.perf_counter()
    with lake.staging(table, "r", None, meanwhile=True) as noted:
        assert time.perf_counter() - begun < 0.4
        assert noted() == "staging/silver/t/-1"
        assert time.perf_counter() - begun >= 0.4
        proxy.latency_s = 0.0
        assert len([name for name in lake.storage.names() if name.endswith("r/staging/silver/t/-1")]) == 1


def test_a_step_whose_note_cannot_be_written_does_not_commit(project, proxy):
    proxy.rule(Rule("PUT", "staging/silver/t1", Fault.REFUSE, 403, times=1000))
    run = Runner(load(project), RunOptions(select=("raw", "t1"))).attempt()
    proxy.rule()
    assert [(step.name, step.has_failed) for step in run.steps] == [("raw", False), ("t1", True)]
    assert Workspace(load(project)).version("t1") is None


def test_a_stream_has_a_budget_of_requests(project, proxy):
    options = StreamOptions(intervals=Intervals(batch_s=0, commit_s=0, idle_commit_s=0), shards=1)
    catch_up(Workspace(load(project)), ("minutes",), options)
    counts = []
    for n in range(1, 4):
        (project / "clicks" / f"{n}.csv").write_text(f"at\n2026-01-01 0{n}:00:00\n2026-01-01 0{n}:05:00\n")
        counts.append(requests(proxy, lambda: catch_up(Workspace(load(project)), ("minutes",), options)))
    assert counts[0] <= 48, counts
    assert max(later - before for before, later in itertools.pairwise(counts)) <= 14, counts


@pytest.mark.proof
def test_an_epoch_commits_within_a_second_of_a_distant_store(table, proxy):
    """Each request takes 30 to 50 ms."""
    head, seconds = table.head(), []
    proxy.latency_s, proxy.jitter_s = 0.03, 0.02
    for n in range(60):
        began = time.perf_counter()
        head.commit(manifest_of(n), stage(table, n), SCHEMA, epoch=n)
        seconds.append(time.perf_counter() - began)
    proxy.latency_s = proxy.jitter_s = 0.0
    assert sorted(seconds)[len(seconds) // 2] < 1.0, seconds
