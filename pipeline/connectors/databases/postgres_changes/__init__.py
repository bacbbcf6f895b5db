"""Changes of PostgreSQL tables by logical replication."""

from pipeline.connectors.databases.postgres_changes.source import PostgresChanges, postgres_changes

__all__ = ["PostgresChanges", "postgres_changes"]
