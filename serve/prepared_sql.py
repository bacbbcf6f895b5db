"""SQL of a caller, checked and bound to what the caller may see, ready to be run by any interface."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

import duckdb

from pipeline.core.schema import Column, Schema
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import inner_types, stored_type
from serve.access.caller import Caller
from serve.http_errors import HttpError
from serve.metrics.queries import PreparedMetrics
from serve.metrics.words import metric_query
from serve.queries.select import PageStatement, Statement
from serve.queries.sql_guard import guarded
from serve.queries.values import shown
from serve.reading import Reading

_LOG = logging.getLogger("headwater.serve")
NO_COLUMN = re.compile(r'Referenced column "([^"]+)" not found|does not have a column named "([^"]+)"')
"""What the engine says about a column that there is not."""
_NO_TYPES = ("VARIANT", "GEOMETRY")


@dataclass(frozen=True)
class PreparedSql:
    """A statement of a caller, ready to be run, and the versions of the tables that it reads."""

    statement: PageStatement
    versions: Mapping[str, int]
    identities: tuple[tuple[str, str], ...]
    """Of these versions; see `serve.tables.identity_of`."""
    etag: str
    is_stable: bool


def prepare(
    reading: Reading, caller: Caller, text: str, limit: int | None, *, own_types: Collection[str] = ()
) -> PreparedSql:
    """Check a statement, and put what the caller may see in place of its tables.

    The columns have types that a lake stores, or one of `own_types`. The statement returns one row more than `limit`. Raises `HttpError` for what the guard does not allow, and for columns
    and types that do not fit.
    """
    grants = {grant.definition.name: grant for grant in reading.authorizer.readable(caller)}
    checked = guarded(text, grants)
    versions = {name: reading.tables.version(name) for name in checked.tables}
    relations = {name: reading.authorizer.relation(grants[name], caller, version) for name, version in versions.items()}
    metrics = {name: _metrics(reading, caller, *texts) for name, texts in checked.metrics.items()}
    sql = checked.sql(lambda name: relations[name].sql if name in relations else metrics[name].statement.statement.sql)
    values = tuple(value for each in metrics.values() for value in each.statement.statement.values)
    schema = _schema(reading, Statement(sql, values))
    _require_returnable(schema)
    columns = tuple(
        Column(column.name, column.type if column.type in own_types else stored_type(column.type))
        for column in schema.columns
    )
    casts = ", ".join(
        quoted(column.name)
        if column.type == before.type
        else f"cast({quoted(column.name)} as {column.type}) as {quoted(column.name)}"
        for column, before in zip(columns, schema.columns, strict=True)
    )
    bound = f"select {casts} from ({sql})" + ("" if limit is None else f" limit {limit + 1}")
    seen = (
        checked.tree.sql("duckdb"),
        limit,
        [(each.table, each.identity, each.fingerprint) for each in relations.values()],
        [each.etag for each in metrics.values()],
    )
    identities = {name: each.identity for name, each in relations.items()}
    numbers = {name: version.number for name, version in versions.items()}
    for each in metrics.values():
        identities |= dict(each.identities)
        numbers |= each.versions
    return PreparedSql(
        PageStatement(Statement(bound, values), Schema(columns)),
        numbers,
        tuple(identities.items()),
        hashlib.sha256(repr(seen).encode()).hexdigest()[:32],
        checked.is_stable,
    )


def _metrics(reading: Reading, caller: Caller, names: str, words: str) -> PreparedMetrics:
    """Return the statement of `metric(names, words)`; raise `HttpError` for words of SQL."""
    pairs = parse_qsl(words, keep_blank_values=True)
    for name, _ in pairs:
        if name in {"order", "limit"}:
            raise HttpError(f"{name!r} is no word of metric(…)", do="write ORDER BY and LIMIT in the SELECT")
    query = metric_query(reading.metrics, [each.strip() for each in names.split(",")], pairs, caller)
    return reading.metrics.prepare(replace(query, limit=None), caller)


def _require_returnable(schema: Schema) -> None:
    """Raise `HttpError` for a column of a type that not all media types have, such as an object without names."""
    for column in schema.columns:
        wrong = _not_returnable(column.type)
        if wrong is not None:
            do = "cast it to text" if wrong in _NO_TYPES else "give each of its values a name: {'a': 1}"
            raise HttpError(f"the column {shown(column.name)} cannot be returned", got=shown(wrong), do=do)


def _not_returnable(kind: str) -> str | None:
    """Return the type, or the one inside it, that cannot be returned."""
    if kind in _NO_TYPES or kind == "STRUCT" or re.fullmatch(r"TUPLE\(.*\)", kind, re.DOTALL):
        return kind
    return next(
        (each for part in (inner_types(kind) or {}).values() if (each := _not_returnable(part)) is not None), None
    )


def _schema(reading: Reading, made: Statement) -> Schema:
    try:
        return reading.engine.schema(made.sql, made.values)
    except duckdb.Error as error:
        # the engine's text is not for the caller: it quotes the statement, which contains the policies
        _LOG.info("a statement of a caller does not fit: %s", error)
        column = NO_COLUMN.search(str(error).partition("\n")[0])
        problem = (
            "the columns or types do not fit"
            if column is None
            else f"there is no column {shown(column[1] or column[2])}"
        )
        raise HttpError(problem, do="see /v1/tables for the columns of each table") from error
