"""The systems that can be looked at, by the scheme of their URI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import cast

import pyarrow as pa

from pipeline.core.cursors import Bound
from pipeline.core.discovery import Discoverable, DiscoveryLimits
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION, Divisible, Reader

GROUP = "headwater.discovery"
"""The entry point group in which packages register `function(address)` under a scheme; it returns a `Discoverable`."""
_DATABASES, _FILES = "pipeline.connectors.discovery.databases", "pipeline.connectors.discovery.files"
_LOGS, _TABLES = "pipeline.connectors.discovery.logs", "pipeline.connectors.discovery.tables"
_BY_SCHEME = {
    **dict.fromkeys(("postgresql", "postgres", "mysql", "mariadb", "sqlite", "duckdb"), _DATABASES),
    **dict.fromkeys(("", "file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "sftp", "ftp", "ftps"), _FILES),
    **dict.fromkeys(("kafka", "nats", "redis", "rediss", "rabbitmq-stream"), _LOGS),
    "mongodb": "pipeline.connectors.discovery.mongodb",
    **dict.fromkeys(("delta-sharing", "iceberg"), _TABLES),
    "http": "pipeline.connectors.discovery.endpoints",
    "https": "pipeline.connectors.discovery.endpoints",
}


@dataclass(frozen=True)
class SystemAddress:
    """Where a system is, without credentials, and how to reach it."""

    uri: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Options of the connector; credentials are references, such as `env:NAME`."""

    @property
    def scheme(self) -> str:
        """The scheme in lower case; empty for a path."""
        head, mark, _ = self.uri.partition("://")
        return head.lower() if mark else ""


def discoverable(address: SystemAddress) -> Discoverable:
    """Return what looks at a system; raise `RequestError` for a scheme that no connector knows."""
    others = {entry.name: entry for entry in entry_points(group=GROUP)}
    if address.scheme in others:
        return cast("Discoverable", others[address.scheme].load()(address))
    module = _BY_SCHEME.get(address.scheme) or _BY_SCHEME.get(address.scheme.partition("+")[0])
    if module is None:
        raise RequestError(
            f"no connector can look at {address.scheme}://",
            do=did_you_mean(address.scheme, {*_BY_SCHEME, *others} - {""}),
        )
    return cast("Discoverable", import_module(module).discoverable(address))


def first_rows(reader: Reader, limits: DiscoveryLimits) -> pa.Table:
    """Return the first rows that a reader plans, with inferred types; none if it has no rows."""
    tables: list[pa.Table] = []
    schema: Schema | None = None
    rows = 0
    for split in reader.plan(None, Bound(rows=limits.rows, size_bytes=limits.size_bytes)).splits:
        schema = schema or reader.schema(split.source_object)
        is_divisible = isinstance(reader, Divisible) and split.is_whole
        part = reader.splits(split.source_object, limits.size_bytes)[0] if is_divisible else split  # type: ignore[attr-defined]
        tables.append(reader.read(part, schema).rows.drop_columns([POSITION]))
        rows += tables[-1].num_rows
        if rows >= limits.rows:
            break
    return pa.concat_tables(tables).slice(0, limits.rows) if tables else pa.table({})
