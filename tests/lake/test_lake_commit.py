from __future__ import annotations

import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from deltalake import DeltaTable
from deltalake import Schema as DeltaSchema

from pipeline.core.errors import ConflictError, OutcomeUnknownError, StorageError
from pipeline.core.schema import Schema
from pipeline.kernel.engine import connect
from pipeline.kernel.types import arrow_schema
from pipeline.lake import Commit, Lake, Storage, TableHead

ONE, TWO = "select 1 as a, 'x' as b", "select 2 as a, 'y' as b"


def test_missing_table_has_no_version(lake, writer):
    assert writer().table.version() is None
    with pytest.raises(StorageError, match="'t' does not exist yet; run the project first"):
        lake.rows(writer().table)


def test_create_append_and_overwrite(lake, writer):
    w = writer()
    first = w.write(ONE)
    second = w.write(TWO, "r2", "append", first)
    rows = lake.rows(w.table).sort_by("a").to_pylist()
    third = w.write("select 3 as a, 'z' as b", "r3", "overwrite", second)

    assert [v.number for v in (first, second, third)] == [0, 1, 2]
    assert [v.rows for v in (first, second, third)] == [1, 2, 1]
    assert rows == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert lake.rows(w.table).to_pylist() == [{"a": 3, "b": "z"}]
    assert third.schema == Schema.of({"a": "INTEGER", "b": "VARCHAR"})
    assert third.manifest is not None
    assert (third.manifest.run_id, third.manifest_id) == ("r3", third.manifest.manifest_id)


def test_overwrite_can_change_the_columns(lake, writer):
    w = writer()
    first = w.write(ONE)

    second = w.write("select 2.5::double as c, null::date as d", "r2", "overwrite", first)

    assert second.schema == Schema.of({"c": "DOUBLE", "d": "DATE"})
    assert lake.rows(w.table).to_pylist() == [{"c": 2.5, "d": None}]
    assert w.table.version(0) == first


def test_commit_without_rows_is_a_version_without_files(lake, writer):
    w = writer()
    version = w.write(f"{ONE} where false")

    assert (version.files, version.rows) == ((), 0)
    assert lake.rows(w.table).schema.names == ["a", "b"]
    assert w.write(ONE, "r2", "append", version).rows == 1
    emptied = w.write(f"{ONE} where false", "r3", "overwrite", w.table.version())
    assert emptied.rows == 0


def test_read_older_versions_while_available(writer):
    w = writer()
    first = w.write(ONE)
    w.write(TWO, "r2", "append", first)

    assert w.table.version(0) == first
    with pytest.raises(StorageError, match="'t' at version 7 cannot be read"):
        w.table.version(7)


def test_invalid_log_is_an_error(writer):
    w = writer()
    w.write(ONE)
    Path(w.table.storage.uri, "_delta_log", f"{0:020}.json").write_text("nonsense")

    with pytest.raises(StorageError, match="'t' cannot be read"):
        w.table.version()


def test_manifest_is_committed_once(writer):
    w = writer()
    files, schema = w.stage(ONE), Schema.of({"a": "INTEGER", "b": "VARCHAR"})
    first = w.table.commit(w.manifest(), files, schema, None)

    again = w.table.commit(w.manifest(), files, schema, None)

    assert again == first
    assert again.rows == 1


def test_second_of_two_writers_with_the_same_version_gets_a_conflict(lake, writer):
    w = writer()
    seen = w.write(ONE)
    w.write(TWO, "r2", "append", seen)

    with pytest.raises(
        ConflictError, match="another process committed 't' concurrently; this process did not change the table"
    ):
        w.write("select 9 as a, 'late' as b", "r3", "append", seen)
    assert lake.rows(w.table).num_rows == 2


def test_second_of_two_creators_gets_a_conflict(writer):
    w = writer()
    w.write(ONE)

    with pytest.raises(ConflictError):
        w.write(TWO, "r2", "overwrite", None)


def test_commit_between_check_and_write_is_a_conflict(lake, writer):
    """The table is opened, then another writer commits, and then the first one writes."""
    w = writer()
    seen = w.write(ONE)
    head = w.table.head()
    w.write(TWO, "r2", "append", seen)
    commit = Commit(w.stage("select 3 as a, 'z' as b", "r3"), seen.schema, "append", 333)

    for _ in range(2):
        with pytest.raises(ConflictError):
            head.commit_files(commit)
    assert lake.rows(w.table).num_rows == 2


class Unlucky(TableHead):
    """Commits, then triggers an event instead of returning."""

    def __init__(self, place, happens):
        super().__init__(place)
        self.happens = happens

    def _write(self, commit):
        super()._write(commit)
        if self.happens is not None:
            happens, self.happens = self.happens, None
            happens()


def fail():
    raise TimeoutError("no answer")


def test_lost_response_is_resolved_by_the_log(writer):
    w = writer()
    schema = w.write(ONE).schema
    head = Unlucky(w.table.place, fail)

    assert head.commit_files(Commit(w.stage(TWO, "r2"), schema, "append", 222)) == 1
    assert (head.number, head.manifest_id) == (1, 222)
    assert head.commit_files(Commit(w.stage(TWO, "r3"), schema, "append", 333)) == 2
    assert len(DeltaTable(w.table.storage.uri).history()) == 3


