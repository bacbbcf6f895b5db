r"""How a value enters a typed column: whole, or not at all.

A `ConversionRule` is SQL that converts a raw value, to null where the type would keep less of it: not a fraction, not some digits,
not a zone. It is the one rule for CSV, JSON, messages, Parquet and rows that are replayed; the page
docs/values.md has it type by type.

DuckDB's casts round, cut and guess, so a cast is believed only after a test of the text. There are two tests for each
type: a cheap one, which nearly all values pass, and a sure one by a pattern, for the others.
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
"""How many digits of a second a type keeps where that is not six; a lake keeps six of TIMESTAMP_NS."""

_REAL = r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*"
_REAL_AS_WRITTEN = r"-?(0|[1-9][0-9]{0,14})|-?(0|[1-9][0-9]*)(\.[0-9]*([eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)"
"""Not an integer of more than fifteen digits, and without zeros and plus signs in front: these are names, not reals."""
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
"""The greatest exponent with which a number is an integer or a decimal; with a greater one it fits none."""
_REASON_LENGTH = 1000
"""How much of a value is in the reason why it was set aside; all of it is in the row."""
_SHORT = 10
"""The length up to which a decimal of JSON is tested as a real."""
_TWO = 2
"""After a point, so many characters of a number have no place for an exponent that has digits before it."""
_NEVER_TINY = 5
"""A text of so few characters is no number that is too small for a real."""


@dataclass(frozen=True)
class ReprintedNumbers:
    """SQL about a record of JSON, whose numbers were parsed as reals and written again: whether one may have lost digits."""

    short: str
    """Of one that is now at most ten characters long."""
    tiny: str
    """Of one that is now zero."""
    any: str


@dataclass(frozen=True)
class TextTraits:
    """What is known of all texts of a file."""

    underscored: bool = True
    """Whether there may be an underscore in one, which DuckDB takes for a separator of digits."""
    reprinted: ReprintedNumbers | None = None


@dataclass(frozen=True)
class ConversionRule:
    """SQL that converts a raw value. The cast is the value where one of the tests is true.

    Without tests it always is, and null for a misfit.
    """

    cast: str
    fast: str | None = None
    """A cheap test, which nearly all values pass."""
    strict: str = "false"
    """A test for the others, by a pattern."""
    fallback: str = "null"
    """The value where both tests are false, null for a misfit."""

    def value(self, cast: str) -> str:
        """Return SQL for the value, with the name of the cast."""
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
    """Return SQL for the value of a text, which may be any expression."""
    return (
        f"list_transform([{text}], lambda x: {of_text(column, 'x', _cast('x', column)).value(_cast('x', column))})[1]"
    )


def of_scanned_date(date: str) -> ConversionRule:
    """Return the rule for a date that DuckDB's CSV reader parsed with `dateformat`, which is strict but for two cases.

    It takes two digits for a year, and words such as `infinity` for the first day of 1900.
    """
    return ConversionRule(date, f"{date} between '1000-01-01' and '9999-12-31' and {date} <> '1900-01-01'")


def of_type(column: Column, value: str, kind: str) -> ConversionRule:
    """Return the rule for a value of the DuckDB type `kind`: it would come back from the column as it was."""
    if kind == "VARCHAR":
        return ConversionRule(value_of(column, value))
    if kind == "TIMESTAMPTZ" and column.type.startswith(("TIMESTAMP", "DATE", "TIME")) and column.type != kind:
        return ConversionRule(f"null::{column.type}")  # its zone would be lost
    cast = _cast(value, column)
    same = f"{value} is not distinct from try_cast({cast} as {kind})"
    return ConversionRule(f"case when {' and '.join([same, *in_years(column, cast)])} then {cast} end")


def _cast(text: str, column: Column) -> str:
    return text if column.type == "VARCHAR" else f"try_cast({text} as {column.type})"


def is_nested(kind: str) -> bool:
    """Return whether a DuckDB type is a list, a struct or a map."""
    return kind.endswith("]") or kind.startswith(("STRUCT", "MAP"))


def reason(column: Column, text: str) -> str:
    """Return SQL for why a text is no value of a column: the column, the type, the value, and what helps."""
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
    """Return the words before a value that is not of its column's type."""
    return f"column {column.name!r} is not {column.type}: "


