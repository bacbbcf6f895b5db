r"""Lossless conversion of values to typed columns.

A `ConversionRule` is SQL that converts a raw value, or returns null if the type would lose a part of it: a fraction,
digits, or a time zone. The same rule applies to CSV, JSON, messages, Parquet and replayed rows; docs/values.md lists it
for each type.

DuckDB's casts round, truncate and guess, so a cast is accepted only after a test of the text. Each type has two tests:
a fast one, which nearly all values pass, and a strict one with a pattern for the others.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.schema import Column
from pipeline.kernel.sql_text import literal
from pipeline.kernel.types import decimal_of

_SIGNED = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_INTEGERS = frozenset((*_SIGNED, *(f"U{name}" for name in _SIGNED), "BIGNUM"))
_REALS = frozenset({"FLOAT", "DOUBLE"})
_TIMES = frozenset({"TIME", "TIME_NS", "TIME WITH TIME ZONE", "TIMETZ"})
_FRACTION_DIGITS = {"TIMESTAMP_S": 0, "TIMESTAMP_MS": 3, "TIME_NS": 9}
"""Fractional digits of seconds of types with other than six; a lake stores six of TIMESTAMP_NS."""

_REAL = r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*"
_REAL_AS_WRITTEN = r"-?(0|[1-9][0-9]{0,14})|-?(0|[1-9][0-9]*)(\.[0-9]*([eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)"
"""Excludes integers of more than fifteen digits, leading zeros and plus signs: those are identifiers, not numbers."""
_ZERO = r"\s*[+-]?[0.]+([eE].*)?\s*"
_NO_NUMBER = r"\s*[+-]?(?i:nan|inf|infinity)\s*"
_PARTS = r"\s*([+-]?)([0-9]*)\.?([0-9]*)[eE]([+-]?[0-9]+)\s*"
_DAY = r"0?[0-9]{4}[-/ \\][0-9]{1,2}[-/ \\][0-9]{1,2}"
_MIDNIGHT = r"(( +|T)0?0:0?0(:0?0(\.0*)?)?)?"
_ZONE = r" ?([zZ]|[+-](0?[0-9]|1[0-5])(:?[0-5][0-9])?|[A-Za-z][A-Za-z0-9_/+-]+)"
_ZONED = rf".*[0-9]:[0-9:.]*{_ZONE}\s*"
_COUNT = r"[+-]?[0-9]+ *[a-z]+|[+-]?[0-9]+\.[0-9]{1,6}0* *s[a-z]*"
_SPAN = rf"\s*(({_COUNT}|[+-]?[0-9]+:[0-9]{{2}}(:[0-9]{{2}}(\.[0-9]{{1,6}}0*)?)?)\s*)+"
_LONGEST_SHIFT = 400
"""The maximum exponent of a number that is converted to an integer or a decimal; larger ones are rejected."""
_REASON_LENGTH = 1000
"""The number of characters of a value in the reason for its rejection; the row contains the full value."""
_SHORT = 10
"""The length up to which a decimal in JSON is tested as a float."""
_TWO = 2
"""After the decimal point, a number of this length has no room for digits and an exponent."""
_NEVER_TINY = 5
"""A text of this length cannot be a number that underflows a float."""


@dataclass(frozen=True)
class ReprintedNumbers:
    """SQL conditions on a JSON record whose numbers were parsed as floats and reprinted: one may have lost digits."""

    short: str
    """The condition for a number that is now at most ten characters long."""
    tiny: str
    """The condition for a number that is now zero."""
    any: str


@dataclass(frozen=True)
class TextTraits:
    """Facts that hold for all texts of a file."""

    underscored: bool = True
    """Whether a text may contain an underscore, which DuckDB accepts as a digit separator."""
    reprinted: ReprintedNumbers | None = None


@dataclass(frozen=True)
class ConversionRule:
    """SQL that converts a raw value. The cast is the value if one of the tests is true.

    Without tests, the cast is always the value, and null for an invalid value.
    """

    cast: str
    fast: str | None = None
    """A fast test, which nearly all values pass."""
    strict: str = "false"
    """A strict test with a pattern, for the others."""
    fallback: str = "null"
    """The value if both tests are false; null for an invalid value."""

    def value(self, cast: str) -> str:
        """Return SQL for the value, given the name of the cast."""
        if self.fast is None:
            return cast
        return f"case when {self.fast} then {cast} when {self.strict} then {cast} else {self.fallback} end"


def of_text(column: Column, text: str, cast: str, texts: TextTraits | None = None) -> ConversionRule:
    """Return the rule for a text; `cast` is the name of its cast."""
    texts, casting = texts or TextTraits(), _cast(text, column)
    fast = _fast(column, text, cast, texts)
    if fast is None:
        return ConversionRule(casting)
    strict, is_exact = _strict(column, text, cast), _is_exact(column.type)
    if column.type.startswith("TIMESTAMP"):
        return ConversionRule(casting, fast, strict, _on_the_hour(column, text))
    if texts.reprinted is not None and (is_exact or column.type in _REALS):
        cut = texts.reprinted.any if is_exact else f"({cast} = 0 and {texts.reprinted.any})"
        return ConversionRule(casting, fast, f"({strict}) and not {cut}")
    if not is_exact or column.is_inferred:
        return ConversionRule(casting, fast, strict)
    written = f"case when {_strict(column, 'y', _cast('y', column))} then {_cast('y', column)} end"
    return ConversionRule(casting, fast, strict, f"list_transform([{_without_exponent(text)}], lambda y: {written})[1]")


def value_of(column: Column, text: str) -> str:
    """Return SQL for the value of a text, which can be any expression."""
    return (
        f"list_transform([{text}], lambda x: {of_text(column, 'x', _cast('x', column)).value(_cast('x', column))})[1]"
    )


def of_scanned_date(date: str) -> ConversionRule:
    """Return the rule for a date that DuckDB's CSV reader parsed with `dateformat`; it is strict with two exceptions.

    It accepts two-digit years, and reads words such as `infinity` as the first day of 1900.
    """
    return ConversionRule(date, f"{date} between '1000-01-01' and '9999-12-31' and {date} <> '1900-01-01'")


def of_type(column: Column, value: str, kind: str) -> ConversionRule:
    """Return the rule for a value of the DuckDB type `kind`: casting it forth and back must not change it."""
    if kind == "VARCHAR":
        return ConversionRule(value_of(column, value))
    if kind == "TIMESTAMPTZ" and column.type.startswith(("TIMESTAMP", "DATE", "TIME")) and column.type != kind:
        return ConversionRule(f"null::{column.type}")  # the time zone would be lost
    cast = _cast(value, column)
    same = f"{value} is not distinct from try_cast({cast} as {kind})"
    return ConversionRule(f"case when {' and '.join([same, *in_years(column, cast)])} then {cast} end")


def _cast(text: str, column: Column) -> str:
    return text if column.type == "VARCHAR" else f"try_cast({text} as {column.type})"


def is_nested(kind: str) -> bool:
    """Return whether a DuckDB type is a list, a struct or a map."""
    return kind.endswith("]") or kind.startswith(("STRUCT", "MAP"))


def reason(column: Column, text: str) -> str:
    """Return SQL for the reason why a text is invalid: the column, the type, the value, and a hint."""
    shown = f"({text})::varchar"
    shown = f"case when len({shown}) > {_REASON_LENGTH} then left({shown}, {_REASON_LENGTH}) || '…' else {shown} end"
    why = f"{literal(type_mismatch(column))} || {shown}"
    if column.is_inferred:
        return f"{why} || {literal(f' (the type was inferred; declare {column.name} as varchar)')}"
    if column.type.startswith("TIMESTAMP") and column.type != "TIMESTAMPTZ":
        zoned = f"regexp_full_match(({text})::varchar, {literal(_ZONED)})"
        return f"{why} || case when {zoned} then ' (it has a zone; declare TIMESTAMPTZ)' else '' end"
    return why


def type_mismatch(column: Column) -> str:
    """Return the prefix of the reason for a value that is not of its column's type."""
    return f"column {column.name!r} is not {column.type}: "


