"""The warehouse in Snowflake.

Delivery: exactly once. Rows are staged and copied into a temporary landing table; one transaction then changes the table
and records the version in the ledger, a table of the same schema. Whatever an interrupted attempt left is used or
replaced by the next one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import fsspec

from pipeline.core.errors import ConflictError, StorageError
from pipeline.warehouse.load_checks import missing_members
from pipeline.warehouse.snowflake import statements
from pipeline.warehouse.snowflake.column_types import SnowflakeColumn, columns_of, stored_name
from pipeline.warehouse.snowflake.connection import SnowflakeAddress
from pipeline.warehouse.snowflake.load_plan import LoadPlan, plan_load
from pipeline.warehouse.snowflake.queries import in_snowflake
from pipeline.warehouse.snowflake.sessions import SessionPool, SnowflakeSession
from pipeline.warehouse.snowflake.staged_files import UploadedRows, stage_rows, table_folder
from pipeline.warehouse.warehouse import ForeignKey, Load, LoadRecord, moment

if TYPE_CHECKING:
    import pyarrow as pa

_ATTEMPTS = 3
"""Attempts to load a version while other processes load the table too."""


def _nothing(statement: str) -> None:
    del statement


@dataclass(frozen=True)
class SnowflakeWarehouse:
    """A schema of a Snowflake account with the gold tables; sessions are opened when they are needed."""

    address: SnowflakeAddress
    reached: Callable[[str], None] = field(default=_nothing, repr=False, compare=False)
    """Is called with each statement before it is sent; tests end the process there."""
    sessions: SessionPool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Create an empty pool of sessions."""
        object.__setattr__(self, "sessions", SessionPool(self.address, self.reached))

    def require_writable(self) -> None:
        """Sign in and create ledger and stage; raise `StorageError` if that is not possible."""
        with self.sessions.session("headwater doctor") as session:
            _prepare(session)

    def loaded(self) -> dict[str, tuple[int, int]]:
        """Return the version and the manifest id of each table in the warehouse."""
        return {name: (record.version, record.manifest_id) for name, record in self.loads().items()}

    def loads(self) -> dict[str, LoadRecord]:
        """Return what is recorded of each table in the warehouse."""
        with self.sessions.session("headwater status") as session:
            if not _has_ledger(session):
                return {}
            return {str(row["TABLE_NAME"]): _record(row) for row in session.rows(statements.READ_LEDGER)}

    def load(self, load: Load, *, filesystem: fsspec.AbstractFileSystem | None = None) -> None:
        """Load a version of a table; see `Warehouse`.

        If another process loaded the table meanwhile, its version is taken into account. Raises `ConflictError` if that
        happens again and again.
        """
        with self.sessions.session(query_tag(load)) as session:
            for _ in range(_ATTEMPTS):
                if _Attempt(session, load, filesystem).run():
                    return
                session.rows(statements.ROLLBACK)
        raise ConflictError(
            f"other processes load table {load.name!r} of the warehouse at the same time",
            do="let one process run it, and run again",
        )

    def drop(self, name: str) -> None:
        """Drop a table and its record; if that is interrupted, dropping it again completes it."""
        with self.sessions.session(f"headwater forget {name}") as session:
            if not _has_ledger(session):
                return
            session.rows(statements.drop_table(name))
            session.rows(statements.forget(name))

    def query(self, text: str) -> pa.Table:
        """Return the rows of a SELECT in DuckDB's dialect; see `Warehouse`."""
        with self.sessions.session("headwater query") as session:
            return session.arrow(in_snowflake(text))

    def close(self) -> None:
        """Close the sessions."""
        self.sessions.close()


def _has_ledger(session: SnowflakeSession) -> bool:
    return bool(session.rows(statements.find_table(statements.LEDGER)))


def _prepare(session: SnowflakeSession) -> None:
    """Create ledger and stage; the stage first, so a schema with a ledger has both."""
    if not _has_ledger(session):
        session.rows(statements.CREATE_STAGE)
        session.rows(statements.CREATE_LEDGER)


def query_tag(load: Load) -> str:
    """Return the query tag of a load: the table and the run, by which costs are grouped."""
    return json.dumps({"app": "headwater", "table": load.name, "run": load.run_id})


