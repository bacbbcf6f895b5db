"""Upgrades of the catalog with Alembic: one file in `versions/` per revision, numbered 0001, 0002 and so on.

A new revision comes with its number in `pipeline.governance.revisions` and a golden folder of the one before.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import command
from alembic.config import Config


def upgrade(connection: sa.Connection, version_table: str) -> None:
    """Upgrade a catalog to the newest revision, in the transaction of the connection. Not thread-safe."""
    config = Config(attributes={"connection": connection, "version_table": version_table})
    config.set_main_option("script_location", f"{__name__}:")
    command.upgrade(config, "head")
