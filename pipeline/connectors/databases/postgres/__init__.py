"""PostgreSQL: tables by transaction, and queries by cursor."""

from pipeline.connectors.databases.postgres.source import Postgres, postgres

__all__ = ["Postgres", "postgres"]