def _fast(column: Column, text: str, cast: str, texts: TextTraits) -> str | None:
    """Return SQL that is true only if the cast is lossless; None if casts always are."""
    kind = column.type
    if _is_exact(kind):
        return _fast_number(column, text, cast, texts)
    if kind in _REALS:
        grouped = f" and not contains({text}, '_')" if texts.underscored else ""
        first = f"{text} >= '1' and {cast} < 1e15" if column.is_inferred else f"{text} >= '-'"
        return f"isfinite({cast}) and {_no_underflow(text, cast, texts)} and {first}{grouped}"
    if kind == "DATE":
        return f"strlen({text}) = 10 and {cast} between '1000-01-01' and '9999-12-31'"
    if kind.startswith("TIMESTAMP"):
        zone = f" or {text} glob '????-??-??[ T]??:??:?[0-9]Z'" if kind == "TIMESTAMPTZ" else ""
        years = f"{cast} >= '1000-01-01' and {cast} < '9999-12-31 23:59:59'"
        return f"({text} glob '????-??-??[ T]??:??:?[0-9]'{zone}) and {years}"
    return "false" if kind in _TIMES or kind == "INTERVAL" else None


def _fast_number(column: Column, text: str, cast: str, texts: TextTraits) -> str:
    """Return the test for integers and decimals: the text equals the printed cast, has its scale, or is short."""
    decimal, again = decimal_of(column.type), f"{cast}::varchar = {text}"
    if decimal is None:
        return f"{again} and try_cast({cast} as bigint) is not null" if "HUGE" in column.type else again
    digits, places = decimal
    if texts.reprinted is None:
        if texts.underscored or not 0 < places <= _TWO or column.is_inferred:
            return again
        return f"{text} like {literal('%.' + '_' * places)} and {cast} is not null"
    # for numbers this short, different decimals are different floats
    same = f"{cast}::double = try_cast({text} as double) and abs({cast}::double) < 1e{digits - places}"
    first = "1" if column.is_inferred else "-"
    return (
        f"strlen({text}) <= {_SHORT} and {text} >= '{first}' and {_no_underflow(text, cast, texts)} "
        f"and {same} and not contains({text}, '_') and not {texts.reprinted.short}"
    )


