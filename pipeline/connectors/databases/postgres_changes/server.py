"""What change data needs from a PostgreSQL server: the publication, the replication slot, and the catalog."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.changes.log import LoggedColumn
from pipeline.connectors.databases.connecting import connecting, libpq_url
from pipeline.core.clients import is_unavailable, message_of
from pipeline.core.errors import Place, SourceError, SourceUnavailableError
from pipeline.core.extras import imports_of
from pipeline.kernel.sql_text import literal, quoted

if TYPE_CHECKING:
    import psycopg

OLDEST_VERSION = 140000
_SETTINGS = (
    "-c timezone=UTC -c datestyle=ISO,MDY -c intervalstyle=postgres -c bytea_output=hex -c extra_float_digits=1 "
    "-c lc_monetary=C -c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
)
"""Settings that determine how values are written as text."""
_RETRIED_STATES = ("08", "53", "57P", "40001", "40P01", "55P03")
_IN_USE, _IN_USE_S = "55006", 10.0
"""The SQLSTATE of a slot that another connection reads, and how long to wait for it: it may be that of a killed process."""
_PERMANENT = ("authentication failed", "does not exist", "pg_hba.conf", "permission denied", "no password supplied")
_PUBLICATION = """
select pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, current_setting('server_version_num')::int as version
from pg_publication where pubname = %s
"""
_FILTERED = """
select r.prrelid::regclass::text as name from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
where p.pubname = %s and (r.prqual is not null or r.prattrs is not null)
"""
_FILTERS_SINCE = 150000
"""The version from which on a publication can leave out rows and columns."""
_SLOT = """
select plugin, database = current_database() as is_ours, active_pid, (confirmed_flush_lsn - '0/0')::bigint as confirmed,
  coalesce(wal_status, '') as wal_status
from pg_replication_slots where slot_name = %s
"""
_POSITION = """
select (pg_current_wal_insert_lsn() - '0/0')::bigint as inserted, (pg_current_wal_flush_lsn() - '0/0')::bigint as flushed,
  (select system_identifier::text from pg_control_system()) as system, current_setting('server_version_num')::int as version,
  current_setting('wal_level') as wal_level
"""
_TABLE = """
select c.oid::bigint as oid, c.relkind::text as kind, c.relreplident::text as identity,
  (select i.indrelid is not null from pg_index i where i.indrelid = c.oid and i.indisprimary) as has_key,
  coalesce((select array_agg(a.attname::text order by a.attnum) from pg_index i join pg_attribute a
    on a.attrelid = c.oid and a.attnum = any(i.indkey) where i.indrelid = c.oid and i.indisprimary), '{}') as key
from pg_class c where c.oid = to_regclass(%s)
"""
_COLUMNS = """
select a.attname::text as name, coalesce(b.typname, t.typname)::text as kind,
  case when b.oid is null then a.atttypmod else t.typtypmod end as modifier
from pg_attribute a join pg_type t on t.oid = a.atttypid left join pg_type b on b.oid = t.typbasetype and t.typtype = 'd'
where a.attrelid = %s::bigint::oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' order by a.attnum
"""
_TYPES = """
select t.oid::bigint as oid, coalesce(b.typname, t.typname)::text as kind,
  case when b.oid is null then null else t.typtypmod end as modifier
from pg_type t left join pg_type b on b.oid = t.typbasetype and t.typtype = 'd' where t.oid::bigint = any(%s)
"""
_ROW_HEAD = 6
"""The number of columns of a row, and the length of its only one."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class PublishedTable:
    """A table to be read: its columns, and its primary key."""

    name: str
    columns: tuple[LoggedColumn, ...]
    key: tuple[str, ...]


@dataclass(frozen=True)
class ServerPosition:
    """Which server it is, and the end of its log."""

    system: str
    inserted: int
    """The end of the last record, also if it is not on disk."""
    flushed: int
    """Up to where the log is on disk, which may be inside a record."""


