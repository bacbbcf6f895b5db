"""What a caller may read: decided from the policies before a query is planned, and part of its innermost relation."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import duckdb

from pipeline.core.definitions import StoredDefinition
from pipeline.core.errors import HeadwaterError, RequestError
from pipeline.core.schema import Column, Schema
from pipeline.governance.access_policies import AccessPolicy, policies_of
from pipeline.kernel.scan import no_rows
from pipeline.kernel.types import stored_type
from pipeline.lake import Version
from pipeline.lake.changed_rows import CHANGE_TYPE, TypedSelect, changed_rows
from serve.access.caller import Caller
from serve.http_errors import DeniedError, ForbiddenError, HttpError, UnauthenticatedError
from serve.queries.engine import Engine
from serve.queries.expressions import is_plain
from serve.queries.query import Condition, conjuncts
from serve.queries.select import VisibleRelation
from serve.tables import Tables, identity_of, unknown_table

_LOG = logging.getLogger("headwater.serve")
_MOST_SCHEMAS = 1_024


@dataclass(frozen=True)
class Grant:
    """That a caller may read a table, and the policy by which; without one, the whole table."""

    definition: StoredDefinition
    policy: AccessPolicy | None
    reason: str
    """Why, for the audit log."""


@dataclass(frozen=True)
class CallerColumns:
    """The columns of a table that a caller may read, and its key if the caller sees that as it is."""

    schema: Schema
    key: tuple[str, ...]
    fingerprint: str
    """Identifies the policy and the claims by which it was made; equal for callers that see the same."""
    masked: frozenset[str] = frozenset()
    """Those whose values are not those of the table, or that are hidden."""

    @property
    def unmasked(self) -> frozenset[str]:
        """Those whose values are those of the table."""
        return frozenset(self.schema.names) - self.masked


class Authorizer:
    """Decides by the policies of a project. A table that a caller may not read does not exist for it. Thread-safe."""

    def __init__(self, policies: Iterable[AccessPolicy], tables: Tables, engine: Engine) -> None:
        """Use the policies in the order of the definitions."""
        declared = tuple(policies)
        self._policies = {each.name: policies_of(declared, each) for each in tables.definitions}
        self._claims = sorted({name for policy in declared for name in policy.claims})
        self._tables = tables
        self._engine = engine
        self._schemas: OrderedDict[tuple[str, Schema], Schema] = OrderedDict()
        self._lock = threading.Lock()

    def fingerprint(self, caller: Caller) -> str:
        """Return the SHA-256 of all that decides what a caller sees: callers with the same hash get the same responses."""
        known = tuple((name, caller.claims.get(name)) for name in self._claims)
        decisive = (caller.is_anonymous, tuple(sorted(caller.roles)), caller.scopes, known)
        return hashlib.sha256(repr(decisive).encode()).hexdigest()

    def rights_to(self, caller: Caller, tables: Iterable[str]) -> str:
        """Return the SHA-256 of all that decides what a caller sees of some tables, with the text of the policies.

        It is for what is kept longer than a process knows its policies. Raises `UnknownError` for a table that it may not read.
        """
        policies = []
        for name in sorted(tables):
            policy = self.grant(caller, name).policy
            policies.append((name, None if policy is None else policy.fingerprint(caller.claims)))
        return hashlib.sha256(repr((self.fingerprint(caller), policies)).encode()).hexdigest()

    def readable(self, caller: Caller) -> list[Grant]:
        """Return the tables that a caller may read, in dependency order."""
        grants = (self._grant(caller, definition) for definition in self._tables.definitions)
        return [grant for grant in grants if grant is not None]

    def grant(self, caller: Caller, name: str) -> Grant:
        """Return how a caller may read a table; raise `UnknownError` if it may not, as if there were no such table."""
        definition = self._tables.definition_or_none(name)
        grant = None if definition is None else self._grant(caller, definition)
        if grant is None:
            raise unknown_table(name, [each.definition.name for each in self.readable(caller)])
        return grant

    def relation(
        self, grant: Grant, caller: Caller, version: Version, where: Condition | None = None
    ) -> VisibleRelation:
        """Return the rows and columns of a version that a caller may read, without files that `where` excludes.

        Raises `DeniedError` if the policy cannot be applied to the table as it is.
        """
        # the bounds of a file are those of the real values, so they decide nothing about masked ones
        conditions = [each for each in conjuncts(where) if each.column.name not in _masked(grant.policy)]
        rows = self._tables.rows(grant.definition.name, version, conditions)
        return self._visible(grant, caller, version, rows)

    def changes(self, grant: Grant, caller: Caller, before: Version, after: Version) -> VisibleRelation:
        """Return how the rows that a caller may read differ in two versions; see `pipeline.lake.changed_rows`.

        A row that the policy did not show before, and shows now, is inserted for its caller. Raises `HttpError` for a table
        with a column of the name of one that tells changes, and `DeniedError` as `relation` does.
        """
        rows = self._tables.changed(grant.definition.name, before, after)
        old, new = (self._visible(grant, caller, v, sql) for v, sql in zip((before, after), rows, strict=True))
        key = new.key if old.key == new.key else ()
        try:
            found = changed_rows(TypedSelect(old.sql, old.schema), TypedSelect(new.sql, new.schema), key)
        except RequestError as error:
            raise HttpError(error.problem, got=error.got, do=error.do) from error
        key = (*found.key, CHANGE_TYPE) if found.key else ()  # an updated row is there as it was and as it is
        identity = f"{old.identity} {new.identity}"
        return replace(new, sql=found.sql, schema=found.schema, identity=identity, key=key)

    def columns(self, grant: Grant, caller: Caller, version: Version) -> CallerColumns:
        """Return the columns of a version that a caller may read; raise `DeniedError` as `relation` does."""
        policy, key = grant.policy, grant.definition.key
        if policy is None:
            return CallerColumns(version.schema, key, "all")
        seen = policy.fingerprint(caller.claims)
        schema = self._schema(policy, caller, version.schema, seen, grant.definition.name)
        masked = _masked(policy)
        return CallerColumns(schema, key if masked.isdisjoint(key) else (), seen, masked)

    def estimate(self, grant: Grant, version: Version, where: Condition | None) -> int | None:
        """Return about how many rows a query has: those of the files that it reads. `None` if a policy selects rows or values."""
        if grant.policy is not None and (grant.policy.rows is not None or grant.policy.mask):
            return None
        return self._tables.scan(grant.definition.name, version, tuple(conjuncts(where))).rows

    def _visible(self, grant: Grant, caller: Caller, version: Version, rows: str) -> VisibleRelation:
        name, policy, visible = grant.definition.name, grant.policy, self.columns(grant, caller, version)
        sql = rows
        if policy is not None:
            sql = policy.relation(rows, version.schema.names, caller.claims, visible.schema.as_dict())
        identity = identity_of(version)
        return VisibleRelation(name, version.number, sql, visible.schema, identity, visible.key, visible.fingerprint)

    def _grant(self, caller: Caller, definition: StoredDefinition) -> Grant | None:
        if not caller.is_anonymous and not caller.may("read", definition.name):
            return None
        policies = self._policies[definition.name]
        for policy in policies:
            if policy.is_for(caller.roles, is_anonymous=caller.is_anonymous):
                return Grant(definition, policy, f"policy {policy.name}")
        if policies or caller.is_anonymous:
            return None
        return Grant(definition, None, "no policy names the table")

    def _schema(self, policy: AccessPolicy, caller: Caller, schema: Schema, seen: str, name: str) -> Schema:
        with self._lock:
            known = self._schemas.get((seen, schema))
        if known is not None:
            return known
        try:
            unknown = {*policy.hide, *(column for column, _ in policy.mask)} - set(schema.names)
            if unknown:
                raise DeniedError(f"it names columns that table {name!r} does not have", got=", ".join(sorted(unknown)))
            masked = self._engine.schema(policy.relation(no_rows(schema), schema.names, caller.claims))
        except (duckdb.Error, HeadwaterError) as error:
            _LOG.error("policy %s cannot be applied to table %r: %s (%s)", policy.name, name, error, policy.place)
            raise DeniedError(
                f"the access policy of table {name!r} cannot be applied", do="see the server's log"
            ) from error
        shown = Schema(tuple(replace(each, type=_readable_type(each)) for each in masked.columns))
        with self._lock:
            self._schemas[seen, schema] = shown
            if len(self._schemas) > _MOST_SCHEMAS:
                self._schemas.popitem(last=False)
        return shown


def _readable_type(column: Column) -> str:
    """Return the type as which a column is shown: masks may have types that interfaces do not know, such as BIT."""
    return column.type if is_plain(column) else stored_type(column.type)


def _masked(policy: AccessPolicy | None) -> frozenset[str]:
    return frozenset() if policy is None else frozenset({*policy.hide, *(column for column, _ in policy.mask)})


def require_scope(caller: Caller, scope: str, name: str = "") -> None:
    """Raise `ForbiddenError` if a caller may not do something, and `UnauthenticatedError` if it is one without a key."""
    if not caller.may(scope, name):
        of = f" for {name!r}" if name else ""
        if caller.is_anonymous:
            raise UnauthenticatedError("a key or token is needed", do=f"send one with the scope {scope!r}{of}")
        raise ForbiddenError(f"the key or token lacks the scope {scope!r}{of}", do="use one that has it")
