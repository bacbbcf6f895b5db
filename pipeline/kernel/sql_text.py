"""Pieces of SQL: quoted names and literals, and the bucket of a row."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def quoted(name: str) -> str:
    """Return an identifier in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Return a string literal in single quotes."""
    return "'" + value.replace("'", "''") + "'"


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Return identifiers in double quotes, separated by commas."""
    return ", ".join(quoted(name) for name in names)


def bucket_of(expressions: Iterable[str], buckets: int) -> str:
    """Return the SQL of a row's bucket, 0 to `buckets` - 1, from its key expressions.

    It uses the middle bits of the hash, because DuckDB's hash tables use the low and high bits.
    """
    return f"((hash({', '.join(expressions)}) >> 28) % {buckets})::integer"


def unused_name(name: str, taken: Collection[str]) -> str:
    """Return a name that differs from all names taken, ignoring case, for generated columns next to the user's."""
    known = {each.lower() for each in taken}
    while name.lower() in known:
        name += "_"
    return name
