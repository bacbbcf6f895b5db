"""What tests of change data share: the changes that a reader delivers, and processes that end at any step."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.connectors.databases.changes import log
from pipeline.core.cursors import Cursor
from pipeline.core.errors import SourceError


def age(folder: Path, days: float) -> None:
    """Make all that is in the log of changes in a folder older."""
    for path in (*folder.glob("*/*.arrow"), *(path for path in folder.iterdir() if path.is_dir())):
        then = path.stat().st_mtime - days * 86_400
        os.utime(path, (then, then))


@dataclass(frozen=True)
class KeptChanges:
    """What a source of the tables `t (id)` and `u (id)`, which keeps changes for a day, delivers as they get old."""

    first: list[Any]
    after_two_days: list[Any]
    segments: list[str]
    after_half_a_day: list[Any]
    """What is newer than a day, and the last segment, is kept."""
    error: str
    """Why a split of removed changes cannot be read."""
    again: list[Any]
    """The table, read from its beginning."""
    is_repeated: bool
    """Whether reading it from its beginning again gives the same."""
    other: list[Any]
    """The changes of the other table, whose reader was behind."""
    snapshots: int
    """The number of folders of snapshots: not those of the first one."""


def kept_changes(source: Any, monkeypatch: pytest.MonkeyPatch, run: Callable[..., None]) -> KeptChanges:
    monkeypatch.setattr(log, "_JOINED_BYTES", 0)
    run("insert into t values (1)", "insert into u values (1)")
    table, other = source.table("t"), source.table("u")
    rows, cursor = rows_of(table)
    _, cursor_of_other = rows_of(other)
    run("insert into t values (2)")
    [old] = table.plan(cursor).splits
    age(source.log.folder, 2)
    run("insert into t values (3)")
    more, cursor = rows_of(table, cursor)
    segments = sorted(path.name[18:20] for path in source.log.folder.glob("*/*.arrow"))
    run("insert into t values (4)")
    age(source.log.folder, 0.5)
    newer = rows_of(table, cursor)[0]
    with pytest.raises(SourceError) as raised:
        table.read(old, table.schema(old.source_object))
    again, _ = rows_of(table)
    is_repeated = rows_of(table)[0] == again
    age(source.log.folder, 2)
    run("insert into u values (2)")
    late = ops(rows_of(other, cursor_of_other)[0])
    snapshots = len([path for path in source.log.folder.iterdir() if path.is_dir()])
    return KeptChanges(
        ops(rows),
        ops(more),
        segments,
        ops(newer),
        _named(raised.value),
        sorted(ops(again)),
        is_repeated,
        late,
        snapshots,
    )


_REMOVED = r"changes are no longer in the log: got 0 of the changes 1 to 1; .*run --full"


def _named(error: SourceError) -> str:
    """Return the expected message of an error, or the text of another one."""
    return _REMOVED if re.search(_REMOVED, str(error)) else str(error)


KEPT = KeptChanges(
    first=[(1, "read")],
    after_two_days=[(2, "insert"), (3, "insert")],
    segments=["00", "01", "02"],
    after_half_a_day=[(4, "insert")],
    error=_REMOVED,
    again=[(1, "read"), (2, "read"), (3, "read"), (4, "read")],
    is_repeated=True,
    other=[(2, "insert")],
    snapshots=2,
)
"""What every database delivers."""


class KilledError(Exception):
    """Stands for the end of a process."""


class Kills:
    """Ends a process at one of the calls of some methods."""

    def __init__(self) -> None:
        self._calls, self._deadline = itertools.count(), -1

    def after(self, calls: int | None) -> None:
        """End the process after this number of further calls; `None`: not any more."""
        self._deadline = -1 if calls is None else next(self._calls) + 1 + calls

    def at(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return a method whose calls count."""

        def call(*arguments: Any, **options: Any) -> Any:
            if next(self._calls) == self._deadline:
                raise KilledError
            return method(*arguments, **options)

        return call


def rows_of(table: Any, cursor: Cursor | None = None) -> tuple[list[dict[str, Any]], Cursor]:
    """Read what is new since a cursor: the columns of each change that are not null, without its time."""
    plan = table.plan(cursor)
    rows: list[dict[str, Any]] = []
    for split in plan.splits:
        reading = table.read(split, table.schema(split.source_object))
        assert reading.rejected.num_rows == 0, reading.rejected.to_pylist()
        rows += reading.rows.drop_columns(["_position", "_committed_at"]).to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in rows], plan.cursor


def ops(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return the values of changes without their sequences."""
    return [tuple(value for name, value in row.items() if name != "_sequence") for row in rows]