def _no_underflow(text: str, cast: str, texts: TextTraits) -> str:
    """Return the test that a number is zero only if the text is zero, not because a negative exponent underflowed."""
    if texts.reprinted is None:
        return f"({cast} <> 0 or strlen({text}) <= {_NEVER_TINY})"
    return f"case when {cast} <> 0 then true when {text} = '0' then true else not ({texts.reprinted.tiny}) end"


def _strict(column: Column, text: str, cast: str) -> str:
    """Return a test that is true only if the cast is lossless, and always for such text without an exponent."""
    kind, shape = column.type, _shape(column)
    tests = [f"regexp_full_match({text}, {literal(shape)})", *in_years(column, cast)]
    if kind in _REALS:
        is_word = f"regexp_full_match({text}, {literal(_NO_NUMBER)})"
        nothing = f"regexp_full_match({text}, {literal(_ZERO)})"
        return f"{is_word} or ({tests[0]} and isfinite({cast}) and ({cast} <> 0 or {nothing}))"
    if "HUGE" in kind:
        tests.append(f"try_cast({cast} as bigint) is not null")
    return f"{' and '.join(tests)} and {cast} is not null"


def _shape(column: Column) -> str:
    """Return the pattern of valid text of a type."""
    kind, digits = column.type, _FRACTION_DIGITS.get(column.type, 6)
    clock = rf"[0-9]{{1,2}}:[0-9]{{1,2}}(:[0-9]{{1,2}}(\.[0-9]{{0,{digits}}}0*)?)?"
    if _is_exact(kind):
        return _exact_shape(column)
    if kind in _REALS:
        return _REAL_AS_WRITTEN if column.is_inferred else _REAL
    if kind == "DATE":
        return rf"\s*{_DAY}{_MIDNIGHT}\s*"
    if kind.startswith("TIMESTAMP"):
        zone = f"({_ZONE})?" if kind == "TIMESTAMPTZ" else ""
        return rf"\s*{_DAY}(( +|T){clock}{zone})?\s*"
    if kind in _TIMES:
        zone = "" if kind in {"TIME", "TIME_NS"} else f"({_ZONE})?"
        return rf"\s*{clock}{zone}\s*"
    return f"(?i:{_SPAN})"


