"""An object store that loses responses, rejects or delays requests: a commit is applied once or reported as failed."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipeline.core.errors import ConflictError, HeadwaterError, OutcomeUnknownError, StorageError
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest, StagedFile
from pipeline.kernel.engine import connect
from pipeline.lake import Lake, LakeTable, Version, compact
from tests.rigs.proofs import PROOFS
from tests.rigs.proxy import Fault, Rule, proxied

SCHEMA = Schema.of({"a": "INTEGER"})
LOG = r"/_delta_log/\d{20}\.json$"
QUICK = {"max_retries": "1", "timeout": "1s"}
"""The client's retries; it then sends a request four times at most, within seconds."""
TIMES = (1, 2, 3) if PROOFS else (1,)

every = pytest.mark.skipif(not PROOFS, reason="make proofs runs it")


@pytest.fixture(scope="session")
def proxy(s3):
    with proxied(s3.port) as s3_proxy:
        yield s3_proxy


@pytest.fixture
def table(s3, proxy, request) -> LakeTable:
    proxy.rule()
    name = request.node.name.replace("[", "-").replace("]", "").replace(" ", "")
    return Lake(s3.storage(name, port=proxy.port, DIRECT=s3.endpoint, **QUICK)).table("silver", "t")


def stage(table: LakeTable, value: int) -> tuple[StagedFile, ...]:
    with connect(filesystem=table.storage.filesystem()) as con:
        return table.stager(f"r{value}").stage(con, f"select {value}::integer as a", 0)


def commit(table: LakeTable, value: int, seen: Version | None) -> Version:
    manifest = Manifest(table="t", run_id=f"r{value}", fingerprint="f", mode="append")
    return table.commit(manifest, stage(table, value), SCHEMA, seen)


def values(table: LakeTable) -> list[int]:
    return sorted(Lake(table.storage).rows(table)["a"].to_pylist())


def changes(table: LakeTable) -> list[tuple[int, int]]:
    """Return the version and value of each insert in the change data feed, which has no deletes.

    The feed is read without the proxy, which runs in a thread of this process that reading the feed would block.
    """
    direct = {**table.storage.options, "AWS_ENDPOINT_URL": table.storage.options["DIRECT"]}
    changes_reader = DeltaTable(table.storage.uri, storage_options=direct).load_cdf(starting_version=0)
    feed = pa.RecordBatchReader.from_stream(changes_reader).read_all()
    assert set(feed["_change_type"].to_pylist()) == {"insert"}
    return sorted(zip(feed["_commit_version"].to_pylist(), feed["a"].to_pylist(), strict=True))


LOST = [
    pytest.param(Rule("PUT", LOG, Fault.LIE, status=500), id="500"),
    pytest.param(Rule("PUT", LOG, Fault.LIE, status=503), id="503", marks=every),
    pytest.param(Rule("PUT", LOG, Fault.DROP), id="dropped", marks=every),
    pytest.param(Rule("PUT", LOG, Fault.HANG), id="no answer"),
]


@pytest.mark.parametrize("rule", LOST)
@pytest.mark.parametrize("number", [pytest.param(0, marks=every), 1])
@pytest.mark.fault(4, 5)
def test_a_lost_response_causes_no_second_commit(table, proxy, rule, number):
    """Rows 4 and 5: the write to the log is applied, for the first version and for a later one."""
    seen = None if number == 0 else commit(table, 0, None)
    proxy.rule(rule)

    version = commit(table, number, seen)

    assert proxy.faults("PUT", LOG) >= 1
    assert (version.number, version.rows) == (number, number + 1)
    assert table.version() == version
    assert changes(table) == [(n, n) for n in range(number + 1)]


@pytest.mark.parametrize("status", [503, pytest.param(409, marks=every), pytest.param(500, marks=every)])
@pytest.mark.parametrize("times", TIMES)
@pytest.mark.fault(6)
def test_a_short_series_of_store_errors_is_retried(table, proxy, status, times):
    """Row 6."""
    first = commit(table, 0, None)
    proxy.rule(Rule("PUT", LOG, Fault.REFUSE, status=status, times=times))

    assert commit(table, 1, first).number == 1
    assert changes(table) == [(0, 0), (1, 1)]


@pytest.mark.parametrize("status", [412, pytest.param(503, marks=every), pytest.param(409, marks=every)])
@pytest.mark.fault(6)
def test_a_long_series_of_store_errors_raises_and_changes_nothing(table, proxy, status):
    """Row 6: retries are bounded; after the faults end, the same commit succeeds."""
    first = commit(table, 0, None)
    proxy.rule(Rule("PUT", LOG, Fault.REFUSE, status=status, times=1000))

    with pytest.raises((StorageError, OutcomeUnknownError)) as raised:
        commit(table, 1, first)

    known = (
        r"could not be committed: got .*; nothing was changed; run again"  # a 503 may hide a request without response
    )
    unknown = r"was sent and not answered: got .*; run again when the store answers"
    assert re.search(unknown if status == 503 else known, str(raised.value))
    assert 1 <= proxy.faults("PUT", f"{table.storage.uri.rpartition('/')[0][5:]}.*{LOG}") <= 20
    assert table.version() == first
    proxy.rule()
    assert commit(table, 1, first).number == 1
    assert changes(table) == [(0, 0), (1, 1)]


