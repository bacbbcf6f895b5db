"""An online store in a SQLite file: one writer at a time, many readers in any process of the machine."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from ml.features.online.store import StoredValue, StoredValues, ViewState
from pipeline.core.errors import ConflictError, SinkError, StorageError
from pipeline.kernel.sql_text import quoted

_PATIENCE_S = 30.0
_STATES = "create table if not exists views (namespace text, view text, state text, primary key (namespace, view))"


class SqliteStore:
    """The file's views of one namespace, which is a project's environment."""

    def __init__(self, file: Path, namespace: str) -> None:
        """Create the store. The file is opened when it is used."""
        self._file = file
        self._namespace = namespace
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []

    def states(self) -> Mapping[str, ViewState]:
        """See `FeatureStore.states`."""
        with self._reading() as con:
            if con is None:
                return {}
            rows = con.execute("select view, state from views where namespace = ? order by view", [self._namespace])
            return {view: ViewState.from_json(text) for view, text in rows}

    def read(self, keys: Mapping[str, Sequence[bytes]]) -> Mapping[str, StoredValues]:
        """See `FeatureStore.read`."""
        with self._reading() as con:
            if con is None:
                return {view: StoredValues(None, [None] * len(each)) for view, each in keys.items()}
            return {view: self._values(con, view, each) for view, each in keys.items()}

    def begin(self, view: str, based_on: ViewState | None, generation: str) -> SqliteWriter:
        """See `FeatureStore.begin`."""
        return SqliteWriter(self._file, self._namespace, view, based_on, generation)

    def forget(self, view: str) -> None:
        """See `FeatureStore.forget`."""
        with _writing(self._file) as con:
            con.execute("begin immediate")
            con.execute("delete from views where namespace = ? and view = ?", [self._namespace, view])
            _drop_unused(con, self._namespace, view)
            con.execute("commit")

    def close(self) -> None:
        """See `FeatureStore.close`."""
        for con in self._readers:
            con.close()
        self._readers.clear()
        self._local = threading.local()

    def _values(self, con: sqlite3.Connection, view: str, keys: Sequence[bytes]) -> StoredValues:
        state = _state(con, self._namespace, view)
        if state is None:
            return StoredValues(None, [None] * len(keys))
        return StoredValues(state, _select(con, _table(self._namespace, view, state.generation), keys))

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Give the connection of this thread in a transaction; `None` if nothing was written yet."""
        if not self._file.exists():
            yield None
            return
        try:
            con = self._connection()
            if con is None:
                yield None
                return
            con.execute("begin")
            try:
                yield con
            finally:
                con.execute("rollback")
        except sqlite3.Error as error:
            raise StorageError(
                f"the online store {self._file} cannot be read", got=str(error), do="check the file and its permissions"
            ) from error

    def _connection(self) -> sqlite3.Connection | None:
        """Return the connection of this thread; `None` while another process or thread creates the store in the file."""
        con: sqlite3.Connection | None = getattr(self._local, "con", None)
        if con is None:
            con = sqlite3.connect(
                f"{self._file.resolve().as_uri()}?mode=ro",
                uri=True,
                timeout=_PATIENCE_S,
                isolation_level=None,
                check_same_thread=False,
            )
            is_created = False
            try:
                is_created = con.execute("select 1 from sqlite_master where name = 'views'").fetchone() is not None
            finally:
                if not is_created:
                    con.close()
            if not is_created:
                return None
            self._local.con = con
            self._readers.append(con)
        return con


class SqliteWriter:
    """See `Writer`. A change of a generation is one transaction; a new generation is written in several."""

    def __init__(self, file: Path, namespace: str, view: str, based_on: ViewState | None, generation: str) -> None:
        """Open or create the file; begin a transaction for a change, and create the table of a new generation."""
        self._file, self._namespace, self._view = file, namespace, view
        self._based_on = based_on
        self._table = _table(namespace, view, generation)
        self._index = quoted(f"expires {_name(namespace, view, generation)}")
        self._is_new = based_on is None or based_on.generation != generation
        with self._translated():
            self._con = _opened(file)
            self._con.execute("begin immediate")
            if self._is_new:
                _drop_unused(self._con, namespace, view)
                self._con.execute(
                    f"create table {self._table} (key blob primary key, value blob, expires integer) without rowid"
                )
                self._con.execute(f"create index {self._index} on {self._table} (expires) where expires is not null")
                self._con.execute("commit")

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `Writer.get`."""
        with self._translated():
            return _select(self._con, self._table, keys)

    def put(self, values: Mapping[bytes, StoredValue | None]) -> None:
        """See `Writer.put`."""
        present = [(key, each.value, each.expires) for key, each in values.items() if each is not None]
        gone = [(key,) for key, each in values.items() if each is None]
        with self._translated():
            if self._is_new:  # nobody reads it yet
                self._con.execute("begin immediate")
            self._con.executemany(f"insert or replace into {self._table} values (?, ?, ?)", present)
            self._con.executemany(f"delete from {self._table} where key = ?", gone)
            if self._is_new:
                self._con.execute("commit")

    def commit(self, state: ViewState) -> None:
        """See `Writer.commit`."""
        with self._translated():
            if self._is_new:
                self._con.execute("begin immediate")
            current = _state(self._con, self._namespace, self._view)
            if current != self._based_on:
                raise ConflictError("another process has written this view to the online store", do="run one writer")
            self._con.execute(
                "insert or replace into views values (?, ?, ?)", [self._namespace, self._view, state.to_json()]
            )
            self._con.execute(f"delete from {self._table} where expires < ?", [state.horizon])
            if self._is_new:
                _drop_unused(self._con, self._namespace, self._view)
            self._con.execute("commit")

    def close(self) -> None:
        """See `Writer.close`."""
        self._con.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _unusable(self._file, error) from error


def _opened(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(parents=True, exist_ok=True)
    con = sqlite3.connect(file, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
    con.execute("pragma journal_mode = wal")
    con.execute("pragma synchronous = normal")  # what is lost with the machine's power is delivered again
    con.execute(_STATES)
    return con


@contextmanager
def _writing(file: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(_opened(file)) as con:
            yield con
    except (sqlite3.Error, OSError) as error:
        raise _unusable(file, error) from error


def _select(con: sqlite3.Connection, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
    query = f"select value from {table} where key = ?"
    rows = (con.execute(query, (key,)).fetchone() for key in keys)
    return [None if row is None else row[0] for row in rows]


def _state(con: sqlite3.Connection, namespace: str, view: str) -> ViewState | None:
    row = con.execute("select state from views where namespace = ? and view = ?", (namespace, view)).fetchone()
    return None if row is None else ViewState.from_json(row[0])


def _drop_unused(con: sqlite3.Connection, namespace: str, view: str) -> None:
    """Drop the generations of a view that are not shown: the former one, and those of killed loads."""
    state = _state(con, namespace, view)
    used = None if state is None else _name(namespace, view, state.generation)
    prefix = _name(namespace, view, "")
    for (name,) in con.execute("select name from sqlite_master where type = 'table'").fetchall():
        if name.startswith(prefix) and name != used:
            con.execute(f"drop table {quoted(name)}")


def _name(namespace: str, view: str, generation: str) -> str:
    return f"values {namespace} {view} {generation}"


def _table(namespace: str, view: str, generation: str) -> str:
    return quoted(_name(namespace, view, generation))


def _unusable(file: Path, error: Exception) -> SinkError:
    return SinkError(
        f"the online store {file} cannot be written", got=str(error), do="check the file, and free disk space"
    )
