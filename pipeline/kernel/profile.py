"""The engine's profile of a statement: rows scanned, bytes read, memory and spilling."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb


@dataclass(frozen=True)
class Profile:
    """The measurements of one statement, or the total of several."""

    seconds: float = 0.0
    """Wall time; for concurrent tasks, their sum."""
    read_bytes: int = 0
    row_groups: int = 0
    """Row groups in the Parquet files; `row_groups_read` of them were not skipped."""
    row_groups_read: int = 0
    peak_bytes: int = 0
    """Peak memory; for several statements, the highest peak."""
    spilled_bytes: int = 0
    scanned: Mapping[str, int] = field(default_factory=dict)
    """Rows scanned by each table function, for example `READ_CSV`; `TABLE` for the engine's own tables."""

    def __add__(self, other: Profile) -> Profile:
        """Return the total of both."""
        return Profile(
            self.seconds + other.seconds,
            self.read_bytes + other.read_bytes,
            self.row_groups + other.row_groups,
            self.row_groups_read + other.row_groups_read,
            max(self.peak_bytes, other.peak_bytes),
            max(self.spilled_bytes, other.spilled_bytes),
            {n: self.scanned.get(n, 0) + other.scanned.get(n, 0) for n in {**self.scanned, **other.scanned}},
        )


def start_profiling(con: duckdb.DuckDBPyConnection) -> None:
    """Enable profiling on a connection, for `last_profile`."""
    con.execute("pragma enable_profiling = 'no_output'; set profiling_coverage = 'ALL'")


def last_profile(con: duckdb.DuckDBPyConnection) -> Profile:
    """Return the profile of a connection's last statement."""
    document = json.loads(con.get_profiling_information(format="json"))
    query, system = document.get("query", {}), document.get("system", {})
    scanned: dict[str, int] = {}
    for node in _nodes(document):
        if node.get("type") == "TABLE_SCAN":
            name = str(node.get("extra_info", {}).get("Function") or "TABLE")
            scanned[name] = scanned.get(name, 0) + int(node.get("rows_scanned", 0))
    return Profile(
        seconds=float(query.get("total_time", 0)),
        read_bytes=int(document.get("io", {}).get("total_bytes_read", 0)),
        row_groups=int(query.get("total_row_groups_to_scan", 0)),
        row_groups_read=int(query.get("total_row_groups_scanned", 0)),
        peak_bytes=int(system.get("peak_buffer_memory", 0)),
        spilled_bytes=int(system.get("peak_temp_dir_size", 0)),
        scanned=scanned,
    )


def _nodes(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    waiting = list(document.get("operator", ()))
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.get("children", ()))