def _fast(column: Column, text: str, cast: str, texts: TextTraits) -> str | None:
    """Return SQL that is true only where the cast lost nothing; None where a cast never does."""
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
    """Return the test for integers and decimals: written again it is the text, or it has just its places, or is short."""
    decimal, again = decimal_of(column.type), f"{cast}::varchar = {text}"
    if decimal is None:
        return f"{again} and try_cast({cast} as bigint) is not null" if "HUGE" in column.type else again
    digits, places = decimal
    if texts.reprinted is None:
        if texts.underscored or not 0 < places <= _TWO or column.is_inferred:
            return again
        return f"{text} like {literal('%.' + '_' * places)} and {cast} is not null"
    # of so few characters, two numbers that differ as decimals differ as reals
    same = f"{cast}::double = try_cast({text} as double) and abs({cast}::double) < 1e{digits - places}"
    first = "1" if column.is_inferred else "-"
    return (
        f"strlen({text}) <= {_SHORT} and {text} >= '{first}' and {_no_underflow(text, cast, texts)} "
        f"and {same} and not contains({text}, '_') and not {texts.reprinted.short}"
    )


def _no_underflow(text: str, cast: str, texts: TextTraits) -> str:
    """Return the test that a number is zero only if it was written so, and not with an exponent that made it vanish."""
    if texts.reprinted is None:
        return f"({cast} <> 0 or strlen({text}) <= {_NEVER_TINY})"
    return f"case when {cast} <> 0 then true when {text} = '0' then true else not ({texts.reprinted.tiny}) end"


def _strict(column: Column, text: str, cast: str) -> str:
    """Return a test that a text passes only if its cast lost nothing, and if it has no exponent, always then."""
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
    """Return the pattern of the texts of a type."""
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
    """Return the pattern of integers and decimals: digits for which the type has no place have to be zeros."""
    decimal = decimal_of(column.type)
    places = 0 if decimal is None else decimal[1]
    if column.is_inferred:
        return "-?(0|[1-9][0-9]*)" if places == 0 else rf"-?(0|[1-9][0-9]*)(\.[0-9]{{0,{places}}}0*)?"
    alone = rf"[0-9]{{1,{places}}}0*" if places else "0+"
    return rf"\s*[+-]?([0-9]+\.?[0-9]{{0,{places}}}0*|\.{alone})\s*"


def _on_the_hour(column: Column, text: str) -> str:
    """Return SQL for a time without minutes, which DuckDB does not read; null for what is none."""
    zone = f"({_ZONE})?" if column.type == "TIMESTAMPTZ" else "()"
    shape = literal(rf"^\s*({_DAY}[ T][0-9]{{2}}){zone}\s*$")
    full = _cast(f"regexp_replace({text}, {shape}, '\\1:00\\2')", column)
    is_one = " and ".join([f"regexp_full_match({text}, {shape})", *in_years(column, full)])
    return f"case when {is_one} then {full} end"


def _is_exact(kind: str) -> bool:
    return kind in _INTEGERS or decimal_of(kind) is not None


def _without_exponent(text: str) -> str:
    """Return SQL for a number with an exponent without it; null for what is none. DuckDB's decimals lose digits of one."""
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
    """Return what a time has to be: of the years 1 to 9999, and within a day."""
    if column.type == "DATE":
        return [f"{time} between '0001-01-01' and '9999-12-31'"]
    if column.type.startswith("TIMESTAMP"):
        return [f"{time} >= '0001-01-01'", f"{time} <= '9999-12-31 23:59:59.999999'"]
    return [f"{time} < '24:00:00'"] if column.type in {"TIME", "TIME_NS"} else []
