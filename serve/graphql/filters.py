"""Arguments of fields as parts of a query: filters as conditions, and orders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.core.schema import Column
from serve.graphql.naming import NamedTable
from serve.graphql.scalars import OPERATORS, SET_OPERATORS, text_of
from serve.http_errors import HttpError
from serve.queries.query import ColumnCondition, Combination, Condition, Ordering, both
from serve.queries.values import require_value

_MOST_TERMS = 200


def condition_of(value: Mapping[str, Any] | None, named: NamedTable) -> Condition | None:
    """Return the condition of a filter, or `None` for one that holds for every row.

    Raises `HttpError` for a value that its column cannot be compared with. A filter that is null by mistake is an error, and not one
    that holds for every row.
    """
    if value is None:
        return None
    condition = _all(value, named)
    if sum(1 for _ in _terms(condition)) > _MOST_TERMS:
        raise HttpError(f"a filter has more than {_MOST_TERMS} terms", do="use in, or several requests")
    return condition


def orders_of(values: list[Mapping[str, Any]] | None, named: NamedTable) -> tuple[Ordering, ...]:
    """Return the order of rows; raise `HttpError` unless each term names one column."""
    terms = [one_of(each, "orderBy") for each in values or ()]
    return tuple(ordering(named.columns[name].name, word) for name, word in terms)


def one_of(term: Mapping[str, Any], name: str) -> tuple[str, Any]:
    """Return the only entry of an input object; raise `HttpError` if it has another number, because their order is not known."""
    if len(term) != 1 or None in term.values():
        do = f"write {name}: [{{a: ASC}}, {{b: DESC}}]"
        raise HttpError(f"each term of {name!r} takes one column and a direction", got=f"{len(term)} columns", do=do)
    return next(iter(term.items()))


def ordering(column: str, direction: str) -> Ordering:
    """Return an ordering by a column."""
    return Ordering(column, descending=direction.startswith("DESC"), nulls_first=direction.endswith("NULLS_FIRST"))


def _all(value: Mapping[str, Any], named: NamedTable) -> Condition | None:
    return both(*(_part(name, each, named) for name, each in value.items()))


def _part(name: str, value: Any, named: NamedTable) -> Condition | None:
    if value is None:
        raise HttpError(f"the filter {name!r} is null", do="leave it out, or test a column with isNull")
    if name == "not":
        return _negated(_all(value, named))
    if name in {"and", "or"}:
        terms = [_all(each, named) for each in value]
        if not terms:
            raise HttpError(f"the filter {name!r} has no terms", do="leave it out")
        if name == "or" and None in terms:
            return None  # a term without conditions holds for every row
        kept = tuple(each for each in terms if each is not None)
        return Combination("or" if name == "or" else "and", kept) if kept else None
    column = named.columns[name]
    return both(*(_comparison(column, word, operand) for word, operand in value.items()))


def _negated(condition: Condition | None) -> Condition:
    if condition is None:
        raise HttpError("the filter 'not' has no conditions", do="leave it out")
    return Combination("and", (condition,), is_negated=True)


def _comparison(column: Column, word: str, operand: Any) -> ColumnCondition:
    if word == "isNull":
        if operand is None:
            raise HttpError(f"'isNull' of column {column.name!r} is null", do="use true or false")
        return ColumnCondition(column, "is", truth="null" if operand else "not_null")
    if word in OPERATORS:
        text = text_of(column, operand)
        require_value(column, text)
        return ColumnCondition(column, OPERATORS[word], (text,))
    if operand is None:
        raise HttpError(f"{word!r} of column {column.name!r} is null", do="use isNull to test for null")
    element = column if word == "in" else Column(column.name, column.type.removesuffix("[]"))
    values = tuple(text_of(element, each) for each in operand)
    if word == "in" and not values:
        raise HttpError(f"'in' of column {column.name!r} has no values", do="give at least one")
    for each in values:
        require_value(element, each)
    return ColumnCondition(column, SET_OPERATORS[word], values)


def _terms(condition: Condition | None) -> Iterator[Condition]:
    if condition is not None:
        yield condition
        if isinstance(condition, Combination):
            for each in condition.terms:
                yield from _terms(each)
