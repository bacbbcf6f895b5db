"""Queries of tables in PostgREST syntax: `?carrier=eq.UA&dep_delay=gt.60&order=dep_delay.desc`.

A query is parsed from the request's parameters and the table's columns. Every name in it is a column of the table;
every value is text in the format of its column's type, which is bound and cast later.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.core.as_of import AsOf
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.core.schema import Column, Schema
from serve.http_errors import HttpError

DEFAULT_LIMIT, MOST_ROWS = 100, 10_000
MOST_OFFSET = 1 << 40
WORDS = ("select", "order", "limit", "offset", "version", "at")
"""Reserved parameters, which are not columns."""
COMPARISONS = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
OPERATORS = (*COMPARISONS, "like", "in", "is")

_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?"
_DATE = r"\d{4}-\d\d-\d\d"
_TIME = rf"{_DATE}([T ]\d\d:\d\d(:\d\d(\.\d{{1,6}})?)?)?"
_INTEGER = (r"[+-]?\d{1,40}", "an integer")
_FORMS = {
    "TINYINT": _INTEGER,
    "SMALLINT": _INTEGER,
    "INTEGER": _INTEGER,
    "BIGINT": _INTEGER,
    "FLOAT": (_NUMBER, "a number"),
    "DOUBLE": (_NUMBER, "a number"),
    "BOOLEAN": ("true|false", "true or false"),
    "DATE": (_DATE, "a date like 2013-07-01"),
    "TIMESTAMP": (_TIME, "a time without time zone like 2013-07-01T12:00:00"),
    "TIMESTAMPTZ": (
        _TIME + r"(Z|[+-]\d\d(:?\d\d)?)?",
        "a time like 2013-07-01T12:00:00Z, with a plus sign encoded as %2B",
    ),
    "VARCHAR": (r"[\s\S]*", "text"),
}


@dataclass(frozen=True)
class Filter:
    """A condition on one column. `values` contains one value, for `in` one or more, for `is` none."""

    column: Column
    operator: str
    values: tuple[str, ...] = ()
    is_null: bool = True
    """For `is`: whether the condition is `is null`."""


@dataclass(frozen=True)
class Ordering:
    """A column to order by, nulls last."""

    column: str
    descending: bool = False

    def __str__(self) -> str:
        """Return the ordering in query syntax."""
        return f"{self.column}.desc" if self.descending else self.column


@dataclass(frozen=True)
class Query:
    """The requested columns, filters, order and page."""

    select: tuple[str, ...]
    filters: tuple[Filter, ...] = ()
    order: tuple[Ordering, ...] = ()
    limit: int = DEFAULT_LIMIT
    offset: int = 0


@dataclass(frozen=True)
class Parameters:
    """The parameters of a request: reserved words, each once, and conditions in their order."""

    words: dict[str, str]
    conditions: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]], columns: Sequence[str] = ()) -> Parameters:
        """Separate reserved words from conditions; raise `HttpError` for a repeated word.

        A column with the name of a reserved word is filtered if the value starts with an operator: `order=eq.7`.
        """
        words: dict[str, str] = {}
        conditions = []
        for name, value in pairs:
            is_condition = name in columns and value.partition(".")[0] in OPERATORS
            if name not in WORDS or is_condition:
                conditions.append((name, value))
            elif name in words:
                raise HttpError(f"{name!r} is given twice", do="give it once, with columns separated by commas")
            else:
                words[name] = value
        return cls(words, tuple(conditions))

    @property
    def version(self) -> int | None:
        """The requested version; raises `HttpError` if it is not an integer."""
        text = self.words.get("version")
        return None if text is None else integer("version", text, 0, 1 << 62)

    @property
    def time(self) -> datetime | None:
        """The time whose version is requested, in UTC; raises `HttpError` if it is not one, or if a version is given too."""
        text = self.words.get("at")
        if text is None:
            return None
        if "version" in self.words:
            raise HttpError("'at' and 'version' are both given", do="give one of them")
        try:
            as_of = AsOf.of(text)
        except RequestError:
            as_of = AsOf()
        if as_of.time is None:
            form = "a time like 2026-05-01T12:00:00Z, with a plus sign encoded as %2B, or a duration ago like -2h"
            raise HttpError(f"'at' takes {form}", got=shown(text))
        return as_of.time


def parse(parameters: Parameters, schema: Schema, key: tuple[str, ...]) -> Query:
    """Return the query, with the key appended to its order. Raises `HttpError` for the first invalid parameter."""
    words = parameters.words
    select = _columns(words["select"], schema) if "select" in words else schema.names
    ordering = tuple(_ordering(term, schema) for term in _listed("order", words.get("order")))
    return Query(
        select=select,
        filters=tuple(_filter(_column(name, schema), value) for name, value in parameters.conditions),
        order=with_key(ordering, key),
        limit=integer("limit", words.get("limit", str(DEFAULT_LIMIT)), 1, MOST_ROWS),
        offset=integer("offset", words.get("offset", "0"), 0, MOST_OFFSET),
    )


def with_key(ordering: tuple[Ordering, ...], key: Sequence[str]) -> tuple[Ordering, ...]:
    """Return an order with the columns of the key appended, each once."""
    ordered = {term.column for term in ordering}
    return (*ordering, *(Ordering(column) for column in key if column not in ordered))


def integer(name: str, text: str, least: int, most: int) -> int:
    """Return a parameter as an integer between two inclusive bounds; raise `HttpError` if it is not one."""
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or not least <= int(text) <= most:
        raise HttpError(f"{name!r} takes an integer from {least} to {most}", got=shown(text))
    return int(text)


def shown(text: str) -> str:
    """Return a value for an error message: quoted, and truncated if it is long."""
    most = 80
    return repr(text if len(text) <= most else text[:most] + "…")


def _filter(column: Column, text: str) -> Filter:
    operator, dot, value = text.partition(".")
    if operator not in OPERATORS or not dot:
        raise HttpError(
            f"the filter on column {column.name!r} has no operator",
            got=shown(text),
            do=f"write {column.name}=OPERATOR.VALUE with one of {', '.join(OPERATORS)}",
        )
    if operator == "is":
        if value not in {"null", "not_null"}:
            raise HttpError(f"{column.name}=is. takes null or not_null", got=shown(value))
        return Filter(column, operator, is_null=value == "null")
    if operator == "like" and column.type != "VARCHAR":
        raise HttpError(f"'like' applies to text, and column {column.name!r} is {column.type}", do="use a comparison")
    values = _members(column, value) if operator == "in" else (value,)
    for operand in values:
        _check_form(column, operand)
    return Filter(column, operator, values)


def _check_form(column: Column, value: str) -> None:
    decimal = re.fullmatch(r"DECIMAL\(\d+, ?(\d+)\)", column.type)
    if decimal:
        form = (rf"[+-]?\d{{1,38}}(\.\d{{0,{decimal[1]}}})?", f"a number with at most {decimal[1]} decimals")
    elif column.type in _FORMS:
        form = _FORMS[column.type]
    else:
        raise HttpError(
            f"column {column.name!r} is {column.type}, which cannot be compared",
            do=f"use {column.name}=is.null or {column.name}=is.not_null",
        )
    if not re.fullmatch(form[0], value, re.ASCII):
        raise bad_value(column, value, form[1])


def bad_value(column: Column, value: str, takes: str = "a value in the range of its type") -> HttpError:
    """Return the error for a value that a column cannot be compared with."""
    return HttpError(f"column {column.name!r} is {column.type} and takes {takes}", got=shown(value))


def _members(column: Column, text: str) -> tuple[str, ...]:
    """Return the values of `(a,b,"with, comma")`."""
    values = []
    inner = re.fullmatch(r"\(([\s\S]+)\)", text)
    at = 0
    while inner is not None:
        member = re.compile(r'(?:"((?:[^"\\]|\\[\s\S])*)"|([^",][^,]*|))(,|$)').match(inner[1], at)
        if member is None:
            break
        values.append(re.sub(r"\\([\s\S])", r"\1", member[1]) if member[1] is not None else member[2])
        if not member[3]:
            return tuple(values)
        at = member.end()
    raise HttpError(
        f"{column.name}=in. takes a list in parentheses",
        got=shown(text),
        do=f'write {column.name}=in.(a,b), and quote values that contain a comma: in.("a,b")',
    )


def _columns(text: str, schema: Schema) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_column(name, schema).name for name in _listed("select", text)))


def _ordering(term: str, schema: Schema) -> Ordering:
    if term in schema.names:
        return Ordering(term)
    name, _, direction = term.rpartition(".")
    if name in schema.names and direction not in {"asc", "desc"}:
        raise HttpError(f"the order of column {name!r} must be asc or desc", got=shown(direction))
    return Ordering(_column(name or term, schema).name, descending=direction == "desc")


def _listed(name: str, text: str | None) -> list[str]:
    if text is None:
        return []
    if not text:
        raise HttpError(f"{name!r} is empty", do=f"write {name}=a,b with columns of the table, or omit it")
    return text.split(",")


def _column(name: str, schema: Schema) -> Column:
    for column in schema.columns:
        if column.name == name:
            return column
    raise HttpError(f"there is no column {shown(name)}", do=did_you_mean(name[:200], schema.names))
