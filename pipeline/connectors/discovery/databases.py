"""The tables of a database, and some rows of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa

from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.columns import schema_of_columns
from pipeline.connectors.databases.query_reader import QueryReader, query_options
from pipeline.connectors.databases.sessions import SqlDatabase
from pipeline.connectors.discovery.system import SystemAddress, first_rows
from pipeline.core.discovery import DiscoveredObject, DiscoveryLimits, ReaderCall, matching_names
from pipeline.core.errors import Place, SourceError
from pipeline.kernel.types import arrow_schema

_POSTGRES = """
select n.nspname || '.' || c.relname as name, greatest(c.reltuples, 0)::bigint as row_count,
       pg_total_relation_size(c.oid)::bigint as size_bytes,
       (select string_agg(a.attname, chr(31) order by array_position(i.indkey::int2[], a.attnum))
        from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = any(i.indkey)
        where i.indrelid = c.oid and i.indisprimary) as keys,
       case c.relkind when 'p' then pg_get_partkeydef(c.oid) end as parts,
       case when c.relkind in ('v', 'm') then 'view' else 'table' end as kind, c.reltuples < 0 as is_unknown
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm') and not c.relispartition
  and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_toast|^pg_temp'
order by 1"""
_MYSQL = """
select t.table_name as name, t.table_rows as row_count, cast(t.data_length as signed) as size_bytes,
       (select group_concat(k.column_name order by k.ordinal_position separator 0x1f)
        from information_schema.key_column_usage k
        where k.table_schema = t.table_schema and k.table_name = t.table_name and k.constraint_name = 'PRIMARY') as `keys`,
       null as parts, lower(replace(t.table_type, 'BASE ', '')) as kind, t.table_rows is null as is_unknown
from information_schema.tables t where t.table_schema = database() order by 1"""
_SQLITE = """
select m.name as name, null as row_count, null as size_bytes,
       (select group_concat(name, char(31)) from (select name from pragma_table_info(m.name) where pk > 0 order by pk)) as keys,
       null as parts, m.type as kind, 1 as is_unknown
from sqlite_master m where m.type in ('table', 'view') and m.name not like 'sqlite_%' order by 1"""
_DUCKDB = """
select case when t.table_schema = 'main' then t.table_name else t.table_schema || '.' || t.table_name end as name,
       d.estimated_size as row_count, null::bigint as size_bytes,
       (select array_to_string(any_value(constraint_column_names), chr(31)) from duckdb_constraints() c
        where c.constraint_type = 'PRIMARY KEY' and c.table_name = t.table_name and c.schema_name = t.table_schema) as keys,
       null as parts, if(t.table_type = 'VIEW', 'view', 'table') as kind, d.estimated_size is null as is_unknown
from information_schema.tables t
left join duckdb_tables() d on d.table_name = t.table_name and d.schema_name = t.table_schema
order by 1"""
_MOST_TABLES = 100_000
_FILES = {"sqlite": _SQLITE, "duckdb": _DUCKDB}


@dataclass(frozen=True)
class DatabaseDiscovery:
    """See `Discoverable`."""

    database: SqlDatabase
    listing: str
    """A query for the tables."""
    function: str
    """The function of the connector, and what its call begins with."""
    first: str
    options: tuple[tuple[str, object], ...] = ()
    only: str = ""
    """The table that was asked for; empty for all."""

    @property
    def uri(self) -> str:
        """Where the database is."""
        return self.database.uri

    def objects(self, limits: DiscoveryLimits) -> Sequence[DiscoveredObject]:
        """Return the tables and views."""
        with self.database.connected() as session:
            most = _MOST_TABLES if self.only else limits.objects + 1
            rows = session.table(self.database.limited(f"select * from ({self.listing}) t order by 1", most))
        every = {each.name: each for each in map(self._object, rows.to_pylist())}
        found = [every[name] for name in matching_names(every, self.only)]
        if self.only and not found:
            raise SourceError("there is no such table", got=repr(self.only), place=Place(self.uri))
        return found

    def _object(self, row: Mapping[str, object]) -> DiscoveredObject:
        keys, name = str(row["keys"] or ""), str(row["name"])
        return DiscoveredObject(
            name,
            str(row["kind"]),
            ReaderCall(self.function, (self.first, name), self.options),
            tuple(keys.split("\x1f")) if keys else (),
            None if row["is_unknown"] or row["row_count"] is None else int(str(row["row_count"])),
            None if row["size_bytes"] is None else int(str(row["size_bytes"])),
            f"by {row['parts']}" if row["parts"] else "",
        )

    def sample(self, discovered: DiscoveredObject, limits: DiscoveryLimits) -> pa.Table:
        """Return the first rows of a table."""
        name = ".".join(self.database.quote(part) for part in discovered.name.split("."))
        query = self.database.limited(f"select * from {name}", limits.rows)
        rows = first_rows(QueryReader(self.database, query_options(None, query)), limits)
        if rows.num_columns:
            return rows
        with self.database.connected() as session:
            return arrow_schema(schema_of_columns(session.columns(name))).empty_table()


def discoverable(address: SystemAddress) -> DatabaseDiscovery:
    """Return what looks at a database, or at the table that the option `table` names."""
    only = address.options.get("table", "")
    if address.scheme in _FILES:
        return file_discovery(_path(address.uri.partition("://")[2]), address.scheme, only)
    password = address.options.get("password")
    given: tuple[tuple[str, object], ...] = () if password is None else (("password", password),)
    database, listing, function = _server(address.scheme, DatabaseAddress(_standard(address.uri), password))
    return DatabaseDiscovery(database, listing, function, _standard(address.uri), given, only)


def _path(path: str) -> str:
    """Return the path of a file in a URI: `sqlite:///shop.db` is relative for SQLAlchemy, if there is such a file."""
    relative = path.removeprefix("/")
    return relative if not Path(path).exists() and Path(relative).exists() else path


def file_discovery(path: str, system: str, only: str = "") -> DatabaseDiscovery:
    """Return what looks at a file of SQLite or DuckDB."""
    if system == "sqlite":
        from pipeline.connectors.databases.sqlite import SqliteFile  # noqa: PLC0415 - needs the extra

        return DatabaseDiscovery(SqliteFile(path), _SQLITE, "sqlite", path, (), only)
    from pipeline.connectors.databases.duckdb_file import DuckdbFile  # noqa: PLC0415 - only here

    return DatabaseDiscovery(DuckdbFile(path), _DUCKDB, "duckdb_file", path, (), only)


def _server(scheme: str, address: DatabaseAddress) -> tuple[SqlDatabase, str, str]:
    if scheme in {"mysql", "mariadb"}:
        from pipeline.connectors.databases.mysql import MysqlServer  # noqa: PLC0415 - needs the extra

        return MysqlServer(address), _MYSQL, "mysql"
    from pipeline.connectors.databases.postgres.server import PostgresServer  # noqa: PLC0415 - needs the extra

    return PostgresServer(address), _POSTGRES, "postgres"


def _standard(uri: str) -> str:
    """Return the URL with the scheme that the connector expects."""
    parts = urlsplit(uri)
    names = {"postgres": "postgresql", "mariadb": "mysql"}
    return parts._replace(scheme=names.get(parts.scheme, parts.scheme)).geturl()
