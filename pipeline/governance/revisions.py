"""The revision of a catalog: checked whenever a catalog is opened, and upgraded to the newest one if necessary."""

from __future__ import annotations

import threading

import sqlalchemy as sa

from pipeline.core.format_versions import require_known

FORMAT_VERSION = 5
"""The newest revision in `migrations/versions`. A catalog created before revisions existed has none: 0."""
VERSION_TABLE = "headwater_alembic_version"
"""The name of Alembic's table; a custom name, because other programs can use Alembic in the same database."""
_LOCKS = {"sqlite": "begin immediate", "postgresql": "select pg_advisory_xact_lock(7455143906141824)"}
"""For each database, the statement that locks out other processes until the end of the transaction."""
_UPGRADING = threading.Lock()


def bring_up_to_date(engine: sa.Engine, what: str) -> None:
    """Upgrade a new catalog or one of an earlier revision; raise `StorageError` for a later revision.

    If several processes open a catalog concurrently, it is upgraded once.
    """
    with engine.connect() as connection:
        version = _version(connection)
    if version in range(FORMAT_VERSION):
        with _UPGRADING, engine.begin() as connection:
            lock(connection)
            version = _version(connection)  # another process may have upgraded it in the meantime
            if version in range(FORMAT_VERSION):
                version = _upgraded(connection)
    require_known(version, FORMAT_VERSION, what, "upgrade Headwater, or give the project another catalog")


def lock(connection: sa.Connection) -> None:
    """Exclude other writers of a catalog until the end of a transaction in which nothing has been done yet."""
    if connection.dialect.name in _LOCKS:
        connection.exec_driver_sql(_LOCKS[connection.dialect.name])


def _version(connection: sa.Connection) -> int | str:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return 0
    text = connection.exec_driver_sql(f"select version_num from {VERSION_TABLE}").scalar()
    return int(text) if text and text.isdecimal() else text or 0


def _upgraded(connection: sa.Connection) -> int:
    from pipeline.governance.migrations import upgrade  # noqa: PLC0415 - Alembic, which most openings do not need

    upgrade(connection, VERSION_TABLE)
    return FORMAT_VERSION
