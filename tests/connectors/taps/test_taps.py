"""Singer taps and Airbyte connectors: programs of the test suite, and real ones where they are installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.connectors.json_schema import columns_of
from pipeline.connectors.taps.commands import Program
from pipeline.connectors.taps.messages import of_airbyte, of_singer
from pipeline.connectors.taps.source import airbyte_messages, singer
from pipeline.core.cursors import Bound, Cursor
from pipeline.core.errors import DefinitionError, SourceError
from pipeline.core.processes import is_running
from tests.rigs.proofs import examples

PROGRAM = [sys.executable, str(Path(__file__).parents[2] / "rigs" / "tap_program.py")]
KINDS = [singer, airbyte_messages]
both = pytest.mark.parametrize("kind", KINDS, ids=["singer", "airbyte"])


class Tap:
    """A program whose records are written to a file."""

    def __init__(self, folder: Path) -> None:
        self.file, self.spool = folder / "items.jsonl", str(folder / "spool")
        self.file.touch()

    def add(self, *numbers: int) -> None:
        with self.file.open("a") as file:
            file.writelines(f'{{"id": {n}, "name": "n{n}", "at": "2026-03-01T00:00:0{n}Z"}}\n' for n in numbers)

    def reader(self, kind, *, options: dict[str, Any] | None = None, **config: Any):
        return kind(PROGRAM, "items", config={"file": str(self.file), **config}, spool=self.spool, **(options or {}))


@pytest.fixture
def tap(tmp_path):
    made = Tap(tmp_path)
    made.add(1, 2, 3)
    return made


def ids(reader, plan) -> list[int]:
    found = []
    for split in plan.splits:
        with reader.segments.path(split.source_object.stamp + ".ndjson") as path:
            found += [json.loads(line)["id"] for line in Path(path).read_text().splitlines()]
    return found


def kept(cursor: Cursor) -> Cursor:
    return Cursor(cursor.kind, json.loads(json.dumps(cursor.value)))


@both
def test_the_state_is_the_cursor(tap, kind):
    reader = tap.reader(kind)
    plan = reader.plan(None)
    assert ids(reader, plan) == [1, 2, 3]
    tap.add(4)
    assert ids(reader, reader.plan(kept(plan.cursor))) == [3, 4]  # the program repeats the last record


@both
def test_repeated_records_are_dropped_with_a_cursor(tap, kind):
    reader = tap.reader(kind, options={"cursor": "at"})
    plan = reader.plan(None)
    assert reader.plan(kept(plan.cursor)).splits == ()
    tap.add(4, 5)
    assert ids(reader, reader.plan(kept(plan.cursor))) == [4, 5]


@both
def test_a_limited_run_ends_the_program_after_a_state(tap, kind):
    tap.add(4, 5)
    reader = tap.reader(kind, options={"cursor": "at"})
    plan = reader.plan(None, Bound(rows=1))
    assert (ids(reader, plan), plan.has_more) == ([1, 2], True)
    plan = reader.plan(kept(plan.cursor), Bound(rows=1))
    assert ids(reader, plan) == [3, 4]
    assert ids(reader, reader.plan(kept(plan.cursor))) == [5]


@both
def test_a_program_that_fails(tap, kind, monkeypatch):
    monkeypatch.setenv("TAP_PASSWORD", "s3cret-0815")
    reader = tap.reader(kind, break_at=2, password="env:TAP_PASSWORD")  # noqa: S106 - a reference
    with pytest.raises(SourceError, match=r"failed with status 3: got cannot log in with \*\*\*"):
        reader.plan(None)
    assert "s3cret" not in repr(reader)
    assert not [path for path in Path(tap.spool).rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


@both
def test_a_message_that_is_not_valid(tap, kind):
    with pytest.raises(SourceError, match=r"a message is not valid: got .*, in '\{\"type\": \"RECORD\", \"stream\"'"):
        tap.reader(kind, garbage_at=1).plan(None)


@both
def test_all_records_each_time(tap, kind):
    options = {"full": True} if kind is singer else {"sync_mode": "full_refresh"}
    reader = tap.reader(kind, options=options)
    plan = reader.plan(None)
    assert ids(reader, plan) == [1, 2, 3]
    assert reader.plan(kept(plan.cursor)).splits == ()
    tap.add(4)
    again = reader.plan(kept(plan.cursor))
    assert again.changed == f"{reader.uri} returns other rows than before"
    assert ids(reader, again) == [1, 2, 3, 4]


@both
def test_types_are_those_that_the_program_declares(tap, kind):
    with tap.file.open("a") as file:
        file.write('{"id": null, "name": "x", "at": null, "other": 1.5}\n')
    reader = tap.reader(kind)
    (split,) = reader.plan(None).splits
    inferred = reader.schema(split.source_object)
    assert inferred.as_dict() == {"id": "BIGINT", "name": "VARCHAR", "at": "TIMESTAMPTZ", "other": "DOUBLE"}
    assert reader.read(split, inferred).rows.num_rows == 4
    assert reader.uri.endswith("/items")


def test_a_program_that_does_not_exist(tmp_path):
    with pytest.raises(
        SourceError, match=r"'no-such-tap' cannot be started: got No such file or directory; install it"
    ):
        singer("no-such-tap", "items", spool=str(tmp_path)).plan(None)


def test_a_stream_that_does_not_exist(tap):
    with pytest.raises(SourceError, match=r"the connector has no stream 'item'; did you mean 'items'\?"):
        airbyte_messages(PROGRAM, "item", config={"file": str(tap.file)}, spool=tap.spool).plan(None)


def test_an_error_that_the_connector_reports(tap):
    with pytest.raises(SourceError, match="the connector reported an error: got out of quota"):
        tap.reader(airbyte_messages, reports="out of quota").plan(None)


def test_a_catalog_that_is_given(tap):
    catalog = {"streams": [{"name": "items", "json_schema": {}}]}
    reader = tap.reader(airbyte_messages, options={"catalog": catalog})
    assert ids(reader, reader.plan(None)) == [1, 2, 3]


def test_a_program_is_ended_with_the_plan():
    endless = Program((sys.executable, "-c", "import time\nwhile True: print('{}', flush=True); time.sleep(0.001)"), {})
    with endless.running((), {}) as lines:
        assert next(lines).strip() == b"{}"
    deaf = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('{}', flush=True)\ntime.sleep(60)"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.connectors.taps.commands._END_S", 0.2)
        with Program((sys.executable, "-c", deaf), {}).running((), {}) as lines:
            next(lines)


def python(text: str, idle_s: float = 30.0) -> Program:
    return Program((sys.executable, "-c", text), {}, timedelta(seconds=idle_s))


def test_a_program_that_hangs_is_ended():
    hangs = "import sys, time\nprint('{}', flush=True)\nsys.stderr.write('waiting for a lock')\nsys.stderr.flush()\ntime.sleep(60)"
    begun = time.monotonic()

    with (
        pytest.raises(
            SourceError,
            match=r"has written nothing for 500 milliseconds: got waiting for a lock; see why it hangs, .* idle_timeout=",
        ),
        python(hangs, 0.5).running((), {}) as lines,
    ):
        assert list(lines) == [b"{}\n"]

    assert time.monotonic() - begun < 20


def test_a_program_that_logs_does_not_hang():
    logs = (
        "import sys, time\nfor _ in range(8):\n sys.stderr.write('.'); sys.stderr.flush(); time.sleep(0.2)\nprint('{}')"
    )
    with python(logs, 0.8).running((), {}) as lines:
        assert list(lines) == [b"{}\n"]


def test_a_program_that_closes_its_output_and_stays_is_ended():
    stays = "import os, time\nos.close(1)\ntime.sleep(60)"
    with (
        pytest.raises(SourceError, match="has closed its output and does not end"),
        python(stays, 0.3).running((), {}) as lines,
    ):
        list(lines)


@given(st.lists(st.sampled_from([b"", b"a", b"b" * 70_000, b"\r", b"\xc3\xa9 "]), max_size=12), st.booleans())
@settings(max_examples=examples(5, 100), deadline=None)
def test_lines_are_those_that_the_program_wrote(lines, has_end):
    content = b"\n".join(lines) + (b"\n" if has_end else b"")
    *whole, rest = content.split(b"\n")
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        with Program(("bash", "-c", f"cat {file.name}"), {}).running((), {}) as read:
            assert list(read) == [*(line + b"\n" for line in whole), *([rest] if rest else [])]


@pytest.mark.parametrize("create", [singer, airbyte_messages])
def test_the_limit_is_declared(create):
    reader = create("tap", "s", idle_timeout="2 hours")
    assert reader.program.idle == timedelta(hours=2)
    assert reader.fingerprint == create("tap", "s").fingerprint
    with pytest.raises(DefinitionError, match="idle_timeout= must be positive"):
        create("tap", "s", idle_timeout="0 s")


def test_children_of_a_program_end_with_it(tmp_path):
    child = tmp_path / "child"
    script = f'sleep 300 & echo $! > {child}; echo \'{{"type": "STATE", "value": 1}}\'; wait'
    with Program(("bash", "-c", script), {}).running((), {}) as lines:
        next(lines)
        pid = int(child.read_text())
    end = time.monotonic() + 30
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not is_running(pid)


KEY = "-----BEGIN KEY-----\nabc\ndef\n-----END KEY-----"


@pytest.mark.parametrize(
    ("program", "parse"),
    [
        ("import sys, time; sys.stderr.write('x' * 2000 + {secret!r}); sys.exit(1)", list),
        (
            "print(__import__('json').dumps(dict(type='TRACE', trace=dict(type='ERROR', error=dict(message={secret!r})))))",
            None,
        ),
        ("print('{{' + {line!r})", None),
    ],
)
def test_credentials_are_in_no_error(monkeypatch, program, parse):
    monkeypatch.setenv("TAP_KEY", KEY if parse else "s3cr3t-token-value")
    secret = KEY if parse else "s3cr3t-token-value"
    command = (sys.executable, "-c", program.format(secret=secret, line=secret))
    tap = Program(command, {"key": "env:TAP_KEY"})
    with pytest.raises(SourceError) as raised, tap.running((), {}) as lines:
        parse(lines) if parse else [of_airbyte(line, "s") for line in lines]
    assert "***" in str(raised.value)
    assert "abc" not in str(raised.value)
    assert "s3cr3t" not in str(raised.value)


def test_options_that_are_refused():
    with pytest.raises(DefinitionError, match="the command is empty"):
        singer(" ", "items")
    with pytest.raises(DefinitionError, match="unknown value of sync_mode=: got 'all'"):
        airbyte_messages("x", "items", sync_mode="all")


@given(line=st.binary(max_size=80) | st.just(b'{"type":"TRACE","trace":{"type":"ERROR"}}'))
def test_garbage_is_an_error_or_ignored(line):
    for parse in (of_singer, of_airbyte):
        try:
            message = parse(line, "items")
        except SourceError:
            continue
        assert message.record is None or json.loads(message.record or b"null") is not ...


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer"}, "BIGINT"),
        ({"type": ["null", "number"]}, "DOUBLE"),
        ({"type": "number", "airbyte_type": "integer"}, "BIGINT"),
        ({"type": ["integer", "number"]}, "DOUBLE"),
        ({"type": ["integer", "string"]}, "VARCHAR"),
        ({"type": "string", "format": "date"}, "DATE"),
        ({"type": "string", "format": "date-time", "airbyte_type": "timestamp_without_timezone"}, "TIMESTAMP"),
        ({"type": "string", "format": "email"}, "VARCHAR"),
        ({"type": "array", "items": {"type": "boolean"}}, "BOOLEAN[]"),
        ({"type": "array"}, "VARCHAR"),
        ({"type": "object"}, "VARCHAR"),
        ({"properties": {"a b": {"type": "integer"}}}, 'STRUCT("a b" BIGINT)'),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, "BIGINT"),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, "VARCHAR"),
        ({"$ref": "#/definitions/d"}, "DATE"),
        ({"$ref": "#/definitions/none"}, "VARCHAR"),
        ({"$ref": "#/definitions/itself"}, "VARCHAR"),
        (
            {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "string"}}}]},
            'STRUCT("a" BIGINT, "b" VARCHAR)',
        ),
        (True, "VARCHAR"),
        ({}, "VARCHAR"),
    ],
)
def test_types_of_json_schema(schema, expected):
    document = {"definitions": {"d": {"type": "string", "format": "date"}, "itself": {"$ref": "#/definitions/itself"}}}
    found = columns_of({"type": "object", "properties": {"x": schema}, **document})
    assert found.as_dict() == {"x": expected}


@pytest.mark.proof
def test_a_real_tap(tmp_path):
    program = shutil.which("tap-jsonl")
    if program is None:
        pytest.skip("tap-jsonl is not on the path")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text('{"id": 1}\n{"id": 2, "p": 1.10}\n')
    reader = singer(
        program,
        "jsonl",
        config={"path": str(tmp_path / "data" / "*.jsonl")},
        cursor="_sdc_last_modified",
        spool=str(tmp_path / "spool"),
    )
    plan = reader.plan(None)
    assert ids(reader, plan) == [1, 2]
    assert reader.schema(plan.splits[0].source_object).as_dict()["_sdc_last_modified"] == "TIMESTAMPTZ"
    assert reader.plan(kept(plan.cursor)).splits == ()


@pytest.mark.proof
def test_a_real_connector(tmp_path):
    program = shutil.which("source-faker")
    if program is None:
        pytest.skip("source-faker is not on the path")
    assert subprocess.run([program, "spec"], capture_output=True, check=False).returncode == 0
    reader = airbyte_messages(program, "users", config={"count": 1000, "seed": 1}, spool=str(tmp_path))
    plan = reader.plan(None, Bound(rows=150))
    assert plan.has_more
    first = ids(reader, plan)
    plan = reader.plan(kept(plan.cursor))
    columns = reader.schema(plan.splits[0].source_object)
    assert columns.as_dict()["updated_at"] == "TIMESTAMPTZ"
    assert reader.read(plan.splits[0], columns).rejected.num_rows == 0
    assert len(first) >= 150


@pytest.mark.parametrize("times", [1, 2, 4])
def test_a_type_that_contains_itself_is_text_there(times):
    node = {"type": "object", "properties": {f"c{n}": {"$ref": "#/definitions/n"} for n in range(times)}}
    document = {
        "properties": {"x": {"anyOf": [{"type": "null"}, {"$ref": "#/definitions/n"}]}},
        "definitions": {"n": node},
    }
    inner = ", ".join(f'"c{n}" VARCHAR' for n in range(times))
    assert columns_of(document).as_dict() == {"x": f"STRUCT({inner})"}


def test_a_type_of_too_many_parts_is_text():
    layers = {
        f"n{n}": {"type": "object", "properties": {c: {"$ref": f"#/definitions/n{n + 1}"} for c in "abcdefgh"}}
        for n in range(20)
    }
    document = {"properties": {"x": {"$ref": "#/definitions/n0"}, "y": {"type": "integer"}}, "definitions": layers}
    assert columns_of(document).as_dict() == {"x": "VARCHAR", "y": "BIGINT"}
