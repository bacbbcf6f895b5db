"""The records of a query in the background: small JSON files in its folder, each replaced as a whole."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.core.schema import Column, Schema

QueryState = Literal["queued", "running", "done", "failed", "cancelled"]
ACTIVE: tuple[QueryState, ...] = ("queued", "running")
STOPPED: Mapping[str, str] = {"detail": "the server was stopped", "do": "submit the query again"}
"""Why a query failed that no server runs any more."""
QUERY, STATUS, WORK = "query.json", "status.json", "work.json"
UNREADABLE = (OSError, ValueError, TypeError, KeyError)
"""What is raised for a record that is not there, or that another version has written."""


@dataclass(frozen=True)
class BackgroundQuery:
    """A query as it was submitted. It does not change."""

    id: str
    caller_kind: str
    caller: str
    """The id of the caller."""
    rights: str
    """The SHA-256 of what decided what the caller sees; a caller that sees something else gets no rows."""
    submitted_at: float
    """In seconds since 1970, as all times."""
    columns: tuple[tuple[str, str], ...]
    """The names and types of the columns."""
    versions: Mapping[str, int]
    """The tables that it reads, each with its version."""

    @property
    def owner(self) -> tuple[str, str]:
        """The kind and the id of the caller."""
        return self.caller_kind, self.caller

    @property
    def schema(self) -> Schema:
        """The columns."""
        return Schema(tuple(Column(name, kind) for name, kind in self.columns))


@dataclass(frozen=True)
class QueryStatus:
    """The progress of a query, and its end."""

    state: QueryState = "queued"
    rows: int = 0
    bytes: int = 0
    """The size of the result on disk."""
    is_truncated: bool = False
    started_at: float | None = None
    ended_at: float | None = None
    expires_at: float | None = None
    """When it is removed; `None` while it is queued or runs."""
    problem: Mapping[str, str] = field(default_factory=dict)
    """Of a query that failed: `detail`, and optionally `got` and `do`."""
    files: Sequence[int] = ()
    """The number of rows of each file of the result."""


@dataclass(frozen=True)
class BackgroundWork:
    """What another server needs to run a query: the statement with the policies in it. It is written when a server ends."""

    sql: str
    values: tuple[str | int | float | bool | None, ...]
    most_rows: int


def read_query(folder: Path) -> BackgroundQuery:
    """Return a query by its folder; raise one of `UNREADABLE` if it cannot be read."""
    parts = _parts(folder / QUERY)
    parts["columns"] = tuple((name, kind) for name, kind in parts["columns"])
    return BackgroundQuery(**parts)


def read_status(folder: Path) -> QueryStatus:
    """Return the status of a query by its folder; raise one of `UNREADABLE` if it cannot be read."""
    return QueryStatus(**_parts(folder / STATUS))


def read_work(folder: Path) -> BackgroundWork:
    """Return what another server has handed over; raise one of `UNREADABLE` if there is nothing."""
    parts = _parts(folder / WORK)
    return BackgroundWork(**{**parts, "values": tuple(parts["values"])})


def write(folder: Path, record: BackgroundQuery | QueryStatus | BackgroundWork) -> None:
    """Write a record, so that readers see either the one before or this one."""
    name = _NAMES[type(record)]
    made = folder / f".{uuid.uuid4().hex}"
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(record), file)
    made.replace(folder / name)


_NAMES: Mapping[type, str] = {BackgroundQuery: QUERY, QueryStatus: STATUS, BackgroundWork: WORK}


def _parts(file: Path) -> dict[str, Any]:
    parts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return parts
