"""The functions and operators of OData expressions: which types they take, and what they are in the query algebra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from serve.http_errors import HttpError
from serve.queries.expressions import Call, Constant, Expression

Category = Literal["text", "number", "boolean", "date", "moment", "time", "duration", "binary", "null"]
_INTEGERS = ("TINYINT", "UTINYINT", "SMALLINT", "USMALLINT", "INTEGER", "UINTEGER", "BIGINT", "UBIGINT", "HUGEINT")
_FLOATS = ("FLOAT", "DOUBLE")
CASTS: Mapping[str, str] = {
    "Edm.Boolean": "BOOLEAN",
    "Edm.Byte": "UTINYINT",
    "Edm.SByte": "TINYINT",
    "Edm.Int16": "SMALLINT",
    "Edm.Int32": "INTEGER",
    "Edm.Int64": "BIGINT",
    "Edm.Single": "FLOAT",
    "Edm.Double": "DOUBLE",
    "Edm.Decimal": "DECIMAL(38,10)",
    "Edm.Date": "DATE",
    "Edm.TimeOfDay": "TIME",
    "Edm.DateTimeOffset": "TIMESTAMPTZ",
    "Edm.String": "VARCHAR",
}
"""The SQL type of each type that values can be cast to. A value that cannot be is null."""


@dataclass(frozen=True)
class Function:
    """A function of the algebra, the categories of its arguments, and the type of its result."""

    name: str
    parameters: tuple[tuple[Category, ...], ...]
    result: str


_TEXT: tuple[Category, ...] = ("text",)
_NUMBER: tuple[Category, ...] = ("number",)
_DAY: tuple[Category, ...] = ("date", "moment")
_CLOCK: tuple[Category, ...] = ("moment", "time")
_MOMENT: tuple[Category, ...] = ("moment",)
FUNCTIONS: Mapping[str, Function] = {
    "contains": Function("contains", (_TEXT, _TEXT), "BOOLEAN"),
    "startswith": Function("starts_with", (_TEXT, _TEXT), "BOOLEAN"),
    "endswith": Function("ends_with", (_TEXT, _TEXT), "BOOLEAN"),
    "length": Function("length", (_TEXT,), "BIGINT"),
    "indexof": Function("index_of", (_TEXT, _TEXT), "BIGINT"),
    "substring": Function("substring_from", (_TEXT, _NUMBER), "VARCHAR"),
    "tolower": Function("lower", (_TEXT,), "VARCHAR"),
    "toupper": Function("upper", (_TEXT,), "VARCHAR"),
    "trim": Function("trim", (_TEXT,), "VARCHAR"),
    "concat": Function("concat", (_TEXT, _TEXT), "VARCHAR"),
    "year": Function("year", (_DAY,), "BIGINT"),
    "month": Function("month", (_DAY,), "BIGINT"),
    "day": Function("day", (_DAY,), "BIGINT"),
    "hour": Function("hour", (_CLOCK,), "BIGINT"),
    "minute": Function("minute", (_CLOCK,), "BIGINT"),
    "second": Function("second", (_CLOCK,), "BIGINT"),
    "fractionalseconds": Function("fraction_of_second", (_CLOCK,), "DOUBLE"),
    "date": Function("date", (_DAY,), "DATE"),
    "time": Function("time_of_day", (_MOMENT,), "TIME"),
    "totaloffsetminutes": Function("utc_offset_minutes", (_MOMENT,), "BIGINT"),
    "round": Function("round", (_NUMBER,), "DOUBLE"),
    "floor": Function("floor", (_NUMBER,), "DOUBLE"),
    "ceiling": Function("ceiling", (_NUMBER,), "DOUBLE"),
}
"""The functions by their names in OData. `$metadata` lists them, with `cast` and `now`."""
_SUBSTRING = Function("substring", (_TEXT, _NUMBER, _NUMBER), "VARCHAR")
_ARITHMETIC = {"add": "add", "sub": "subtract", "mul": "multiply", "mod": "modulo", "negate": "negate"}


def category(expression: Expression) -> Category:
    """Return what an expression is compared as."""
    if isinstance(expression, Constant) and expression.value is None and expression.type == "VARCHAR":
        return "null"
    kind = expression.type
    if kind in _INTEGERS or kind in _FLOATS or kind.startswith("DECIMAL"):
        return "number"
    known: Mapping[str, Category] = {
        "VARCHAR": "text",
        "BOOLEAN": "boolean",
        "DATE": "date",
        "TIMESTAMP": "moment",
        "TIMESTAMPTZ": "moment",
        "TIME": "time",
        "INTERVAL": "duration",
        "BLOB": "binary",
    }
    return known[kind]


def require_signature(name: str, arguments: tuple[Expression, ...]) -> Function:
    """Return the function of the algebra for these arguments; raise `HttpError` if their number or types do not fit."""
    function = FUNCTIONS[name]
    if name == "substring" and len(arguments) == len(_SUBSTRING.parameters):
        function = _SUBSTRING
    if len(arguments) != len(function.parameters):
        raise HttpError(f"{name}() takes {len(function.parameters)} arguments", got=f"{len(arguments)}")
    for number, (argument, allowed) in enumerate(zip(arguments, function.parameters, strict=True)):
        if category(argument) not in {*allowed, "null"}:
            takes = " or ".join(allowed)
            raise HttpError(f"argument {number + 1} of {name}() takes {takes}", got=_described(argument))
    return function


def compared(word: str, left: Expression, right: Expression) -> tuple[Expression, Expression]:
    """Return the operands of a comparison with types that can be compared; raise `HttpError` if there are none."""
    kinds = category(left), category(right)
    if "null" in kinds:
        return typed(left, right.type), typed(right, left.type)
    if kinds[0] == kinds[1] and kinds[0] != "binary":
        return _same_moments(left, right)
    if set(kinds) == {"date", "moment"}:
        return _as_moment(left), _as_moment(right)
    raise HttpError(f"{word!r} cannot compare these", got=f"{_described(left)} and {_described(right)}")


def typed(expression: Expression, kind: str) -> Expression:
    """Return a null with this type, and any other expression as it is."""
    return Constant(kind, None) if category(expression) == "null" else expression


def arithmetic(word: str, *operands: Expression) -> Call:
    """Return the call of an arithmetic operator; raise `HttpError` if it does not apply to the operands' types."""
    operands = tuple(typed(each, "BIGINT") for each in operands)
    kinds = tuple(category(each) for each in operands)
    if set(kinds) == {"number"}:
        return _of_numbers(word, operands)
    times = tuple(_as_moment(each) for each in operands)
    if word in {"add", "sub"} and kinds[0] in {"date", "moment"} and kinds[1] == "duration":
        return Call(_ARITHMETIC[word], times, times[0].type)
    if word == "add" and kinds[0] == "duration" and kinds[1] in {"date", "moment"}:
        return Call("add", times, times[1].type)
    if word == "sub" and set(kinds) <= {"date", "moment"}:
        return Call("subtract", times, "INTERVAL")
    if word in {"add", "sub"} and set(kinds) == {"duration"}:
        return Call(_ARITHMETIC[word], operands, "INTERVAL")
    raise HttpError(f"{word!r} does not apply to these", got=" and ".join(_described(each) for each in operands))


