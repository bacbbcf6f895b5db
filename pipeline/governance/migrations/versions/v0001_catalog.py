"""The catalog when revisions were introduced. An older catalog is adopted, and missing columns of counts are added."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_COUNTS = ("rows_in", "rows_made", "rows_out", "quarantined", "dropped", "late", "bytes_in", "superseded", "deletes")


def upgrade() -> None:
    """Create the tables and the columns of counts that do not exist."""
    _make_runs()
    _make_versions()
    op.create_table(
        "leases",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("holder", sa.String, nullable=False),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("machine", sa.String, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("until", sa.Float, nullable=False),
        sa.Column("wish", sa.String, nullable=False),
        sa.Column("facts_json", sa.Text, nullable=False),
        if_not_exists=True,
    )
    columns = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("steps")}
    for name in _COUNTS:
        if name not in columns:
            op.add_column("steps", _count(name))


def _make_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("project", sa.String, nullable=False),
        sa.Column("env", sa.String, nullable=False),
        sa.Column("started_at", sa.String, nullable=False),
        sa.Column("ended_at", sa.String),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("error", sa.Text),
        if_not_exists=True,
    )
    op.create_table(
        "steps",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("layer", sa.String, nullable=False),
        sa.Column("decision", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("strategy", sa.String, nullable=False),
        sa.Column("executor", sa.String, nullable=False),
        sa.Column("version", sa.BigInteger),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("total_rows", sa.BigInteger, nullable=False),
        *(_count(name) for name in _COUNTS),
        if_not_exists=True,
    )
    op.create_table(
        "checks",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("expectation", sa.String, primary_key=True),
        sa.Column("condition", sa.Text, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("violations", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "verdicts",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("accepted", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("metrics_json", sa.Text, nullable=False),
        sa.Column("uri", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )


def _make_versions() -> None:
    op.create_table(
        "versions",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True),
        sa.Column("layer", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("schema_json", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "lineage",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True),
        sa.Column("input", sa.String, primary_key=True),
        sa.Column("input_version", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "partitions",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("partition_json", sa.String, primary_key=True),
        sa.Column("backfill", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("error", sa.Text),
        if_not_exists=True,
    )


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