@pytest.mark.fault(5)
def test_an_unknown_outcome_is_reported_and_resolved_later(table, proxy):
    """Row 5: the commit is applied, its response is lost, and then the store cannot be read."""
    first = commit(table, 0, None)
    files = stage(table, 1)
    manifest = Manifest(table="t", run_id="r1", fingerprint="f", mode="append")
    storm = (
        Rule("PUT", LOG, Fault.REFUSE, status=503, times=1000),
        Rule("GET", "_delta_log", Fault.REFUSE, status=503, times=1000),
    )
    proxy.rule(Rule("PUT", LOG, Fault.LIE, status=500, then=storm))

    with pytest.raises(OutcomeUnknownError, match="was sent, but the table cannot be read to check the outcome"):
        table.commit(manifest, files, SCHEMA, first)

    proxy.rule()
    assert table.commit(manifest, files, SCHEMA, first).number == 1
    assert changes(table) == [(0, 0), (1, 1)]


def race(writers: int, work: Callable[[int], Version]) -> tuple[list[Version], list[HeadwaterError]]:
    together = threading.Barrier(writers)

    def one(number: int) -> Version | HeadwaterError:
        together.wait()
        try:
            return work(number)
        except HeadwaterError as error:
            return error

    with ThreadPoolExecutor(writers) as pool:
        outcomes = list(pool.map(one, range(writers)))
    return [v for v in outcomes if isinstance(v, Version)], [e for e in outcomes if isinstance(e, HeadwaterError)]


@pytest.mark.parametrize("disturbed", [pytest.param(False, marks=every, id="calm"), pytest.param(True, id="disturbed")])
@pytest.mark.parametrize("created", [pytest.param(False, id="append"), pytest.param(True, marks=every, id="create")])
@pytest.mark.fault(6, 8)
def test_one_of_racing_writers_wins(table, proxy, created, disturbed):
    """Also with lost responses: a winner without a response detects its success."""
    seen = None if created else commit(table, 0, None)
    first = 0 if created else 1
    files = [stage(table, 10 + n) for n in range(4)]
    if disturbed:
        proxy.rule(Rule("PUT", LOG, Fault.LIE, status=500, times=2), Rule("PUT", LOG, Fault.DROP, times=1))

    def work(number: int) -> Version:
        manifest = Manifest(table="t", run_id=f"w{number}", fingerprint="f", mode="append")
        return table.commit(manifest, files[number], SCHEMA, seen)

    won, lost = race(4, work)

    assert len(won) == 1
    assert {type(error) for error in lost} == {ConflictError}
    assert won[0].number == first
    assert table.version() == won[0]
    assert len(changes(table)) == first + 1


@pytest.mark.fault(3)
@every
def test_staged_files_are_invisible_until_they_are_committed(table):
    """Row 3: the writer dies after staging."""
    first = commit(table, 0, None)
    stage(table, 1)

    assert table.version() == first
    assert values(table) == [0]
    assert commit(table, 2, first).rows == 2
    assert changes(table) == [(0, 0), (1, 2)]


@every
@pytest.mark.fault(4, 5, 6)
def test_a_hundred_commits_with_store_errors(table, proxy):
    """Every third write to the log has a different fault; each commit is applied once."""
    kinds = (
        Rule("PUT", LOG, Fault.LIE, status=500),
        Rule("PUT", LOG, Fault.DROP),
        Rule("PUT", LOG, Fault.REFUSE, status=503, times=2),
        Rule("PUT", LOG, Fault.REFUSE, status=409),
        Rule("GET", "_delta_log", Fault.REFUSE, status=503, times=2),
        Rule("PUT", "_headwater", Fault.REFUSE, status=503),
    )
    version = None
    for value in range(100):
        proxy.rule(*([kinds[value // 3 % len(kinds)]] if value % 3 == 0 else []))
        version = commit(table, value, version)
    assert values(table) == list(range(100))
    assert changes(table) == [(n, n) for n in range(100)]


@pytest.mark.proof
def test_a_stream_continues_during_compaction_and_lost_responses(table, proxy):
    """Row 29 on an object store: another process compacts between the epochs, and responses to both are lost."""
    head = table.head()
    for epoch in range(6):
        proxy.rule(*([Rule("PUT", LOG, Fault.LIE, status=500)] if epoch % 2 else []))
        if epoch == 4:
            assert compact(table, table.head()).before == 4
        manifest = Manifest(table="t", run_id=f"r{epoch}", fingerprint="f", mode="append")
        head.commit(manifest, stage(table, epoch), SCHEMA, epoch=epoch)

    assert (head.number, head.epoch) == (6, 5)
    assert values(table) == list(range(6))
    assert [value for _, value in changes(table)] == list(range(6))


@every
@pytest.mark.parametrize("work", ["append", "compact"])
@pytest.mark.fault(5)
def test_a_commit_that_is_applied_late_has_its_files(table, proxy, work):
    """Row 5: the writer has given up when the store applies its first request."""
    version = None
    for value in range(4):
        version = commit(table, value, version)
    before = version.number
    refused = Rule("PUT", LOG, Fault.REFUSE, status=503, times=1000)
    proxy.rule(Rule("PUT", LOG, Fault.DELAY, delay_s=15.0, then=(refused,)))

    with pytest.raises(OutcomeUnknownError, match="was sent and not answered"):
        compact(table, table.head()) if work == "compact" else commit(table, 4, version)

    assert table.number() == before, "it was applied early, so the test shows nothing"
    proxy.rule()
    until = time.monotonic() + 30
    while table.number() == before and time.monotonic() < until:
        time.sleep(0.1)
    assert values(table) == list(range(5 if work == "append" else 4))
