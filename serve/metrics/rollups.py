"""Chooses the pre-aggregation that answers metrics: one that is computed from the rows that the caller sees, as they are now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipeline.core.graph import Graph
from pipeline.kernel.types import stored_type
from pipeline.lake import Version
from pipeline.warehouse.modelling.metric_sql import MetricPart, tables_of_part
from pipeline.warehouse.modelling.rollups import EXACT, Rollup, RollupMatch, match, rollups_of
from serve.access.authorization import Authorizer
from serve.access.caller import Caller
from serve.tables import Tables


@dataclass(frozen=True)
class RollupQuestion:
    """What is asked of a part: dimensions to group or filter by, a grain, the limits of time, and the types of the aggregates."""

    dimensions: tuple[str, ...]
    grain: str
    bounds: tuple[str, ...]
    types: tuple[str, ...]


@dataclass(frozen=True)
class RollupChoice:
    """A roll-up that answers a part of a query, and the versions of the tables that this depends on."""

    match: RollupMatch
    version: Version
    versions: Mapping[str, Version]
    types: tuple[str, ...]
    """Those of the aggregates when they are computed from rows."""


class MetricRollups:
    """The roll-ups of a project's tables. Thread-safe."""

    def __init__(self, graph: Graph, tables: Tables, authorizer: Authorizer) -> None:
        """Find them among the tables that are served."""
        self._rollups = rollups_of(graph)
        self._tables = tables
        self._authorizer = authorizer

    def has(self, table: str) -> bool:
        """Return whether a table has roll-ups."""
        return table in self._rollups

    def choose(self, part: MetricPart, asked: RollupQuestion, caller: Caller) -> RollupChoice | None:
        """Return the smallest roll-up that answers a part exactly as its rows would, or `None` if there is none."""
        found = []
        for rollup in self._rollups.get(part.first.table, ()):
            matched = match(part, asked.dimensions, asked.grain, rollup, has_bounds=bool(asked.bounds))
            if matched is None or not all(_begins(matched.grain, text) for text in asked.bounds):
                continue
            versions = self._versions(rollup, tables_of_part(part, asked.dimensions, asked.grain))
            if versions is None or not self._sees_all(part, asked.dimensions, caller, versions):
                continue
            version = versions[rollup.name]
            if _is_exact(matched, part, version, asked.types) and self._is_current(rollup, versions):
                found.append(RollupChoice(matched, version, versions, asked.types))
        return min(found, key=lambda each: each.version.rows, default=None)

    def _versions(self, rollup: Rollup, others: Sequence[str]) -> dict[str, Version] | None:
        names = dict.fromkeys((rollup.name, *rollup.tables, *others))
        if any(self._tables.definition_or_none(name) is None for name in names):
            return None
        newest = {name: self._tables.newest(name) for name in names}
        known = {name: version for name, version in newest.items() if version is not None}
        return known if len(known) == len(newest) else None

    def _sees_all(
        self, part: MetricPart, dimensions: Sequence[str], caller: Caller, versions: Mapping[str, Version]
    ) -> bool:
        """Return whether the caller sees all rows of the tables, and the used columns as they are."""
        used: dict[str, set[str]] = {part.first.table: set()}
        for name in dimensions:
            each = part.first.dimension(name)
            if each is not None:
                used.setdefault(each.table or part.first.table, set()).add(each.column)
        for name, columns in used.items():
            grant = self._authorizer.grant(caller, name)
            if grant.policy is not None and grant.policy.rows is not None:
                return False
            if not columns <= self._authorizer.columns(grant, caller, versions[name]).unmasked:
                return False
        return True

    def _is_current(self, rollup: Rollup, versions: Mapping[str, Version]) -> bool:
        """Return whether a roll-up has all groups of the tables as they are now, by its definition as it is now."""
        manifest, definition = versions[rollup.name].manifest, self._tables.definition_or_none(rollup.name)
        if manifest is None or definition is None or manifest.fingerprint != definition.fingerprint:
            return False
        if manifest.mode != "overwrite" or manifest.flow.quarantined or manifest.flow.dropped:
            return False
        table = versions[rollup.table].manifest
        for name in rollup.tables:
            now = versions[name].manifest_id
            if now is None or manifest.manifest_ids.get(name) != now:
                return False
            # keys that were looked up in another version of a dimension may be missing there
            if name != rollup.table and (table is None or table.manifest_ids.get(name) != now):
                return False
        return True


def _is_exact(matched: RollupMatch, part: MetricPart, version: Version, types: Sequence[str]) -> bool:
    """Return whether sums of the stored sums are those of the rows, which holds unless they are floating-point numbers."""
    stored = version.schema.as_dict()
    for each, column, kind in zip(part.aggregates, matched.aggregates, types, strict=True):
        if column not in stored or stored[column] != stored_type(kind):
            return False
        if each.function == "sum" and kind in {"FLOAT", "DOUBLE"}:
            return False
    return all(column in stored for _, column in matched.dimensions)


def _begins(grain: str, text: str) -> bool:
    """Return whether a time is the begin of a period."""
    time = datetime.fromisoformat(text)
    time = time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo is not None else time
    if grain == EXACT:
        return True
    starts = {
        "day": True,
        "week": time.weekday() == 0,
        "month": time.day == 1,
        "quarter": time.day == 1 and time.month % 3 == 1,
        "year": time.day == 1 and time.month == 1,
    }
    return starts[grain] and time - time.replace(hour=0, minute=0, second=0, microsecond=0) == timedelta()