@dataclass
class _Attempt:
    """One attempt to load a version."""

    session: SnowflakeSession
    load: Load
    filesystem: fsspec.AbstractFileSystem | None

    def run(self) -> bool:
        """Load the version; return whether the warehouse now has it."""
        _prepare(self.session)
        self.session.rows(statements.expect_table(self.load.name))
        loaded = self._loaded()
        if self.load.is_done(loaded):
            return True
        columns = columns_of(self.load.scan.schema)
        known = self._known_columns()
        if known is not None:
            self._require_own()
        plan = plan_load(self.load, loaded, known, columns)
        staged = stage_rows(self.session, self.load, plan.mode, columns, self.filesystem)
        if staged is None:  # rows without a key are gone
            plan = replace(plan, mode="replace")
            staged = stage_rows(self.session, self.load, plan.mode, columns, self.filesystem)
            if staged is None:
                raise AssertionError("a replacement needs no key")
        is_loaded = self._committed(plan, staged, columns, loaded)
        if is_loaded:
            self.session.rows(statements.remove(table_folder(self.load.name)))
        return is_loaded

    def _committed(
        self, plan: LoadPlan, staged: UploadedRows, columns: Sequence[SnowflakeColumn], loaded: tuple[int, int] | None
    ) -> bool:
        landing = f"HEADWATER_LANDING_{uuid.uuid4().hex}".upper()
        self.session.rows(statements.create_landing(landing, columns, is_merge=plan.mode == "merge"))
        if staged.rows:
            self.session.rows(statements.copy_into(landing, staged.folder))
        if self.session.number(statements.count(landing)) != staged.rows:
            return self.load.is_done(self._loaded())  # another attempt removed the staged files
        for foreign_key in self.load.foreign_keys:
            self._require_keys(landing, foreign_key, plan)
        for statement in plan.before:
            self.session.rows(statement)
        if plan.changes_columns:
            loaded = None
        return self._changed(plan, landing, columns, loaded)

    def _changed(
        self, plan: LoadPlan, landing: str, columns: Sequence[SnowflakeColumn], loaded: tuple[int, int] | None
    ) -> bool:
        """Change the table and the ledger in one transaction."""
        load = self.load
        self.session.rows(statements.BEGIN)
        self.session.rows(statements.claim(load.name, landing))
        if self._loaded() != loaded:
            return False
        if plan.mode == "replace":
            self.session.rows(statements.delete_all(load.name))
        if plan.mode == "merge" and load.key:
            self.session.rows(statements.merge(load.name, landing, columns, load.key))
        else:
            self.session.rows(statements.insert(load.name, landing, columns))
        rows = self.session.number(statements.count(stored_name(load.name)))
        if rows != load.scan.rows:
            return self._not_the_version(plan, rows)
        self.session.rows(statements.record(load, rows, plan.mode))
        self.session.rows(statements.COMMIT)
        return True

    def _not_the_version(self, plan: LoadPlan, rows: int) -> bool:
        """Let the next attempt replace the table, whose rows are not those of the loaded version."""
        self.session.rows(statements.ROLLBACK)
        if plan.mode == "replace":
            raise StorageError(
                f"table {self.load.name!r} of the warehouse does not have the rows of version {self.load.version}",
                got=f"{rows:,} rows, not {self.load.scan.rows:,}",
                do="let only Headwater write it, exempt its role from row access policies, and run again",
            )
        self.session.rows(statements.mark_unknown(self.load.name))
        return False

    def _require_keys(self, landing: str, foreign_key: ForeignKey, plan: LoadPlan) -> None:
        """Raise `StorageError` for a value of a foreign key that the other table does not have."""
        table = foreign_key.table
        versions = self.session.rows(statements.loaded_version(table))
        if all(row["VERSION"] is None for row in versions):
            return
        missing = statements.missing_keys(landing, foreign_key, is_merge=plan.mode == "merge")
        (row,) = self.session.rows(missing)
        if row["ROW_COUNT"]:
            raise missing_members(self.load.name, foreign_key, int(row["ROW_COUNT"]), row["EXAMPLE"])

    def _loaded(self) -> tuple[int, int] | None:
        rows = self.session.rows(statements.loaded_version(self.load.name))
        known = [(int(row["VERSION"]), int(row["MANIFEST_ID"])) for row in rows if row["VERSION"] is not None]
        return max(known, default=None)

    def _require_own(self) -> None:
        """Raise `StorageError` for a table with rows that no load has written."""
        rows = self.session.rows(statements.loaded_version(self.load.name))
        if any(row["ATTEMPT"] is not None for row in rows):
            return
        if self.session.number(statements.count(stored_name(self.load.name))):
            raise StorageError(
                f"the warehouse has a table {stored_name(self.load.name)!r} that Headwater did not load",
                do="drop or rename it, or use another schema",
            )

    def _known_columns(self) -> dict[str, str] | None:
        """Return the columns of the table with their types as Snowflake stores them; `None` if it does not exist."""
        if not self.session.rows(statements.find_table(self.load.name)):
            return None
        rows = self.session.rows(statements.describe(self.load.name))
        return {str(row["name"]): str(row["type"]) for row in rows}


def _record(row: dict[str, Any]) -> LoadRecord:
    committed_us, loaded_us = row["COMMITTED_US"], row["LOADED_US"]
    return LoadRecord(
        version=int(row["VERSION"]),
        manifest_id=int(row["MANIFEST_ID"]),
        rows=None if row["ROW_COUNT"] is None else int(row["ROW_COUNT"]),
        committed_at=moment(None if committed_us is None else int(committed_us)),
        loaded_at=moment(None if loaded_us is None else int(loaded_us)),
    )
