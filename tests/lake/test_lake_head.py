from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipeline.core.errors import ConflictError, StorageError
from pipeline.core.schema import Schema
from pipeline.lake import Commit, compact
from pipeline.lake.log import COMBINED_FILES, FOLDED, entries, fold
from pipeline.lake.log_files import entry_name
from pipeline.lake.log_maintenance import tidy
from pipeline.lake.manifests import manifest_name

SCHEMA = Schema.of({"a": "INTEGER", "p": "VARCHAR"})


class Stream:
    """Commits one row per epoch through one head."""

    def __init__(self, writer) -> None:
        self.writer, self.table = writer, writer.table
        self.head = self.table.head()

    def epoch(self, number, *, mode="append", rows=None, **more):
        files = self.writer.stage(rows or f"select {number}::integer as a, 'p' || {number % 2} as p", f"e{number}")
        manifest = self.writer.manifest(f"e{number}", mode, inputs={"offsets": number})
        return self.head.commit(manifest, files, SCHEMA, epoch=number, **more)

    def values(self, files):
        uris = [file.uri for file in files]
        return sorted(v for uri in uris for v in pa.parquet.read_table(uri, partitioning=None)["a"].to_pylist())


@pytest.fixture(params=[(), ("p",)], ids=["plain", "partitioned"])
def stream(writer, request) -> Stream:
    return Stream(writer("t", request.param))


def feed(table):
    reader = DeltaTable(table.storage.uri).load_cdf(starting_version=0)
    return sorted(pa.RecordBatchReader.from_stream(reader).read_all()["a"].to_pylist())


def test_epochs_are_committed_in_sequence(stream):
    assert (stream.head.number, stream.head.manifest_id, stream.head.epoch, stream.head.manifest) == (
        None,
        None,
        None,
        None,
    )

    assert [stream.epoch(n) for n in range(3)] == [0, 1, 2]

    reopened = stream.table.head()
    version = stream.table.version()
    for head in (stream.head, reopened):
        assert (head.number, head.epoch, head.manifest_id, head.manifest) == (
            2,
            2,
            version.manifest_id,
            version.manifest,
        )
    assert version.rows == 3


def test_epoch_is_committed_once(stream):
    assert [stream.epoch(0), stream.epoch(1), stream.epoch(1)] == [0, 1, 1]

    with pytest.raises(ConflictError, match="epoch 1 of 't' is already committed: got committed up to epoch 1"):
        stream.epoch(1, rows="select 7::integer as a, 'p1' as p", removed=frozenset(), mode="overwrite")
    assert stream.table.version().rows == 2


def test_second_of_two_heads_always_gets_a_conflict(stream):
    stream.epoch(0)
    zombie = Stream(stream.writer)
    stream.epoch(1)

    for number in (2, 3):
        with pytest.raises(ConflictError, match="another process committed 't'"):
            zombie.epoch(number)
    assert stream.epoch(2) == 2
    assert feed(stream.table) == [0, 1, 2]


def test_deleted_table_folder_is_a_storage_error(stream):
    stream.epoch(0)
    shutil.rmtree(stream.table.storage.uri)
    with pytest.raises((StorageError, ConflictError), match="'t'"):
        stream.epoch(1)


def test_incremental_reader_reads_no_row_twice_across_a_compaction(stream):
    #  version        0 … 7   8 compacted   9 … 16   17 compacted   18
    #  since 3        gets the rows of 4 … 7, 9 … 16 and 18, each once, whichever files hold them now
    marks = [(stream.epoch(n), stream.head.manifest_id) for n in range(8)]
    compacted = compact(stream.table, stream.head)
    assert (compacted.number, compacted.before) == (8, 8)
    marks += [(stream.epoch(n), stream.head.manifest_id) for n in range(8, 16)]
    before = stream.table.version()
    assert compact(stream.table, stream.head).number == 17
    marks.append((stream.epoch(16), stream.head.manifest_id))

    now = stream.table.version()
    assert now.rows == 17
    for epoch, (number, mark) in enumerate(marks):
        change = stream.table.change_since(number, mark, now)
        assert stream.values(change.added) == list(range(epoch + 1, 17)), f"since {number}"
        assert change.removed == ()
    assert stream.table.change_since(before.number, before.manifest_id, now).removed == ()
    assert feed(stream.table) == list(range(17))
    assert stream.values(now.files) == list(range(17))


def test_compaction_keeps_the_manifest_and_the_stream_continues(stream):
    for number in range(8):
        stream.epoch(number)
    before = stream.table.version()

    compacted = compact(stream.table, stream.table.head())  # another process, concurrent with the stream

    after = stream.table.version()
    assert (after.manifest_id, after.manifest, after.rows) == (before.manifest_id, before.manifest, before.rows)
    assert len(after.files) == compacted.after < len(before.files) == compacted.before
    assert stream.table.added_since(before.number, before.manifest_id, after) == ()
    assert stream.epoch(8) == after.number + 1
    assert compact(stream.table, stream.head) is None