def _exact_shape(column: Column) -> str:
    """Return the pattern of integers and decimals: digits beyond the scale of the type must be zeros."""
    decimal = decimal_of(column.type)
    places = 0 if decimal is None else decimal[1]
    if column.is_inferred:
        return "-?(0|[1-9][0-9]*)" if places == 0 else rf"-?(0|[1-9][0-9]*)(\.[0-9]{{0,{places}}}0*)?"
    alone = rf"[0-9]{{1,{places}}}0*" if places else "0+"
    return rf"\s*[+-]?([0-9]+\.?[0-9]{{0,{places}}}0*|\.{alone})\s*"


def _on_the_hour(column: Column, text: str) -> str:
    """Return SQL for a time without minutes, which DuckDB does not parse; null for other text."""
    zone = f"({_ZONE})?" if column.type == "TIMESTAMPTZ" else "()"
    shape = literal(rf"^\s*({_DAY}[ T][0-9]{{2}}){zone}\s*$")
    full = _cast(f"regexp_replace({text}, {shape}, '\\1:00\\2')", column)
    is_one = " and ".join([f"regexp_full_match({text}, {shape})", *in_years(column, full)])
    return f"case when {is_one} then {full} end"


def _is_exact(kind: str) -> bool:
    return kind in _INTEGERS or decimal_of(kind) is not None


def _without_exponent(text: str) -> str:
    """Return SQL that expands the exponent of a number, because DuckDB's decimals lose digits; null for other text."""
    point, digits = "(len(m['i']) + m['e']::int)", "(m['i'] || m['f'])"
    shifted = (
        f"case when {point} <= 0 then '0.' || repeat('0', -{point}) || {digits} "
        f"when {point} >= len({digits}) then {digits} || repeat('0', {point} - len({digits})) "
        f"else {digits}[:{point}] || '.' || {digits}[{point} + 1:] end"
    )
    return (
        f"case when not regexp_full_match({text}, {literal(_REAL)}) then null "
        f"when regexp_full_match({text}, {literal(_ZERO)}) then '0' "
        f"else list_transform([regexp_extract({text}, {literal(_PARTS)}, ['s', 'i', 'f', 'e'])], "
        f"lambda m: case when abs(try_cast(m['e'] as int)) <= {_LONGEST_SHIFT} then m['s'] || {shifted} end)[1] end"
    )


def in_years(column: Column, time: str) -> list[str]:
    """Return conditions on a time: in the years 1 to 9999, and within a day."""
    if column.type == "DATE":
        return [f"{time} between '0001-01-01' and '9999-12-31'"]
    if column.type.startswith("TIMESTAMP"):
        return [f"{time} >= '0001-01-01'", f"{time} <= '9999-12-31 23:59:59.999999'"]
    return [f"{time} < '24:00:00'"] if column.type in {"TIME", "TIME_NS"} else []
