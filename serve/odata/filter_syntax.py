"""Reads the expressions of `$filter`: OData's grammar by recursive descent, with limits on length, depth and terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pipeline.core.errors import did_you_mean
from pipeline.core.schema import Column
from serve.http_errors import HttpError, TooLongError, UnsupportedError
from serve.odata.functions import CASTS, FUNCTIONS, arithmetic, category, compared, converted, require_signature, typed
from serve.odata.literals import Word, number_of, text_of, time_of, words_of
from serve.queries.expressions import Call, ColumnReference, Constant, Expression
from serve.queries.query import ColumnCondition, Combination, Condition, Operator, Predicate
from serve.queries.values import require_value, shown

MOST_FILTER = 8_192
"""The most characters of a filter."""
DEEPEST, MOST_WORDS = 64, 2_500
_ORDERING = ("gt", "ge", "lt", "le")
_COMPARISONS: Mapping[str, Operator] = {"eq": "=", "ne": "distinct", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_SWAPPED = {"eq": "eq", "ne": "ne", "gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}
_SUM, _PRODUCT = ("add", "sub"), ("mul", "div", "divby", "mod")
_NULL = Constant("VARCHAR", None)
_TRUE = Constant("BOOLEAN", "true")


@dataclass(frozen=True)
class Filter:
    """A condition, and whether its result depends on the time of the request."""

    condition: Condition
    uses_clock: bool = False


def parse_filter(
    text: str,
    columns: Mapping[str, Column],
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Filter:
    """Return the condition of a filter over the columns, by their names in the model.

    Raises `HttpError` for a text that is not one, `UnsupportedError` for what OData has and this service does not.
    """
    if len(text) > MOST_FILTER:
        raise TooLongError(f"the filter is longer than {MOST_FILTER} characters", do="filter by fewer values")
    words = words_of(text)
    if len(words) > MOST_WORDS:
        raise TooLongError(f"the filter has more than {MOST_WORDS} words", do="filter by fewer values")
    reader = _Reader(text, words, columns, clock)
    expression = typed(reader.whole(), "BOOLEAN")
    if category(expression) != "boolean":
        raise HttpError("the filter is not a condition", got=shown(text), do="write a comparison: $filter=a eq 1")
    return Filter(condition_of(expression), reader.uses_clock)


def condition_of(expression: Expression) -> Condition:
    """Return a boolean expression as a condition: comparisons of columns with values in a form by which files are excluded."""
    if isinstance(expression, Call) and expression.function in {"and", "or"}:
        terms = tuple(condition_of(each) for each in expression.arguments)
        return Combination("and" if expression.function == "and" else "or", terms)
    if isinstance(expression, Call) and expression.function in _COMPARISONS:
        return _simple(expression) or Predicate(expression)
    return Predicate(expression)


def _simple(call: Call) -> ColumnCondition | None:
    """Return the condition of a comparison of a column with a value of its type, `None` for another comparison."""
    left, right = call.arguments
    word = call.function
    if isinstance(left, Constant):
        left, right, word = right, left, _SWAPPED[word]
    if not isinstance(left, ColumnReference) or not isinstance(right, Constant):
        return None
    column, value = left.column, right.value
    if value is None:
        is_ = ColumnCondition(column, "is", truth="null" if word == "eq" else "not_null")
        return None if word in _ORDERING else is_
    if column.type == "TIMESTAMP" and right.type == "TIMESTAMPTZ":
        value = datetime.fromisoformat(value).replace(tzinfo=None).isoformat()
    fits = category(left) == category(right) and (column.type == "DATE") == (right.type == "DATE")
    return ColumnCondition(column, _COMPARISONS[word], (value,)) if fits and _is_value(column, value) else None


def _is_value(column: Column, value: str) -> bool:
    """Return whether a text is a value of the type of a column, and not out of its range."""
    try:
        require_value(column, value)
    except HttpError:
        return False
    return True


class _Reader:
    """Reads an expression word by word."""

    def __init__(
        self, text: str, words: Sequence[Word], columns: Mapping[str, Column], clock: Callable[[], datetime]
    ) -> None:
        self._text = text
        self._words = words
        self._columns = columns
        self._clock = clock
        self._at = 0
        self._depth = 0
        self.uses_clock = False

    def whole(self) -> Expression:
        expression = self._disjunction()
        if self._word.kind != "end":
            raise self._error()
        return expression

    @property
    def _word(self) -> Word:
        return self._words[self._at]

    def _is(self, *names: str) -> bool:
        return self._word.kind in {"name", "mark"} and self._word.text.lower() in names

    def _take(self) -> str:
        text = self._word.text
        self._at += 1
        return text

    def _expect(self, mark: str) -> None:
        if not self._is(mark):
            raise self._error()
        self._at += 1

    def _error(self) -> HttpError:
        rest = self._text[self._word.at :]
        return HttpError(
            "the expression cannot be read", got=shown(rest) if rest else "its end", do="see docs/odata.md"
        )

    def _disjunction(self) -> Expression:
        self._depth += 1
        if self._depth > DEEPEST:
            raise TooLongError(f"the filter is nested deeper than {DEEPEST}", do="use fewer parentheses")
        terms = self._terms("or", lambda: self._terms("and", self._equality))
        self._depth -= 1
        return terms

    def _terms(self, word: str, read: Callable[[], Expression]) -> Expression:
        terms = [read()]
        while self._is(word):
            self._at += 1
            terms.append(read())
        if len(terms) == 1:
            return terms[0]
        for each in terms:
            if category(each) not in {"boolean", "null"}:
                raise HttpError(f"{word!r} combines conditions", got=shown(self._text))
        return self._call(word, tuple(typed(each, "BOOLEAN") for each in terms), "BOOLEAN")

    def _equality(self) -> Expression:
        left = self._relation()
        while self._is("eq", "ne", "in", "has"):
            word = self._take().lower()
            if word == "has":
                raise UnsupportedError("'has' is not supported", do="no property has an enumeration type")
            if word == "in":
                members = self._members()
                equal = [self._comparison("eq", left, each) for each in members]
                left = self._call("or", tuple(equal), "BOOLEAN")
            else:
                left = self._comparison(word, left, self._relation())
        return left

    def _relation(self) -> Expression:
        left = self._chain(_SUM, lambda: self._chain(_PRODUCT, self._unary))
        while self._is(*_ORDERING):
            word = self._take().lower()
            left = self._comparison(word, left, self._chain(_SUM, lambda: self._chain(_PRODUCT, self._unary)))
        return left

    def _chain(self, operators: tuple[str, ...], read: Callable[[], Expression]) -> Expression:
        left = read()
        while self._is(*operators):
            word = self._take().lower()
            left = self._checked(arithmetic(word, left, read()))
        return left

    def _unary(self) -> Expression:
        if self._is("not"):
            self._at += 1
            return self._nested(self._negation)
        if self._is("-"):
            self._at += 1
            if self._word.kind == "number":
                return number_of(self._take(), is_negative=True)
            if self._is("inf"):
                self._at += 1
                return Constant("DOUBLE", "-inf")
            return self._nested(lambda: self._checked(arithmetic("negate", self._unary())))
        return self._primary()

    def _negation(self) -> Expression:
        operand = typed(self._unary(), "BOOLEAN")
        if category(operand) != "boolean":
            raise HttpError("'not' applies to a condition", got=shown(self._text), do="write not (a eq 1)")
        return self._call("not", (operand,), "BOOLEAN")

    def _nested(self, read: Callable[[], Expression]) -> Expression:
        self._depth += 1
        if self._depth > DEEPEST:
            raise TooLongError(f"the filter is nested deeper than {DEEPEST}", do="use fewer operators in each other")
        expression = read()
        self._depth -= 1
        return expression

    def _primary(self) -> Expression:
        word = self._word
        if self._is("("):
            self._at += 1
            inner = self._disjunction()
            self._expect(")")
            return inner
        if word.kind == "text":
            return Constant("VARCHAR", text_of(self._take()))
        if word.kind == "number":
            return number_of(self._take())
        if word.kind == "time":
            return time_of(self._take())
        if word.kind != "name":
            raise self._error()
        if self._words[self._at + 1].text == "(" and self._words[self._at + 1].kind == "mark":
            return self._function(self._take())
        return self._name(self._take())

    def _name(self, name: str) -> Expression:
        constants = {"null": _NULL, "true": _TRUE, "false": replace(_TRUE, value="false"), "inf": Constant("DOUBLE", "inf"),
                     "nan": Constant("DOUBLE", None)}  # fmt: skip
        column = self._columns.get(name)
        if column is not None:
            if self._is("/"):
                raise HttpError(f"property {name!r} has no properties", do="nested columns are JSON text")
            return ColumnReference(column)
        if name.lower() in constants:
            return constants[name.lower()]
        if name == "$it" and self._is("/"):
            self._at += 1
            return self._name(self._take())
        if name.startswith(("$", "@")):
            raise UnsupportedError(f"{name!r} is not supported", do="write the value into the filter")
        raise HttpError(f"there is no property {shown(name)}", do=did_you_mean(name[:200], self._columns))

    def _function(self, name: str) -> Expression:
        word = name.lower()
        self._expect("(")
        if word == "now":
            self._expect(")")
            self.uses_clock = True
            return Constant("TIMESTAMPTZ", self._clock().astimezone(UTC).isoformat())
        if word == "cast":
            return self._nested(self._cast)
        if word not in FUNCTIONS:
            supported = ", ".join(sorted([*FUNCTIONS, "cast", "now"]))
            raise UnsupportedError(f"function {shown(name)} is not supported", do=f"use one of {supported}")
        arguments = self._nested_arguments()
        function = require_signature(word, arguments)
        if any(category(each) == "null" for each in arguments):
            return Constant(function.result, None)
        return self._call(function.name, arguments, function.result)

    def _nested_arguments(self) -> tuple[Expression, ...]:
        arguments: list[Expression] = []
        while not self._is(")"):
            if arguments:
                self._expect(",")
            arguments.append(self._disjunction())
        self._at += 1
        return tuple(arguments)

    def _cast(self) -> Expression:
        operand = self._disjunction()
        self._expect(",")
        name = text_of(self._take()) if self._word.kind == "text" else self._take()
        self._expect(")")
        kind = CASTS.get(name)
        if kind is None:
            raise UnsupportedError(f"there is no cast to {shown(name)}", do=f"use one of {', '.join(CASTS)}")
        return self._checked(converted(operand, kind))

    def _members(self) -> tuple[Expression, ...]:
        self._expect("(")
        members = self._nested_arguments()
        if not members or not all(isinstance(each, Constant) for each in members):
            raise HttpError("'in' takes values in parentheses", got=shown(self._text), do="write a in (1,2)")
        return members

    def _comparison(self, word: str, left: Expression, right: Expression) -> Expression:
        return self._call(word, compared(word, left, right), "BOOLEAN")

    def _checked(self, call: Call) -> Call:
        return self._call(call.function, call.arguments, call.type)

    def _call(self, function: str, arguments: tuple[Expression, ...], kind: str) -> Call:
        depth = 1 + max((each.depth for each in arguments if isinstance(each, Call)), default=0)
        if depth > DEEPEST:
            raise TooLongError(f"the filter is nested deeper than {DEEPEST}", do="use fewer operators in each other")
        return Call(function, arguments, kind, depth)