def test_compaction_after_a_concurrent_commit_retries_or_gives_up(stream):
    for number in range(8):
        stream.epoch(number)
    late = stream.table.head()
    stream.epoch(8)

    with pytest.raises(ConflictError):
        compact(stream.table, late)
    assert stream.table.version().rows == 9


def test_removal_of_a_compacted_file_reaches_readers_of_its_parts(writer):
    stream = Stream(writer())
    known = [(stream.epoch(n), stream.head.manifest_id) for n in range(4)]
    compact(stream.table, stream.head)
    [file] = stream.table.version().files
    files = stream.writer.stage("select a, p from (values (0, 'p0'), (2, 'p0')) as t(a, p)", "merged")
    manifest = stream.writer.manifest("merged", "merge")
    number = stream.head.commit(manifest, files, SCHEMA, removed=frozenset({file.uri}))

    now = stream.table.version(number)
    change = stream.table.change_since(*known[1], now)  # the reader knew 0 and 1; 2 and 3 were added and removed since
    assert stream.values(change.added) == [0, 2]
    assert stream.values(change.removed) == [0, 1]
    assert stream.table.change_since(*known[3], now).removed != ()


def test_folded_log_still_contains_all_changes(writer):
    stream = Stream(writer())
    known = [(stream.epoch(n), stream.head.manifest_id) for n in range(30)]
    tidy(stream.table.place)
    known += [(stream.epoch(n), stream.head.manifest_id) for n in range(30, 60)]
    tidy(stream.table.place, versions=10)
    known += [(stream.epoch(n), stream.head.manifest_id) for n in range(60, 65)]

    log = [name for name in stream.table.storage.names("_delta_log/") if name.endswith("0.json") or ".json" in name]
    assert len(log) < 40
    now = stream.table.version()
    assert now.rows == 65
    for epoch in (0, 10, 29, 45, 63, 64):
        assert stream.values(stream.table.added_since(*known[epoch], now)) == list(range(epoch + 1, 65))
    assert stream.table.added_since(known[3][0], known[4][1], now) is None
    manifests = [name for name in stream.table.storage.names("_headwater/") if name.count("/") == 1]
    assert len(manifests) == len({stream.table.version(number).manifest_id for number in range(29, 65)}) == 36
    assert all(stream.table.version(number).manifest is not None for number in range(29, 65))
    with pytest.raises(StorageError, match="at version 3 cannot be read"):
        stream.table.version(3)


def test_only_the_newest_version_requires_its_manifest(stream):
    stream.epoch(0)
    first = stream.table.version()
    stream.epoch(1)
    stream.table.storage.remove([manifest_name(first.manifest_id)])

    assert stream.table.version(0).manifest is None
    stream.table.storage.remove([manifest_name(stream.head.manifest_id)])
    with pytest.raises(StorageError, match="the manifest of table 't' is missing"):
        stream.table.version(1)


def test_compaction_by_another_engine_is_reported_as_unknown(writer):
    stream = Stream(writer())
    known = [(stream.epoch(n), stream.head.manifest_id) for n in range(5)]
    DeltaTable(stream.table.storage.uri).optimize.compact()

    assert stream.epoch(5) == 6
    now = stream.table.version()
    assert now.rows == 6
    assert stream.table.change_since(*known[1], now) is None


def test_repeated_commit_of_a_manifest_id_has_no_effect(stream):
    stream.epoch(0)
    commit = Commit(stream.writer.stage("select 1::integer as a, 'p' as p", "x"), SCHEMA, "append", 7)
    assert [stream.head.commit_files(commit), stream.head.commit_files(commit)] == [1, 1]


def test_folded_files_are_combined_and_readers_beside_miss_nothing(writer):
    stream = Stream(writer())
    for n in range(60):
        stream.epoch(n)
    storage, ended = stream.table.storage, threading.Event()

    def read() -> int:
        reads = 0
        while not ended.is_set():
            assert [entry.number for entry in entries(storage, 0, 59)] == list(range(60))
            reads += 1
        return reads

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for n in range(60):
            fold(storage, n, n)
            storage.remove([entry_name(n)])
        ended.set()
        assert reading.result() > 0
    names = storage.names(FOLDED)
    assert len(names) <= COMBINED_FILES
    first = storage.read_bytes(names[0])
    assert first.count(b"\n") >= COMBINED_FILES
    storage.write_bytes(f"{FOLDED}{3:020}-{3:020}.jsonl", first.splitlines(keepends=True)[3])  # the process was killed
    assert [entry.added[0].rows for entry in entries(storage, 0, 59)] == [1] * 60
    storage.remove([names[0]])
    assert entries(storage, 0, 59) is None
