"""The tables that one operation reads: each at one version, and only what the caller may see."""

from __future__ import annotations

from pipeline.lake import Version
from serve.access.authorization import Grant
from serve.access.caller import Caller
from serve.metrics.queries import MetricQuery, PreparedMetrics
from serve.queries.parameters import time_of
from serve.queries.query import Condition
from serve.queries.select import VisibleRelation
from serve.reading import Reading
from serve.tables import identity_of


class ReadSnapshot:
    """What an operation reads. Two fields that read a table read the same version, unless one names another."""

    def __init__(self, reading: Reading, caller: Caller) -> None:
        """Read nothing yet."""
        self.reading = reading
        self._caller = caller
        self._versions: dict[str, Version] = {}
        self.seen: list[tuple[str, str, str]] = []
        """The table, identity of the version and fingerprint of what is read."""
        self.newest: dict[str, str] = {}
        """The identities of the newest versions that are read."""
        self.is_timed = False
        """Whether a version is that of a time, so that it may be another one later."""
        self.numbers: dict[str, int] = {}
        """The version of each table, for the audit log; of several, the last."""
        self.reasons: dict[str, str] = {}
        """Why each table may be read, for the audit log."""

    def grant(self, table: str) -> Grant:
        """Return how the caller may read a table; raise `UnknownError` if it may not."""
        grant = self.reading.authorizer.grant(self._caller, table)
        self.reasons[table] = grant.reason
        return grant

    def version(self, table: str, number: int | None, at: str | None) -> Version:
        """Return the newest version, or the one with a number or of a time. Raises `HttpError` for those that are not there."""
        if number is not None or at is not None:
            self.is_timed |= at is not None
            return self.reading.tables.version(table, number, None if at is None else time_of("at", at))
        if table not in self._versions:
            self._versions[table] = self.reading.tables.version(table)
        self.newest[table] = identity_of(self._versions[table])
        return self._versions[table]

    def relation(self, table: str, version: Version, where: Condition | None = None) -> VisibleRelation:
        """Return what the caller may see of a version."""
        relation = self.reading.authorizer.relation(self.grant(table), self._caller, version, where)
        self.numbers[table] = version.number
        self.seen.append((relation.table, relation.identity, relation.fingerprint))
        return relation

    def metrics(self, query: MetricQuery) -> PreparedMetrics:
        """Return the statement of metrics, over the newest versions of their tables."""
        prepared = self.reading.metrics.prepare(query, self._caller)
        self.seen.append(("metrics", prepared.etag, ""))
        self.newest |= dict(prepared.identities)
        self.numbers |= dict(prepared.versions)
        self.reasons |= dict.fromkeys(prepared.versions, "policies of the tables")
        return prepared
