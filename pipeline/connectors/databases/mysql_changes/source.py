"""Changes of MySQL and MariaDB tables from the binary log. Create the source with `mysql_changes`.

Delivery: each change once, in the order of the commits, as long as the server keeps the binary log until it was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.changes.log import LoggedColumn
from pipeline.connectors.databases.changes.reader import DEFAULT_FOLDER, ChangeSource, Draining, Keep, kept_seconds
from pipeline.connectors.databases.mysql_changes.draining import BinlogDraining
from pipeline.connectors.databases.mysql_changes.server import connected
from pipeline.connectors.databases.mysql_changes.values import schema_of, typed
from pipeline.core.errors import DefinitionError
from pipeline.core.findings import Finding, FindingState
from pipeline.core.schema import Column, Schema


@dataclass(frozen=True, kw_only=True)
class MysqlChanges(ChangeSource):
    """The changes of tables of a database. Create it with `mysql_changes`, and read one with `table`."""

    function = "mysql_changes"
    complete_setting = "binlog_row_image = FULL, also in its sessions"

    @contextmanager
    def connected(self) -> Iterator[Draining]:
        """Connect to the server."""
        with connected(self.address) as server:
            yield BinlogDraining(server, self.log, self.tables, self.has_snapshot)

    def column_types(self, columns: Sequence[LoggedColumn]) -> tuple[Column, ...]:
        """Return the columns with the types under which they are stored, which are those of `mysql`."""
        return schema_of(columns)

    def typed(self, rows: pa.Table, columns: Sequence[LoggedColumn], schema: Schema) -> pa.Table:
        """Return logged rows with typed values."""
        return typed(rows, columns, schema)

    def check(self) -> Sequence[Finding]:
        """Check that the server logs entire rows, and that the tables exist; raise `SourceError` if not."""
        with connected(self.address) as server:
            position = server.position()
            for name in self.tables:
                server.table(name)
        return (Finding(", ".join(self.tables), FindingState.OK, f"the binary log is at {position.file}"),)


def mysql_changes(
    url: str,
    *tables: str,
    snapshot: bool = True,
    password: str | None = None,
    keep: Keep = None,
    spool: str = DEFAULT_FOLDER,
) -> MysqlChanges:
    """Read the changes of MySQL or MariaDB tables from the binary log.

        shop = mysql_changes("mysql://reader@db.example.com/shop", "orders", "customers", password="env:MYSQL_PASSWORD")
        order_changes = source(shop.table("orders"))

    A row is a change: the columns of the table, and `_op` (`read`, `insert`, `update`, `delete` or `truncate`),
    `_sequence`, a text that orders all changes of the server, `_committed_at`, and `_unavailable`, the names of columns
    that were not sent, because a session does not log entire rows. The first run reads the tables in a snapshot, unless
    `snapshot=False`. Changes stay in a log below `spool` for `keep`, or always.

    Raises `DefinitionError` for a password that is written out, and without a table.
    """
    if not tables:
        raise DefinitionError("change data needs the name of a table", do='mysql_changes(URL, "orders")')
    return MysqlChanges(
        address=DatabaseAddress(url, password),
        tables=tuple(sorted(set(tables))),
        has_snapshot=snapshot,
        spool=spool,
        kept_s=kept_seconds(keep),
    )
