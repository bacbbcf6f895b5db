"""The record log: durable, shared by processes, and without torn or lost records."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.connectors.json_text import one_line
from pipeline.connectors.spool.record_log import RecordLog, parts_of, record
from pipeline.core.errors import SourceError


def lines(*numbers: int) -> list[bytes]:
    return [record(1000 + n, {"n": n}, b'{"id": %d}' % n) for n in numbers]


def test_records_have_numbers(tmp_path):
    log = RecordLog(tmp_path / "log")
    assert log.extent() is None
    assert log.append(lines(0, 1)) == 0
    assert log.append([]) == 2
    assert log.append(lines(2)) == 2
    assert (log.extent().begin, log.extent().end) == (0, 3)
    assert log.records(1, 3) == lines(1, 2)
    assert log.records(2, 9) == lines(2)
    assert RecordLog(tmp_path / "log").extent() == log.extent()


def test_segments_end_when_they_are_full(tmp_path):
    log = RecordLog(tmp_path, segment_bytes=150)
    for n in range(9):
        log.append(lines(n))
    assert len(log.segments()) > 2
    assert log.records(0, 9) == lines(*range(9))
    assert log.records(3, 5) == lines(3, 4)
    assert [log.number_at(1000 + n) for n in range(10)] == list(range(10))
    assert log.number_at(0) == 0
    assert RecordLog(tmp_path / "none").number_at(5) == 0


def test_a_record_that_was_not_completely_written_is_removed(tmp_path):
    log = RecordLog(tmp_path)
    log.append(lines(0, 1))
    path = log.segments()[-1][1]
    with path.open("ab") as file:
        file.write(b'{"at":5,"size":')
    assert log.extent().end == 2
    assert log.records(0, 9) == lines(0, 1)
    assert RecordLog(tmp_path).append(lines(2)) == 2
    assert log.records(0, 9) == lines(0, 1, 2)
    path.write_bytes(b"torn")
    assert RecordLog(tmp_path).append(lines(7)) == 0
    assert RecordLog(tmp_path).records(0, 9) == lines(7)


def test_old_segments_are_removed_but_the_last_stays(tmp_path):
    log = RecordLog(tmp_path, segment_bytes=1)
    for n in range(3):
        log.append(lines(n), kept_s=100)
    for _, path in log.segments()[:2]:
        os.utime(path, (time.time() - 200,) * 2)
    log.append(lines(3), kept_s=100)
    assert (log.extent().begin, log.extent().end) == (2, 4)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=r"records cannot be written below .*file: got .*; check its space"):
        RecordLog(tmp_path / "file").append(lines(1))


def append_many(folder: Path, writer: int) -> None:
    log = RecordLog(folder, segment_bytes=2000)
    for n in range(100):
        log.append([record(1, {"w": writer, "n": n}, b"%d" % n)])


def test_processes_append_to_one_log(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=append_many, args=(tmp_path, writer)) for writer in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    log = RecordLog(tmp_path)
    found = [parts_of(line)[1] for line in log.records(0, 1000)]
    assert log.extent().end == len(found) == 200
    for writer in range(2):
        assert [each["n"] for each in found if each["w"] == writer] == list(range(100))


@given(
    at=st.integers(0, 1 << 50),
    fields=st.dictionaries(st.text(), st.none() | st.text() | st.integers()),
    body=st.binary(),
)
def test_a_record_keeps_its_parts(at, fields, body):
    line = record(at, fields, one_line(body))
    assert b"\n" not in line
    assert b"\r" not in line
    found_at, found_fields, found_body = parts_of(line)
    assert (found_at, found_fields) == (at, fields)
    assert found_body == one_line(body)
    json.loads(line)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b' {"a":\r\n 1.10} ', b'{"a":   1.10}'),
        (b"text", b'"text"'),
        (b"NaN", b'"NaN"'),
        (b"\xff", b'"base64:/w=="'),
        ("\u2028".encode(), b'"\\u2028"'),
        (b"[" * 100_000, None),
    ],
)
def test_bodies_as_one_line(body, expected):
    assert one_line(body) == (json.dumps(body.decode()).encode() if expected is None else expected)
