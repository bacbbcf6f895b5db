"""Queries in PostgREST syntax: `?carrier=eq.UA&dep_delay=gt.60&order=dep_delay.desc`.

A query is parsed from the request's parameters and the columns that the caller may read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from pipeline.core.errors import did_you_mean
from pipeline.core.schema import Column, Schema
from serve.http_errors import HttpError
from serve.queries.parameters import MOST_OFFSET, integer, time_of, version_number
from serve.queries.query import (
    DEFAULT_LIMIT,
    FUNCTIONS,
    MOST_ROWS,
    OWN,
    ColumnCondition,
    Combination,
    Condition,
    Embedding,
    Function,
    Operator,
    Ordering,
    Quantifier,
    Query,
    Selection,
    Truth,
    both,
    with_key,
)
from serve.queries.values import require_value, shown

WORDS = ("select", "order", "limit", "offset", "cursor", "version", "at", "distinct", "count")
"""Reserved parameters, which are not columns."""
_COMBINATIONS = ("and", "or", "not.and", "not.or")
_MOST_TERMS, _DEEPEST = 200, 16
_OPERATORS: Mapping[str, Operator] = {
    "eq": "=",
    "neq": "<>",
    "gt": ">",
    "gte": ">=",
    "lt": "<",
    "lte": "<=",
    "like": "like",
    "ilike": "ilike",
    "match": "match",
    "imatch": "imatch",
    "in": "in",
    "is": "is",
    "isdistinct": "distinct",
    "cs": "contains",
    "cd": "contained",
    "ov": "overlaps",
    "fts": "text",
}
_QUANTIFIABLE = ("eq", "like", "ilike", "gt", "gte", "lt", "lte", "match", "imatch")
_OF_TEXT = ("like", "ilike", "match", "imatch", "fts")
_OF_LISTS = ("cs", "cd", "ov")
_TRUTHS: tuple[Truth, ...] = ("null", "not_null", "true", "false", "unknown")
_BEGINS = re.compile(r"(not\.)?(" + "|".join(_OPERATORS) + r")(\((any|all)\))?\.")
Relations = Callable[[str, str], Embedding]
"""Returns the embedding of a table, given its name and a hint; raises `HttpError` if there is none."""


@dataclass(frozen=True)
class Parameters:
    """The parameters of a request: reserved words, each once, and conditions in their order."""

    words: dict[str, str]
    conditions: tuple[tuple[str, str], ...]

    @classmethod
    def of(
        cls, pairs: Sequence[tuple[str, str]], columns: Sequence[str] = (), reserved: Sequence[str] = WORDS
    ) -> Parameters:
        """Separate reserved words from conditions; raise `HttpError` for a repeated word.

        A column with the name of a reserved word is filtered if the value starts with an operator: `order=eq.7`.
        """
        words: dict[str, str] = {}
        conditions = []
        for name, value in pairs:
            is_condition = name in columns and _BEGINS.match(value) is not None
            if name not in reserved or is_condition:
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
        return None if text is None else version_number("version", text)

    @property
    def time(self) -> datetime | None:
        """The time whose version is requested, in UTC; raises `HttpError` if it is not one, or if a version is given too."""
        text = self.words.get("at")
        if text is None:
            return None
        if "version" in self.words:
            raise HttpError("'at' and 'version' are both given", do="give one of them")
        return time_of("at", text)

    def choice(self, word: str, *known: str) -> str:
        """Return the value of a word, the first of the known ones if it is not given; raise `HttpError` for another value."""
        text = self.words.get(word, known[0])
        if text not in known:
            raise HttpError(f"{word!r} takes {' or '.join(known)}", got=shown(text))
        return text


def parse(
    parameters: Parameters,
    schema: Schema,
    key: Sequence[str],
    relations: Relations | None = None,
    *,
    most_rows: int | None = MOST_ROWS,
) -> Query:
    """Return the query, with the key appended to its order. Raises `HttpError` for the first invalid parameter.

    With `most_rows=None`, `limit` may be any number, and `all`.
    """
    words = parameters.words
    select, embed = _selected(words.get("select"), schema, relations)
    is_grouped = any(each.function for each in select)
    query = Query(
        select=select,
        where=both(*(_condition(name, value, schema) for name, value in parameters.conditions)),
        limit=_limit(words.get("limit"), most_rows),
        offset=integer("offset", words.get("offset", "0"), 0, MOST_OFFSET),
        is_distinct=parameters.choice("distinct", "false", "true") == "true",
        embed=embed,
    )
    if query.is_distinct and (is_grouped or embed):
        raise HttpError("'distinct' cannot be combined with aggregates or related rows", do="remove one of them")
    if embed and is_grouped:
        raise HttpError("aggregates cannot be combined with related rows", do="remove one of them")
    result = [each.name for each in select] if is_grouped or query.is_distinct else schema.names
    ordering = tuple(_ordering(term, result) for term in _listed("order", words.get("order")))
    return replace(query, order=with_key(ordering, () if is_grouped or query.is_distinct else key))


def column_of(name: str, schema: Schema) -> Column:
    """Return a column by name; raise `HttpError` if there is none."""
    for column in schema.columns:
        if column.name == name:
            return column
    raise HttpError(f"there is no column {shown(name)}", do=did_you_mean(name[:200], schema.names))


def _limit(text: str | None, most: int | None) -> int | None:
    if most is None:
        return None if text in {None, "all"} else integer("limit", str(text), 1, MOST_OFFSET)
    return integer("limit", str(DEFAULT_LIMIT) if text is None else text, 1, most)


def _condition(name: str, text: str, schema: Schema) -> Condition:
    if name in _COMBINATIONS and name not in schema.names:
        return _Reader(f"{name}{text}", schema).whole()
    return _comparison(column_of(name, schema), text)


def _comparison(column: Column, text: str) -> ColumnCondition:
    begin = _BEGINS.match(text)
    if begin is None:
        raise HttpError(
            f"the filter on column {column.name!r} has no operator",
            got=shown(text),
            do=f"write {column.name}=OPERATOR.VALUE with one of {', '.join(_OPERATORS)}",
        )
    word, quantifier, value = begin[2], begin[4] or "", text[begin.end() :]
    if quantifier and word not in _QUANTIFIABLE:
        do = f"use it with one of {', '.join(_QUANTIFIABLE)}"
        raise HttpError(f"{word!r} cannot be combined with {quantifier}", got=shown(text), do=do)
    if word in _OF_TEXT and column.type != "VARCHAR":
        raise HttpError(f"{word!r} applies to text, and column {column.name!r} is {column.type}", do="use a comparison")
    condition = ColumnCondition(column, _OPERATORS[word], is_negated=begin[1] is not None)
    if word == "is":
        return replace(condition, truth=_truth(column, value))
    if word in _OF_LISTS:
        return replace(condition, values=_elements(column, word, value))
    if quantifier:
        values = _members(column.name, f"{word}({quantifier})", value, "{}")
    else:
        values = _members(column.name, "in", value, "()") if word == "in" else (value,)
    for operand in values:
        require_value(column, operand)
    quantified: Quantifier = "any" if quantifier == "any" else "all" if quantifier == "all" else ""
    return replace(condition, values=values, quantifier=quantified)


def _truth(column: Column, text: str) -> Truth:
    for truth in _TRUTHS:
        if truth == text and (text in {"null", "not_null"} or column.type == "BOOLEAN"):
            return truth
    takes = " or ".join(_TRUTHS if column.type == "BOOLEAN" else _TRUTHS[:2])
    raise HttpError(f"{column.name}=is. takes {takes}", got=shown(text))


def _elements(column: Column, word: str, text: str) -> tuple[str, ...]:
    if not column.type.endswith("[]"):
        raise HttpError(
            f"{word!r} applies to lists, and column {column.name!r} is {column.type}", do="use a comparison"
        )
    element = Column(column.name, column.type.removesuffix("[]"))
    values = () if text == "{}" else _members(column.name, word, text, "{}")
    for value in values:
        require_value(element, value)
    return values


def _members(name: str, operator: str, text: str, brackets: str) -> tuple[str, ...]:
    """Return the values of `(a,b,"with, comma")`."""
    values = []
    is_listed = len(text) > len(brackets) and (text[0], text[-1]) == (brackets[0], brackets[1])
    inner, at = text[1:-1], 0
    while is_listed:
        member = _MEMBER.match(inner, at)
        if member is None:
            break
        values.append(re.sub(r"\\([\s\S])", r"\1", member[1]) if member[1] is not None else member[2])
        if not member[3]:
            return tuple(values)
        at = member.end()
    example = f"{operator}.{brackets[0]}a,b{brackets[1]}"
    raise HttpError(
        f"{name}={operator}. takes a list in {'parentheses' if brackets == '()' else 'braces'}",
        got=shown(text),
        do=f'write {name}={example}, and quote values that contain a comma: "a,b"',
    )


_MEMBER = re.compile(r'(?:"((?:[^"\\]|\\[\s\S])*)"|([^",][^,]*|))(,|$)')


class _Reader:
    """Reads `or(a.eq.1,and(b.gt.2,c.is.null))`."""

    def __init__(self, text: str, schema: Schema) -> None:
        self._text = text
        self._schema = schema
        self._at = 0
        self._terms = 0

    def whole(self) -> Condition:
        condition = self._combination(0)
        if self._at != len(self._text):
            raise self._error()
        return condition

    def _combination(self, depth: int) -> Condition:
        begin = re.compile(r"(not\.)?(and|or)\(").match(self._text, self._at)
        if begin is None or depth > _DEEPEST:
            raise self._error()
        self._at = begin.end()
        terms = [self._term(depth + 1)]
        while self._text.startswith(",", self._at):
            self._at += 1
            terms.append(self._term(depth + 1))
        if not self._text.startswith(")", self._at):
            raise self._error()
        self._at += 1
        word: Literal["and", "or"] = "and" if begin[2] == "and" else "or"
        return Combination(word, tuple(terms), is_negated=begin[1] is not None)

    def _term(self, depth: int) -> Condition:
        self._terms += 1
        if self._terms > _MOST_TERMS:
            raise HttpError(f"a condition has more than {_MOST_TERMS} terms", do="use in.(…), or several requests")
        if re.compile(r"(not\.)?(and|or)\(").match(self._text, self._at):
            return self._combination(depth)
        column = self._column()
        return _comparison(column, self._operand())

    def _column(self) -> Column:
        # a name may contain a dot, and the longest name that fits is meant
        for column in sorted(self._schema.columns, key=lambda each: -len(each.name)):
            for written in (column.name, '"' + column.name.replace("\\", "\\\\").replace('"', '\\"') + '"'):
                if self._text.startswith(f"{written}.", self._at):
                    self._at += len(written) + 1
                    return column
        name = re.compile(r"[^.,()]*").match(self._text, self._at)
        return column_of(name[0] if name else "", self._schema)

    def _operand(self) -> str:
        """Return `operator.value`, where a value ends at a comma or a parenthesis outside quotes and brackets."""
        begin = _BEGINS.match(self._text, self._at)
        if begin is None:
            raise self._error()
        start = begin.end()
        quoted_value = re.compile(r'"((?:[^"\\]|\\[\s\S])*)"').match(self._text, start)
        if quoted_value is not None:
            self._at = quoted_value.end()
            return begin[0] + re.sub(r"\\([\s\S])", r"\1", quoted_value[1])
        value = re.compile(
            r'\((?:"(?:[^"\\]|\\[\s\S])*"|[^")])*\)|\{(?:"(?:[^"\\]|\\[\s\S])*"|[^"}])*\}|[^,()]*'
        ).match(self._text, start)
        assert value is not None  # noqa: S101 - the last alternative matches everywhere
        self._at = value.end()
        return begin[0] + value[0]

    def _error(self) -> HttpError:
        do = 'write or=(a.eq.1,and(b.gt.2,c.is.null)), and quote values that contain a comma or a parenthesis: "a,b"'
        return HttpError("the condition cannot be read", got=shown(self._text[self._at :] or self._text), do=do)


def _selected(
    text: str | None, schema: Schema, relations: Relations | None
) -> tuple[tuple[Selection, ...], tuple[Embedding, ...]]:
    if text is None:
        return tuple(Selection(name, name) for name in schema.names), ()
    columns: dict[str, Selection] = {}
    embedded: dict[str, Embedding] = {}
    for term in _listed("select", text):
        if term == "*":
            columns |= {name: Selection(name, name) for name in schema.names if name not in columns}
            continue
        related = None if term in schema.names else _RELATED.fullmatch(term)
        if related is not None and relations is not None and related["table"] not in FUNCTIONS:
            found = relations(related["table"], related["hint"] or "")
            one = replace(found, name=related["name"] or found.name, columns=_of_related(found, related["columns"]))
            _require_free(one.name, columns, embedded)
            embedded[one.name] = one
            continue
        selection = _selection(term, schema)
        if columns.get(selection.name) != selection:
            _require_free(selection.name, columns, embedded)
        columns[selection.name] = selection
    return tuple(columns.values()), tuple(embedded.values())


_RELATED = re.compile(r"(?:(?P<name>[^:!()]+):)?(?P<table>[^:!().]+)(?:!(?P<hint>[^()]+))?\((?P<columns>[^()]*)\)")
_CALL = re.compile(r"(?:(?P<name>[^:]+):)?(?:(?P<column>.+)\.)?(?P<function>\w+)\(\)")
_RENAMED = re.compile(r"(?P<name>[^:]+):(?P<column>.+)", re.DOTALL)


def _of_related(found: Embedding, text: str) -> tuple[str, ...]:
    if text in {"", "*"}:
        return found.columns
    known = Schema.of(dict.fromkeys(found.columns, "VARCHAR"))
    return tuple(dict.fromkeys(column_of(name, known).name for name in text.split(",")))


def _require_free(name: str, *taken: Mapping[str, Any]) -> None:
    if OWN in name:
        raise HttpError(f"a column cannot be called {shown(name)}", do="choose another name")
    if any(name.lower() == other.lower() for each in taken for other in each):  # the engine's names ignore case
        raise HttpError(f"{name!r} is selected twice", do=f"rename one: select=other_name:{name}")


def _selection(term: str, schema: Schema) -> Selection:
    if term in schema.names:
        return Selection(term, term)
    call = _CALL.fullmatch(term)
    if call is not None:
        return _aggregate(call, schema)
    renamed = _RENAMED.fullmatch(term)
    if renamed is not None:
        return Selection(renamed["name"], column_of(renamed["column"], schema).name)
    return Selection(column_of(term, schema).name, term)


def _aggregate(call: re.Match[str], schema: Schema) -> Selection:
    function = next((each for each in FUNCTIONS if each == call["function"]), None)
    if function is None:
        raise HttpError(
            f"there is no aggregate {shown(call['function'])}", do=did_you_mean(call["function"], FUNCTIONS)
        )
    if call["column"] is None:
        if function != "count":
            raise HttpError(f"{function!r} needs a column", do=f"write COLUMN.{function}()")
        return Selection(call["name"] or "count", "", function)
    column = column_of(call["column"], schema)
    require_aggregatable(function, column)
    return Selection(call["name"] or f"{column.name}_{function}", column.name, function)


def require_aggregatable(function: Function, column: Column) -> None:
    """Raise `HttpError` for an aggregate that does not apply to the type of a column."""
    is_number = column.type.startswith(
        ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT",
         "FLOAT", "DOUBLE", "DECIMAL")
    )  # fmt: skip
    if function in {"sum", "avg"} and (not is_number or column.type.endswith("]")):
        raise HttpError(f"{function!r} applies to numbers, and column {column.name!r} is {column.type}", do="use count")


def _ordering(term: str, names: Sequence[str]) -> Ordering:
    if term in names:
        return Ordering(term)
    words = re.fullmatch(
        r"(?P<column>.+?)(?:\.(?P<way>asc|desc))?(?:\.(?P<nulls>nullsfirst|nullslast))?", term, re.DOTALL
    )
    column = words["column"] if words else term
    if words is None or column not in names:
        before, _, direction = term.rpartition(".")
        if before in names:
            raise HttpError(f"the order of column {before!r} must be asc or desc", got=shown(direction))
        raise HttpError(f"there is no column {shown(column)}", do=did_you_mean(column[:200], names))
    return Ordering(column, descending=words["way"] == "desc", nulls_first=words["nulls"] == "nullsfirst")


def _listed(name: str, text: str | None) -> list[str]:
    """Return the terms between commas outside parentheses."""
    if text is None:
        return []
    if not text:
        raise HttpError(f"{name!r} is empty", do=f"write {name}=a,b with columns of the table, or omit it")
    terms, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth <= 0:
            terms.append("")
        else:
            terms[-1] += character
    return terms