def converted(expression: Expression, kind: str) -> Call:
    """Return the cast of an expression to a type of `CASTS`: null for values of which the type has none."""
    target = category(Constant(kind, ""))
    kinds = {category(expression), target}
    if kinds == {"moment", "time"} and target == "time":
        return Call("time_of_day", (expression,), kind)
    if kinds <= {"number", "null"} or kinds <= {"date", "moment"} or target == category(expression):
        return Call(f"as {kind}", (expression,), kind)
    text = Call("time_as_text" if category(expression) == "moment" else "as VARCHAR", (expression,), "VARCHAR")
    return text if kind == "VARCHAR" else Call(f"as {kind}", (text,), kind)


def _of_numbers(word: str, operands: tuple[Expression, ...]) -> Call:
    if all(each.type in _INTEGERS for each in operands):
        name = "divide_integers" if word == "div" else "divide" if word == "divby" else _ARITHMETIC[word]
        wide = tuple(Call("as HUGEINT", (each,), "HUGEINT", _depth(each)) for each in operands)
        return Call(name, wide, "DOUBLE" if word == "divby" else "HUGEINT")
    name = "divide" if word in {"div", "divby"} else _ARITHMETIC[word]
    is_exact = name != "divide" and not any(each.type in _FLOATS for each in operands)
    return Call(name, operands, "DECIMAL" if is_exact else "DOUBLE")


def _same_moments(left: Expression, right: Expression) -> tuple[Expression, Expression]:
    if {left.type, right.type} == {"TIMESTAMP", "TIMESTAMPTZ"}:
        return _as_moment(left), _as_moment(right)
    return left, right


def _as_moment(expression: Expression) -> Expression:
    """Return a date or a time without zone as a moment: both are in UTC."""
    if expression.type not in {"DATE", "TIMESTAMP"}:
        return expression
    return Call("as TIMESTAMPTZ", (expression,), "TIMESTAMPTZ", _depth(expression))


def _depth(expression: Expression) -> int:
    return 1 + (expression.depth if isinstance(expression, Call) else 0)


def _described(expression: Expression) -> str:
    return f"a {category(expression)}" if category(expression) != "null" else "null"
