"""What change data needs from a MySQL or MariaDB server: its position, its catalog, and a snapshot at a position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.changes.log import LoggedColumn
from pipeline.connectors.databases.connecting import connecting, keep_alive
from pipeline.connectors.databases.mysql import limits
from pipeline.connectors.databases.mysql_changes.values import as_text
from pipeline.connectors.databases.mysql_types import quoted_in_backticks
from pipeline.core.clients import message_of
from pipeline.core.errors import Place, SourceError, SourceUnavailableError
from pipeline.core.extras import imports_of

_PORT = 3306
_REQUIRED = {
    "log_bin": ("1", "ON"),
    "binlog_format": ("ROW",),
    "binlog_row_image": ("FULL",),
    "binlog_row_metadata": ("FULL",),
}
_CLIENT_CODES = range(2000, 2100)
_RETRIED_CODES = frozenset({1040, 1053, 1077, 1079, 1158, 1159, 1160, 1161, 1203, 1205, 1213, 1927})
_POSITION_BITS = 32
_COLUMNS = """
select column_name as name, column_type as kind, column_key = 'PRI' as is_key from information_schema.columns
where table_schema = database() and table_name = %s and coalesce(generation_expression, '') = '' order by ordinal_position
"""


def encoded(file: str, position: int) -> int:
    """Return a position in the binary log as a number that grows; files are numbered by their suffix."""
    return int(file.rpartition(".")[2]) << _POSITION_BITS | position


@dataclass(frozen=True)
class BinlogPosition:
    """Which server it is, and where its binary log ends."""

    system: str
    file: str
    position: int

    @property
    def end(self) -> int:
        """The end as a number."""
        return encoded(self.file, self.position)


@dataclass(frozen=True)
class BinlogTable:
    """A table: its columns, and its primary key."""

    name: str
    columns: tuple[LoggedColumn, ...]
    key: tuple[str, ...]


@dataclass(frozen=True)
class BinlogServer:
    """A connection in autocommit mode, whose values are text."""

    connection: Any
    address: DatabaseAddress

    @property
    def place(self) -> Place:
        """The database, as shown in errors."""
        return Place(self.address.public())

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[Mapping[str, Any]]:
        """Return the rows of a query."""
        with errors(self.address), self.connection.cursor() as cursor:
            cursor.execute(query, parameters or None)
            names = [each[0] for each in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def position(self) -> BinlogPosition:
        """Return the end of the binary log; raise `SourceError` if the log does not have entire rows."""
        settings = {row["Variable_name"].lower(): str(row["Value"]) for row in self.rows("show global variables")}
        for name, values in _REQUIRED.items():
            if settings.get(name, "") not in values:
                raise SourceError(
                    "the binary log of the server does not contain entire rows with their names",
                    got=f"{name} = {settings.get(name, 'unknown')}",
                    do=f"set {name} = {values[-1]}, and restart the server",
                    place=self.place,
                )
        try:
            row = self.rows("show master status")[0]
        except SourceUnavailableError:
            raise
        except SourceError:  # MySQL 8.4 has another name for it
            row = self.rows("show binary log status")[0]
        system = settings.get("server_uuid") or f"server {settings.get('server_id')}"
        return BinlogPosition(system, row["File"], int(row["Position"]))

    def files(self) -> list[str]:
        """Return the files of the binary log that still exist."""
        return [row["Log_name"] for row in self.rows("show binary logs")]

    def has_checksums(self) -> bool:
        """Return whether each event of the binary log ends with a checksum."""
        return str(self.rows("select @@global.binlog_checksum as kind")[0]["kind"]) == "CRC32"

    def table(self, name: str) -> BinlogTable:
        """Return a table of the database; raise `SourceError` if it does not exist."""
        found = self.rows(_COLUMNS, (name,))
        if not found:
            raise SourceError("there is no such table", got=name, do="check the name", place=self.place)
        columns = tuple(LoggedColumn(row["name"], row["kind"]) for row in found)
        return BinlogTable(name, columns, tuple(row["name"] for row in found if str(row["is_key"]) == "1"))

    def snapshot(self) -> BinlogPosition:
        """Begin a transaction with a snapshot, and return its position. Other writers wait for a moment."""
        with errors(self.address), self.connection.cursor() as cursor:
            cursor.execute("flush tables with read lock")
            try:
                cursor.execute("set session transaction isolation level repeatable read")
                cursor.execute("start transaction with consistent snapshot, read only")
                return self.position()
            finally:
                cursor.execute("unlock tables")

    def stored(self, table: BinlogTable, most: int) -> Iterator[list[tuple[str | None, ...]]]:
        """Yield the rows of a table as text, in parts of a limited number."""
        from pymysql.cursors import SSCursor  # noqa: PLC0415 - optional dependency

        items = ", ".join(as_text(column) for column in table.columns)
        with errors(self.address), self.connection.cursor(SSCursor) as cursor:
            cursor.execute(f"select {items} from {quoted_in_backticks(table.name)} t")
            while rows := cursor.fetchmany(most):
                yield list(rows)


@contextmanager
def errors(address: DatabaseAddress) -> Iterator[None]:
    """Translate the errors of the driver: temporary ones become `SourceUnavailableError`."""
    import pymysql  # noqa: PLC0415 - optional dependency

    try:
        yield
    except (pymysql.Error, OSError) as error:
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        text, place = address.redacted(message_of(error)), Place(address.public())
        if isinstance(error, OSError) or code in _RETRIED_CODES or code in _CLIENT_CODES:
            raise SourceUnavailableError("MySQL is unavailable", got=text, place=place) from error
        do = "check the address and the user, who needs REPLICATION SLAVE, REPLICATION CLIENT, RELOAD and SELECT"
        raise SourceError("MySQL refuses to deliver changes", got=text, do=do, place=place) from error


def settings_of(address: DatabaseAddress) -> dict[str, Any]:
    """Return the settings of a connection."""
    parts = urlsplit(address.connection_url())
    return {
        "host": parts.hostname or "127.0.0.1",
        "port": parts.port or _PORT,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        **limits(),
    }


def database_of(address: DatabaseAddress) -> str:
    """Return the name of the database in the URL."""
    return unquote(urlsplit(address.connection_url()).path).strip("/")


@contextmanager
def connected(address: DatabaseAddress) -> Iterator[BinlogServer]:
    """Connect to the server; raise `SourceUnavailableError` if it does not answer."""
    with imports_of("mysql", "change data of MySQL"):
        import pymysql  # noqa: PLC0415 - optional dependency

    def connect() -> Any:
        with errors(address):
            opened = pymysql.connect(
                **settings_of(address), database=database_of(address), charset="utf8mb4", autocommit=True, conv={}
            )
        keep_alive(opened._sock)  # noqa: SLF001 - the library has no option for it
        return opened

    connection = connecting(address, connect)
    try:
        server = BinlogServer(connection, address)
        server.rows("set session time_zone = '+00:00'")
        yield server
    finally:
        with suppress(pymysql.Error):
            connection.close()
