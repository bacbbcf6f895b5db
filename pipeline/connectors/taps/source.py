"""Singer taps and Airbyte connectors as sources. Create them with `singer` and `airbyte_messages`.

Delivery: each record that the program wrote before a state that it ended with, once; with `cursor=`, records that it writes
again are dropped. The program's state is the cursor, stored with the rows of the commit.
"""

from __future__ import annotations

import json
import shlex
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.connectors.json_schema import columns_of
from pipeline.connectors.json_text import without_line_ends
from pipeline.connectors.rest.api import Repeated, cursor_column
from pipeline.connectors.spool.high_water import CursorColumn, Nulls
from pipeline.connectors.spool.progress import FetchedPage, PagedSource, Progress
from pipeline.connectors.spool.reader import SpooledReader
from pipeline.connectors.taps.commands import IDLE, Program
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import DefinitionError, Place, SourceError, did_you_mean
from pipeline.core.event_time import parse_duration
from pipeline.core.extras import imports_of
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceObject

if TYPE_CHECKING:
    from pipeline.connectors.taps.messages import TapMessage

SyncMode = Literal["incremental", "full_refresh"]
_PAGE_ROWS = 10_000
_SCHEMA = "schema.json"


@dataclass(frozen=True, kw_only=True)
class TapReader(SpooledReader):
    """One stream of a program."""

    command: tuple[str, ...]
    stream: str
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    full: bool = False
    column: CursorColumn | None = None
    idle: timedelta = field(default=IDLE, compare=False)
    """How long the program may write nothing."""

    @property
    def fingerprint(self) -> str:
        """A hash of the stream and the cursor column; command and configuration are not part of it."""
        column = () if self.column is None else (self.column.name, self.column.nulls)
        return fingerprint(type(self).__name__, self.stream, self.full, column)

    @property
    def uri(self) -> str:
        """The program and the stream."""
        return f"{self.scheme}://{Path(self.command[0]).name}/{self.stream}"

    @property
    @abstractmethod
    def scheme(self) -> str:
        """The protocol, as in `_source`."""

    @abstractmethod
    def messages(self, state: Any) -> Iterator[TapMessage]:
        """Run the program from a state, and yield its messages."""

    @property
    def program(self) -> Program:
        """The program with its configuration."""
        return Program(self.command, self.config, self.idle)

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Run the program from the state of the cursor; a limit ends it after a state.

        Raises `SourceError` if the program fails; nothing of it is then read.
        """
        with imports_of("rest", f"{self.scheme}(…)"):
            import msgspec  # noqa: F401, PLC0415 - optional dependency
        return PagedSource(self.uri, self.segments, self.fetch, self.column, not self.full).plan(cursor, bound)

    def fetch(self, progress: Progress) -> Iterator[FetchedPage]:
        """Yield the records before each state, with that state; those after the last state belong to the last page."""
        state = progress.token
        lines: list[bytes] = []
        for message in self.messages(None if self.full else state):
            if message.record is not None:
                lines.append(without_line_ends(message.record))
            if message.schema is not None:
                self.segments.write(_SCHEMA, json.dumps(message.schema).encode())
            if message.state is not None:
                state = message.state
                yield FetchedPage(lines, self.uri, token=state, may_be_last=not self.full)
                lines = []
            elif len(lines) >= _PAGE_ROWS:
                yield FetchedPage(lines, self.uri)
                lines = []
        yield FetchedPage(lines, self.uri, token=state)

    def schema(self, source_object: SourceObject) -> Schema:
        """Return the types that the program declares; those of other fields are inferred."""
        inferred = super().schema(source_object)
        try:
            with self.segments.path(_SCHEMA) as path:
                declared = columns_of(json.loads(Path(path).read_text(encoding="utf-8")))
        except SourceError:
            return inferred  # it declared none
        known = dict(zip(declared.names, declared.columns, strict=True))
        return Schema(tuple(known.get(column.name, column) for column in inferred.columns))


@dataclass(frozen=True, kw_only=True)
class SingerTap(TapReader):
    """A stream of a Singer tap. Create it with `singer`."""

    catalog: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def scheme(self) -> str:
        """The protocol."""
        return "singer"

    def messages(self, state: Any) -> Iterator[TapMessage]:
        """Run the tap from a state."""
        from pipeline.connectors.taps.messages import of_singer  # noqa: PLC0415 - optional dependency

        files = {} if self.catalog is None else {"--catalog": self.catalog}
        files |= {} if state is None else {"--state": state}
        with self.program.running((), files) as lines:
            for line in lines:
                yield of_singer(line, self.stream)


@dataclass(frozen=True, kw_only=True)
class AirbyteConnector(TapReader):
    """A stream of an Airbyte connector. Create it with `airbyte_messages`."""

    sync_mode: SyncMode = "incremental"
    catalog: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def scheme(self) -> str:
        """The protocol."""
        return "airbyte"

    def messages(self, state: Any) -> Iterator[TapMessage]:
        """Run the connector from a state."""
        from pipeline.connectors.taps.messages import TapMessage, of_airbyte  # noqa: PLC0415 - optional dependency

        described = self._described()
        yield TapMessage(schema=described.get("json_schema") or {})
        asked = {"stream": described, "sync_mode": self.sync_mode, "destination_sync_mode": "append"}
        for option, default in (
            ("cursor_field", "default_cursor_field"),
            ("primary_key", "source_defined_primary_key"),
        ):
            asked |= {option: described[default]} if described.get(default) else {}
        files: dict[str, Any] = {"--catalog": {"streams": [asked]}}
        if state is not None:
            files["--state"] = state["data"] if state.get("type", "LEGACY") == "LEGACY" and "data" in state else [state]
        with self.program.running(("read",), files) as lines:
            for line in lines:
                yield of_airbyte(line, self.stream)

    def _described(self) -> Mapping[str, Any]:
        """Return the stream from the connector's catalog; raise `SourceError` if it has no such stream."""
        from pipeline.connectors.taps.messages import catalog_of  # noqa: PLC0415 - optional dependency

        catalog = self.catalog
        if catalog is None:
            with self.program.running(("discover",), {}) as lines:
                found = [each for line in lines if (each := catalog_of(line)) is not None]
            catalog = found[-1] if found else {}
        streams = {str(each.get("name")): each for each in catalog.get("streams", ()) if isinstance(each, Mapping)}
        if self.stream not in streams:
            do = did_you_mean(self.stream, streams)
            raise SourceError(f"the connector has no stream {self.stream!r}", do=do, place=Place(self.uri))
        return streams[self.stream]


