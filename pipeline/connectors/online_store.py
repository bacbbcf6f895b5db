"""An online store: the newest row of each key in a SQLite file, for point look-ups.

Delivery: exactly once. The rows of a version and its number are written in one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.connectors.json_rows import key_text, keys, texts
from pipeline.core.definitions import names
from pipeline.core.errors import SchemaError, SinkError
from pipeline.core.sinks import Delivery, SinkContext, SinkPosition, is_delivered, require_deletable
from pipeline.kernel.sql_text import quoted

_PATIENCE_S = 30.0
_REACHED = "headwater_reached"


@dataclass(frozen=True)
class ToOnline:
    """A SQLite file. Create it with `to_online`."""

    path: str
    key: tuple[str, ...]

    def file(self, state: Path) -> Path:
        """Return the path of the file: below the state folder, unless it is absolute."""
        return state / self.path

    def open(self, context: SinkContext) -> OnlineTarget:
        """Open or create the file; raise `SinkError` if it is not a SQLite file."""
        return OnlineTarget(self.file(context.state), context.sink, self.key)

    def __str__(self) -> str:
        """Return the file's name."""
        return f"online store {self.path}"


def to_online(path: str | Path = "online.db", *, key: str | tuple[str, ...]) -> ToOnline:
    """Keep the newest row of each key in a SQLite file, exactly once; several sinks can share a file.

    Rows are stored as JSON by key, in a table with the sink's name. A relative path is below the project's
    `.headwater/`. Of rows with the same key, the last one is stored. Read them with `OnlineStore`.
    """
    return ToOnline(str(path), names(key))


@dataclass(frozen=True)
class OnlineStore:
    """The rows of one sink, by key. Reads committed rows, at any time and from any process."""

    file: Path
    sink: str

    def get(self, *key: object) -> dict[str, Any] | None:
        """Return the row of a key, given as one argument per key column; `None` if there is none."""
        text = key_text(key)
        with _opened(self.file) as con:
            record = con.execute(f"select row from {quoted(self.sink)} where key = ?", [text]).fetchone()
        row: dict[str, Any] | None = None if record is None else json.loads(record[0])
        return row


class OnlineTarget:
    """The table of one sink in a SQLite file."""

    def __init__(self, file: Path, sink: str, key: tuple[str, ...]) -> None:
        """Open or create the file."""
        self._file = file
        self._sink = sink
        self._key = key
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._con = sqlite3.connect(file, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
            self._con.execute("pragma journal_mode = wal")
            self._con.execute("pragma synchronous = full")
            self._con.execute(
                f"create table if not exists {_REACHED} (sink text primary key, version integer, mark integer)"
            )
            self._con.execute(
                f"create table if not exists {quoted(sink)} (key text primary key, row text) without rowid"
            )
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from error

    def reached(self) -> SinkPosition | None:
        """Return the version in the file."""
        try:
            row = self._con.execute(f"select version, mark from {_REACHED} where sink = ?", [self._sink]).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return None if row is None else SinkPosition(*row)

    def write(self, delivery: Delivery) -> None:
        """Write rows and version in one transaction; a delivery of the full table replaces all rows."""
        try:
            self._con.execute("begin immediate")
            try:
                if not is_delivered(delivery, self.reached()):
                    self._apply(delivery)
                self._con.execute("commit")
            except BaseException:
                self._con.execute("rollback")
                raise
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Close the file."""
        self._con.close()

    def _apply(self, delivery: Delivery) -> None:
        require_deletable(self._key, delivery)
        table = quoted(self._sink)
        if delivery.is_whole:
            self._con.execute(f"delete from {table}")
        self._delete(delivery.gone)
        for row_keys, rows in texts(delivery.rows, delivery.rows.schema, self._key):
            if None in row_keys:
                raise SchemaError(
                    "a row has no key", got=rows[row_keys.index(None)], do=f"ensure that {self._key[0]!r} is never null"
                )
            self._con.executemany(f"insert or replace into {table} values (?, ?)", zip(row_keys, rows, strict=True))
        self._con.execute(
            f"insert or replace into {_REACHED} values (?, ?, ?)",
            [self._sink, delivery.to.version, delivery.to.manifest_id],
        )

    def _delete(self, rows: pa.Table) -> None:
        """Delete rows before the new ones are written, which may contain the same keys."""
        if rows.num_rows:
            self._con.executemany(
                f"delete from {quoted(self._sink)} where key = ?", [(key,) for key in keys(rows, self._key)]
            )

    def _unusable(self, error: Exception) -> SinkError:
        return SinkError(
            f"the online store {self._file} cannot be used",
            got=str(error),
            do="check whether another process has it open",
        )


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE_S)) as con:
            yield con
    except sqlite3.Error as error:
        raise SinkError(f"the online store {file} cannot be read", got=str(error), do="run its sink first") from error