@dataclass(frozen=True)
class ChangeServer:
    """A connection that commits each statement."""

    connection: psycopg.Connection[Any]
    address: DatabaseAddress
    types: dict[int, tuple[str, int | None]] = field(default_factory=dict, compare=False)

    @property
    def place(self) -> Place:
        """The database, as shown in errors."""
        return Place(self.address.public())

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Return the rows of a query."""
        with errors(self.address):
            cursor = self.connection.execute(query.encode(), parameters or None)
            names = [each.name for each in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def run(self, statement: str) -> None:
        """Run a statement without a result."""
        with errors(self.address):
            self.connection.execute(statement.encode())

    def position(self) -> ServerPosition:
        """Return the position of the server; raise `SourceError` if it cannot deliver changes."""
        row = self.rows(_POSITION)[0]
        if row["version"] < OLDEST_VERSION:
            raise SourceError(
                "this server is too old to read changes from",
                got=f"version {row['version'] // 10000}",
                do="use PostgreSQL 14 or later",
                place=self.place,
            )
        if row["wal_level"] != "logical":
            raise SourceError(
                "the server does not log changes for logical replication",
                got=f"wal_level = {row['wal_level']}",
                do="set wal_level = logical, and restart the server",
                place=self.place,
            )
        return ServerPosition(row["system"], row["inserted"], row["flushed"])

    def table(self, name: str) -> PublishedTable:
        """Return a table; raise `SourceError` if it does not exist, or if its updates could not be published."""
        found = self.rows(_TABLE, (_relation(name),))
        if not found:
            raise SourceError("there is no such table", got=name, do="check the name and the schema", place=self.place)
        row = found[0]
        if row["kind"] not in {"r", "p"}:
            raise SourceError("only tables have changes", got=name, do="read it with postgres(…)", place=self.place)
        if row["identity"] == "n" or (row["identity"] == "d" and not row["has_key"]):
            raise SourceError(
                f"the rows of {name} have no identity, so an application could no longer update them if it were published",
                do=f"add a primary key, or: ALTER TABLE {_relation(name)} REPLICA IDENTITY FULL",
                place=self.place,
            )
        return PublishedTable(name, self.columns(row["oid"]), tuple(row["key"]))

    def columns(self, oid: int) -> tuple[LoggedColumn, ...]:
        """Return the columns of a table by its number; none if it does not exist any more."""
        return tuple(LoggedColumn(**each) for each in self.rows(_COLUMNS, (oid,)))

    def publish(self, publication: str, names: Sequence[str]) -> None:
        """Create the publication, or add the tables that it lacks."""
        exists = self.rows("select 1 as one from pg_publication where pubname = %s", (publication,))
        published = self.published(publication)
        missing = [name for name in names if name not in published]
        tables = ", ".join(_relation(name) for name in missing)
        if not exists:
            statement = (
                f"create publication {quoted(publication)} for table {tables} with (publish_via_partition_root = true)"
            )
        elif missing:
            statement = f"alter publication {quoted(publication)} add table {tables}"
        else:
            return
        try:
            self.run(statement)
        except SourceUnavailableError:
            raise
        except SourceError as error:
            raise SourceError(
                "the user cannot publish the tables",
                got=error.got,
                do=f"run as their owner: {statement}",
                place=self.place,
            ) from error

    def require_complete(self, publication: str) -> None:
        """Raise `SourceError` if a publication leaves out operations, rows or columns, or names partitions alone."""
        row = self.rows(_PUBLICATION, (publication,))[0]
        if not all(row[name] for name in ("pubinsert", "pubupdate", "pubdelete", "pubtruncate", "pubviaroot")):
            raise SourceError(
                f"the publication {publication!r} leaves out changes, or publishes partitions under their own names",
                do=f"run as its owner: ALTER PUBLICATION {quoted(publication)} SET "
                "(publish = 'insert, update, delete, truncate', publish_via_partition_root = true)",
                place=self.place,
            )
        if row["version"] >= _FILTERS_SINCE and (found := self.rows(_FILTERED, (publication,))):
            raise SourceError(
                f"the publication {publication!r} leaves out rows or columns",
                got=found[0]["name"],
                do="publish the table without WHERE and without a list of columns, or use another publication=",
                place=self.place,
            )

    def published(self, publication: str) -> set[str]:
        """Return the tables of a publication; none if it does not exist."""
        listed = "select schemaname || '.' || tablename as name from pg_publication_tables where pubname = %s"
        return {row["name"] for row in self.rows(listed, (publication,))}

    def slot(self, name: str) -> Row | None:
        """Return the state of a replication slot; `None` if it does not exist."""
        found = self.rows(_SLOT, (name,))
        return found[0] if found else None

    def drop_slot(self, name: str) -> None:
        """Drop a slot, if it exists."""
        if self.slot(name) is not None:
            self.when_free(f"select pg_drop_replication_slot({literal(name)})")

    def advance(self, slot: str, to: int) -> None:
        """Tell the server that it may remove its log before a position."""
        self.when_free(f"select pg_replication_slot_advance({literal(slot)}, {literal(lsn_text(to))}::pg_lsn)")

    def when_free(self, statement: str) -> None:
        """Run a statement on a slot, which the connection of a killed process may still use for a while."""
        until = time.monotonic() + _IN_USE_S
        while True:
            try:
                return self.run(statement)
            except SlotInUseError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def peek(self, slot: str, publication: str, changes: int) -> Iterator[bytes]:
        """Yield the messages of a slot that were not confirmed, up to the end of the transaction with that many changes."""
        options = f"'proto_version', '1', 'publication_names', {literal(quoted(publication))}"
        query = f"select data from pg_logical_slot_peek_binary_changes({literal(slot)}, null, {changes}, {options})"
        for row in self.copied(query):
            yield row[_ROW_HEAD:]

    def copied(self, query: str) -> Iterator[bytes]:
        """Yield the rows of a query in the binary format of COPY."""
        statement = f"copy ({query}) to stdout (format binary)"
        with errors(self.address), self.connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            is_first = True
            for block in copy:
                row = bytes(block[19:]) if is_first else bytes(block)  # it begins with a signature and two numbers
                is_first = False
                if len(row) > 2:  # noqa: PLR2004 - two bytes say that there are no more rows
                    yield row

    def types_of(self, oids: Sequence[int]) -> Mapping[int, tuple[str, int | None]]:
        """Return the names of types, and for domains the modifier of the type beneath."""
        unknown = [oid for oid in dict.fromkeys(oids) if oid not in self.types]
        if unknown:
            for row in self.rows(_TYPES, (unknown,)):
                self.types[row["oid"]] = (row["kind"], row["modifier"])
        return {oid: self.types.get(oid, ("text", None)) for oid in oids}


class SlotInUseError(SourceUnavailableError):
    """Another connection reads from the slot."""


@contextmanager
def errors(address: DatabaseAddress) -> Iterator[None]:
    """Translate the errors of the driver: temporary ones become `SourceUnavailableError`."""
    import psycopg  # noqa: PLC0415 - optional dependency

    try:
        yield
    except psycopg.Error as error:
        raise _translated(error, address) from error


def _translated(error: psycopg.Error, address: DatabaseAddress) -> SourceError:
    text, place = address.redacted(message_of(error)), Place(address.public())
    state = str(getattr(error, "sqlstate", None) or "")
    if state == _IN_USE:
        do = "one process at a time can read from a slot; use another slot="
        return SlotInUseError("the replication slot is in use", got=text, do=do, place=place)
    if state.startswith(_RETRIED_STATES) if state else is_unavailable(error) and not any(w in text for w in _PERMANENT):
        return SourceUnavailableError("PostgreSQL is unavailable", got=text, place=place)
    do = "check the address, the user and its rights; to read changes it needs the attribute REPLICATION"
    return SourceError("PostgreSQL refuses to deliver changes", got=text, do=do, place=place)


@contextmanager
def connected(address: DatabaseAddress, *, replication: bool = False) -> Iterator[ChangeServer]:
    """Connect to the server; raise `SourceUnavailableError` if it does not answer."""
    with imports_of("postgres", "change data of PostgreSQL"):
        import psycopg  # noqa: PLC0415 - optional dependency
    url = libpq_url(address)
    options: dict[str, Any] = {"options": _SETTINGS, "client_encoding": "utf8", "application_name": "headwater"}
    if replication:
        options["replication"] = "database"

    def connect() -> psycopg.Connection[Any]:
        with errors(address):
            return psycopg.connect(url, autocommit=True, **options)

    connection = connecting(address, connect)
    try:
        yield ChangeServer(connection, address)
    finally:
        connection.close()


def lsn_text(position: int) -> str:
    """Return a position as PostgreSQL writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def lsn_of(text: str) -> int:
    """Return a position from PostgreSQL's text."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def _relation(name: str) -> str:
    return ".".join(quoted(part) for part in name.split("."))