def _command(command: str | Sequence[str]) -> tuple[str, ...]:
    parts = tuple(shlex.split(command)) if isinstance(command, str) else tuple(command)
    if not parts:
        raise DefinitionError("the command is empty", do="write for example 'tap-github'")
    return parts


def _idle(text: str | timedelta) -> timedelta:
    duration = parse_duration(text, "idle_timeout")
    if not duration:
        raise DefinitionError("idle_timeout= must be positive", got=repr(text), do="write for example '30 minutes'")
    return duration


def singer(
    command: str | Sequence[str],
    stream: str,
    *,
    config: Mapping[str, Any] | None = None,
    catalog: Mapping[str, Any] | None = None,
    full: bool = False,
    cursor: str | None = None,
    lag: str | timedelta | int = 0,
    null_cursors: Nulls = "include",
    repeated: Repeated = "drop",
    idle_timeout: str | timedelta = IDLE,
    spool: str | None = None,
) -> SingerTap:
    """Read a stream of a Singer tap, a program that writes `RECORD`, `STATE` and `SCHEMA` messages.

    The tap gets `config` (whose values may be references such as `env:NAME`), `catalog` and its last state as files. Its
    states are the cursor. Many taps write the records of the last bookmark again: with `cursor`, the field of the bookmark,
    those are dropped. With `full=True` no state is used, and the table is computed again if the records are others. A tap that
    writes neither messages nor logs for `idle_timeout` is ended, and the run fails.

    Raises `DefinitionError` for invalid options.
    """
    column = cursor_column(cursor, lag, null_cursors, repeated)
    return SingerTap(
        command=_command(command),
        stream=stream,
        config=dict(config or {}),
        catalog=catalog,
        full=full,
        column=None if full else column,
        idle=_idle(idle_timeout),
        spool=spool,
    )


def airbyte_messages(
    command: str | Sequence[str],
    stream: str,
    *,
    config: Mapping[str, Any] | None = None,
    catalog: Mapping[str, Any] | None = None,
    sync_mode: SyncMode = "incremental",
    cursor: str | None = None,
    lag: str | timedelta | int = 0,
    null_cursors: Nulls = "include",
    repeated: Repeated = "drop",
    idle_timeout: str | timedelta = IDLE,
    spool: str | None = None,
) -> AirbyteConnector:
    """Read a stream of an Airbyte connector, a program with the commands `discover` and `read`.

    `catalog` is what `discover` returns; it is asked for it if not given. The states of the connector are the cursor. With
    `sync_mode="full_refresh"` the table is computed again if the records are others. All other options are those of `singer`.

    Raises `DefinitionError` for invalid options.
    """
    if sync_mode not in {"incremental", "full_refresh"}:
        raise DefinitionError(
            "unknown value of sync_mode=", got=repr(sync_mode), do="use 'incremental' or 'full_refresh'"
        )
    full = sync_mode == "full_refresh"
    column = cursor_column(cursor, lag, null_cursors, repeated)
    return AirbyteConnector(
        command=_command(command),
        stream=stream,
        config=dict(config or {}),
        catalog=catalog,
        sync_mode=sync_mode,
        full=full,
        column=None if full else column,
        idle=_idle(idle_timeout),
        spool=spool,
    )