@pytest.mark.parametrize("killed", [True, False])
def test_quarantine_has_a_format_and_survives_a_kill_before_its_first_rows(lake, monkeypatch, killed):
    """It is created without rows, because Delta rejects custom properties together with rows; then the rows are added."""
    table, schema = lake.quarantine("t"), Schema.of({"a": "INTEGER"})
    with connect() as con:
        files = table.stager("r1").stage(con, "select 1::int as a", 0)

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if killed:
        with monkeypatch.context() as patch:
            patch.setattr(DeltaTable, "create_write_transaction", kill)
            with pytest.raises(KeyboardInterrupt):
                table.commit_files(Commit(files, schema, "append", 111), None)
        assert (table.version().rows, table.manifest_id()) == (0, None)
    assert table.commit_files(Commit(files, schema, "append", 111), table.version()).rows == 1
    assert table.commit_files(Commit(files, schema, "append", 111), table.version()).rows == 1
    assert DeltaTable(table.storage.uri).metadata().configuration["headwater.formatVersion"] == "2"


def test_second_of_two_creators_of_a_quarantine_gets_a_conflict(lake):
    schema = Schema.of({"a": "INTEGER"})
    first, second = lake.quarantine("t"), lake.quarantine("t")
    heads = first.head(), second.head()
    with connect() as con:
        files = [first.stager(f"r{n}").stage(con, f"select {n}::int as a", 0) for n in range(2)]
    DeltaTable.create(
        first.storage.uri,
        DeltaSchema.from_arrow(arrow_schema(schema)),
        configuration={"headwater.formatVersion": "2"},
        raise_if_key_not_exists=False,
    )
    assert heads[0].commit_files(Commit(files[0], schema, "append", 111)) == 1
    with pytest.raises(ConflictError):
        heads[1].commit_files(Commit(files[1], schema, "append", 222))


def test_lost_response_is_resolved_below_a_later_commit(lake, writer):
    """Another writer has committed on top: our commit is in the log, and the next one gets a conflict."""
    w = writer()
    w.table = replace(w.table, is_quarantine=True)
    schema = Schema.of({"a": "INTEGER", "b": "VARCHAR"})
    w.table.commit_files(Commit(w.stage(ONE), schema, "append", 111), None)

    def overtaken():
        w.table.head().commit_files(Commit(w.stage(ONE, "r9"), schema, "append", 999))
        raise TimeoutError("no answer")

    head = Unlucky(w.table.place, overtaken)

    assert (
        head.commit_files(Commit(w.stage(TWO, "r2"), schema, "append", 222)) == 2
    )  # version 0 contains only the properties
    with pytest.raises(ConflictError):
        head.commit_files(Commit(w.stage(TWO, "r3"), schema, "append", 333))
    assert lake.rows(w.table).num_rows == 3


def test_failed_commit_without_changes_is_reported_as_such(writer):
    w = writer()
    seen = w.write(ONE)

    class Away(TableHead):
        def _write(self, _commit):
            fail()

    with pytest.raises(StorageError, match=r"could not be committed: got no answer; nothing was changed; run again"):
        Away(w.table.place).commit_files(Commit((), seen.schema, "append", 7))
    assert w.table.version() == seen


def test_a_file_that_was_compacted_meanwhile_is_a_conflict(writer):
    w = writer()
    seen = w.write(ONE)
    commit = Commit((), seen.schema, "append", 7, removed=frozenset({"elsewhere"}))

    with pytest.raises(
        ConflictError, match=r"a file that should be replaced: got elsewhere; .*compacted it: run again"
    ):
        w.table.commit_files(commit, seen)
    assert w.table.version() == seen


def test_outcome_is_unknown_if_the_table_cannot_be_read_again(writer):
    w = writer()
    seen = w.write(ONE)
    log = Path(w.table.storage.uri, "_delta_log", f"{1:020}.json")
    texts = []

    def damaged():
        texts.append(log.read_text())
        log.write_text("nonsense")
        raise TimeoutError("no answer")

    head = Unlucky(w.table.place, damaged)
    commit = Commit(w.stage(TWO, "r2"), seen.schema, "append", 222)

    with pytest.raises(OutcomeUnknownError, match="was sent, but the table cannot be read to check the outcome"):
        head.commit_files(commit)
    with pytest.raises(StorageError, match="cannot be read"):
        head.commit_files(commit)
    log.write_text(texts[0])
    assert head.commit_files(commit) == 1  # the same head determines the outcome
    assert len(DeltaTable(w.table.storage.uri).history()) == 2


def test_uncommitted_files_are_invisible(lake, writer):
    w = writer()
    seen = w.write(ONE)
    w.stage(TWO, "crashed")  # and the process is killed here

    assert w.table.version() == seen
    assert lake.rows(w.table).num_rows == 1
    assert w.write(TWO, "r2", "append", seen).rows == 2


