"""Old fetches in spools are removed, in folders and in object stores; what is new, and the logs of messages, stay."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.connectors.spool.old_fetches import old_fetches, remove_old_fetches
from pipeline.connectors.spool.segments import SegmentWriter, Spool
from pipeline.core.errors import SourceError
from tests.rigs.weed import KEY, SECRET

LATER = timedelta(days=3, seconds=30)


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path, monkeypatch):
    if request.param == "folder":
        return str(tmp_path / "spool")
    store = request.getfixturevalue("s3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return f"s3://lake/spool-{time.time_ns()}"


def fetched(location: str) -> str:
    """Write a fetch of one segment; return its name."""
    writer = SegmentWriter(Spool(location), "https://api.example.com/orders", 0)
    writer.add([b'{"id": 1}'], "GET /orders")
    writer.end_segment()
    return writer.splits[0].source_object.stamp.partition("/")[0]


def test_fetches_are_removed_when_they_are_old(place):
    names = [fetched(f"{place}/{definition}") for definition in ("now", "before")]
    Spool(place).write("messages/0/00000000.log", b"the source of truth")
    now = datetime.now(UTC)
    assert old_fetches(place, now) == {}
    planned = old_fetches(place, now + LATER)
    endings = [f"now/{names[0]}/000000.{kind}" for kind in ("ndjson", "requests")]
    endings += [f"before/{names[1]}/000000.{kind}" for kind in ("ndjson", "requests")]
    assert sorted(path[path.index("/spool") :].partition("/")[2].partition("/")[2] for path in planned) == sorted(endings)  # fmt: skip
    assert set(planned.values()) == {10, 20}
    assert remove_old_fetches(place, now + LATER) == planned
    assert remove_old_fetches(place, now + LATER) == {}
    with Spool(place).path("messages/0/00000000.log") as path:
        assert Path(path).read_bytes() == b"the source of truth"


def test_a_fetch_stays_while_one_of_its_files_is_new(tmp_path):
    name = fetched(str(tmp_path))
    old = time.time() - 4 * 86400
    os.utime(tmp_path / name / "000000.ndjson", (old, old))
    assert old_fetches(str(tmp_path), datetime.now(UTC)) == {}
    os.utime(tmp_path / name / "000000.requests", (old, old))
    assert len(remove_old_fetches(str(tmp_path), datetime.now(UTC))) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_spool_that_does_not_exist_or_cannot_be_listed(tmp_path):
    assert old_fetches(str(tmp_path / "none"), datetime.now(UTC)) == {}
    with pytest.raises(SourceError, match=r"old fetches of a spool cannot be removed: got .*nosuch.*check spool="):
        remove_old_fetches("nosuch://spool", datetime.now(UTC))
