"""Changes of PostgreSQL tables by logical replication. Create the source with `postgres_changes`.

Delivery: each change once, in the order of the commits. The server may forget a change only when it is in a durable log
of this project.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.changes.log import LoggedColumn
from pipeline.connectors.databases.changes.reader import DEFAULT_FOLDER, ChangeSource, Draining, Keep, kept_seconds
from pipeline.connectors.databases.postgres_changes.draining import SlotDraining
from pipeline.connectors.databases.postgres_changes.server import connected
from pipeline.connectors.databases.postgres_changes.values import schema_of, typed
from pipeline.core.errors import DefinitionError
from pipeline.core.findings import Finding, FindingState
from pipeline.core.schema import Column, Schema

_RETAINED_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class PostgresChanges(ChangeSource):
    """The changes of tables of a PostgreSQL database. Create it with `postgres_changes`, and read one with `table`."""

    slot: str
    publication: str

    function = "postgres_changes"
    complete_setting = "REPLICA IDENTITY FULL"

    @property
    def log_name(self) -> tuple[str, ...]:
        """A log belongs to one slot."""
        return (self.address.public(), self.slot)

    def full_name(self, table: str) -> str:
        """Return the name with its schema."""
        return _qualified(table)

    @contextmanager
    def connected(self) -> Iterator[Draining]:
        """Connect to the server."""
        with connected(self.address) as server:
            yield SlotDraining(server, self.log, self.slot, self.publication, self.tables, self.has_snapshot)

    def column_types(self, columns: Sequence[LoggedColumn]) -> tuple[Column, ...]:
        """Return the columns with the types under which they are stored, which are those of `postgres`."""
        return schema_of(columns)

    def typed(self, rows: pa.Table, columns: Sequence[LoggedColumn], schema: Schema) -> pa.Table:
        """Return logged rows with typed values."""
        return typed(rows, columns, schema)

    def check(self) -> Sequence[Finding]:
        """Check that the tables can be published, and how much log the server keeps for the slot."""
        with connected(self.address) as server:
            position, slot = server.position(), server.slot(self.slot)
            for name in self.tables:
                server.table(name)
        if slot is None:
            return (Finding(self.slot, FindingState.OK, "the slot is created by the first run"),)
        kept = position.inserted - slot["confirmed"]
        state = FindingState.NOTE if kept > _RETAINED_BYTES else FindingState.OK
        return (Finding(self.slot, state, f"the server keeps {kept >> 20:,} MB of log for it"),)


def postgres_changes(
    url: str,
    *tables: str,
    slot: str,
    publication: str | None = None,
    snapshot: bool = True,
    password: str | None = None,
    keep: Keep = None,
    spool: str = DEFAULT_FOLDER,
) -> PostgresChanges:
    """Read the changes of PostgreSQL tables by logical replication, from PostgreSQL 14 or later.

        shop = postgres_changes("postgresql://reader@db.example.com/shop", "orders", "customers", slot="headwater_shop")
        order_changes = source(shop.table("orders"))

    A row is a change: the columns of the table, and `_op` (`read`, `insert`, `update`, `delete` or `truncate`),
    `_sequence`, a text that orders all changes of the database, `_committed_at`, and `_unavailable`, the names of the
    columns whose values were not sent because an update did not change them. The first run creates the publication and
    the slot, and reads the tables in the snapshot of the slot, unless `snapshot=False`. One slot serves all tables.

    Changes are in a durable log below `spool` before the slot is advanced, on the machine that runs the project; they
    stay there for `keep`, or always. Raises `DefinitionError` for a password that is written out, and for an invalid
    name of a slot.
    """
    if not tables:
        raise DefinitionError("change data needs the name of a table", do='postgres_changes(URL, "orders", slot=…)')
    if not re.fullmatch(r"[a-z0-9_]{1,54}", slot):
        raise DefinitionError(
            "the name of a slot must consist of at most 54 lower-case letters, digits and underscores", got=repr(slot)
        )
    names = tuple(sorted({_qualified(name) for name in tables}))
    return PostgresChanges(
        address=DatabaseAddress(url, password),
        tables=names,
        slot=slot,
        publication=publication or slot,
        has_snapshot=snapshot,
        spool=spool,
        kept_s=kept_seconds(keep),
    )


def _qualified(name: str) -> str:
    return name if "." in name else f"public.{name}"