def test_restaged_split_has_the_same_file_names(writer):
    w, p = writer(), writer("p", ("b",))

    assert w.stage(ONE)[0].path == w.stage(ONE)[0].path == "part-r1-00000.parquet"
    assert p.stage(ONE)[0].path == p.stage(ONE)[0].path
    assert w.stage(f"{ONE} where false") == ()


def test_files_added_since_a_version(writer):
    #  version  0 create   1 append   2 append   3 overwrite   4 append
    #  since 0             1 file     2 files    more than     more than
    #  since 3                                                 1 file
    w = writer()
    versions = [w.write(ONE)]
    for number, mode in enumerate(["append", "append", "overwrite", "append"], start=1):
        versions.append(w.write(f"select {number} as a, 'n' as b", f"r{number + 1}", mode, versions[-1]))

    assert w.table.added_since(0, versions[0].manifest_id, versions[0]) == ()
    assert [f.rows for f in w.table.added_since(0, versions[0].manifest_id, versions[2])] == [1, 1]
    assert w.table.added_since(0, versions[0].manifest_id, versions[3]) is None
    assert w.table.added_since(0, versions[0].manifest_id, versions[4]) is None
    assert w.table.added_since(3, versions[3].manifest_id, versions[4]) == tuple(
        f for f in versions[4].files if f not in versions[3].files
    )
    assert w.table.added_since(4, versions[4].manifest_id, versions[3]) is None


def test_files_added_since_an_unavailable_version_are_unknown(writer):
    w = writer()
    first = w.write(ONE)
    second = w.write(TWO, "r2", "append", first)
    log = Path(w.table.storage.uri, "_delta_log")
    DeltaTable(w.table.storage.uri).create_checkpoint()
    (log / f"{0:020}.json").unlink()

    assert w.table.added_since(0, first.manifest_id, second) is None
    assert w.table.version() == second


def test_damaged_or_missing_manifest_is_an_error(writer):
    w = writer()
    version = w.write(ONE)
    path = Path(w.table.storage.uri, "_headwater", f"{version.manifest_id:016x}.json")
    text = path.read_text()

    path.write_text(text.replace('"r1"', '"r2"'))
    with pytest.raises(
        StorageError, match="the manifest of table 't' is damaged: got content that differs from what was committed"
    ):
        w.table.version()
    path.unlink()
    with pytest.raises(StorageError, match="the manifest of table 't' is missing"):
        w.table.version()
    path.write_text(text)
    assert w.table.version() == version


def test_quarantine_has_manifest_ids_but_no_manifests(lake, writer):
    w = writer()
    w.table = lake.quarantine("t")
    schema = Schema.of({"a": "INTEGER", "b": "VARCHAR"})
    commit = Commit(w.stage(ONE), schema, "append", 5, {"headwater.run": "r"})

    first = w.table.commit_files(commit, None)

    assert w.table.commit_files(commit, None) == first
    assert (first.manifest_id, first.manifest, first.rows) == (5, None, 1)
    assert DeltaTable(w.table.storage.uri).history()[0]["headwater.run"] == "r"


def test_exactly_one_of_many_concurrent_writers_commits(lake, writer):
    seen = writer().write(ONE)
    start = threading.Barrier(4)

    def race(number: int) -> str:
        w = writer()
        files = w.stage(TWO, f"race{number}")
        start.wait()
        try:
            w.table.commit(w.manifest(f"race{number}", "append"), files, seen.schema, seen)
        except ConflictError:
            return "conflict"
        return "won"

    with ThreadPoolExecutor(4) as pool:
        outcomes = sorted(pool.map(race, range(4)))

    assert outcomes == ["conflict", "conflict", "conflict", "won"]
    assert lake.rows(writer().table).num_rows == 2


def test_folder_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    table = Lake(Storage(str(tmp_path / "file" / "lake"))).table("silver", "t")

    with pytest.raises(StorageError, match=r"cannot create the folder .*: got Not a directory"):
        table.storage.make()
    with pytest.raises(StorageError, match=r"cannot write 'm.json' below .*check its space and permissions"):
        table.storage.write_text("m.json", "{}")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = (
        os.name == "posix"
        and os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("partition_by", [(), ("p",)])
def test_full_disk_is_an_error_and_the_last_version_is_kept(small_disk, writer, partition_by):
    w = writer()
    w.table = Lake(Storage(str(small_disk / "lake"))).table("silver", "t", partition_by=partition_by)
    seen = w.write("select 1 as a, 'x' as p")

    with pytest.raises(
        StorageError, match=r"cannot write below .*check its space and permissions; nothing was committed"
    ):
        w.write("select i as a, i % 2 || 'p' as p, uuid() as u from range(300000) t(i)", "r2", "overwrite", seen)
    (small_disk / "filler").write_bytes(b"0" * 300_000)
    while True:  # fill the remaining space
        try:
            with (small_disk / "filler").open("ab") as file:
                file.write(b"0" * 4096)
        except OSError:
            break
    with pytest.raises(StorageError, match="No space left"):
        w.table.commit(w.manifest("r3"), (), seen.schema, seen)

    assert w.table.version() == seen
