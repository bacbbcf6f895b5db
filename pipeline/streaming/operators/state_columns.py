"""Internal names of columns in a shard: a column of the user has the prefix `c_`, and ours begin with `_`.

So no name of a user can collide with one of ours. Rows are renamed where they are prepared, and back in the output.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.core.sources import POSITION, SOURCE
from pipeline.kernel.sql_text import listed, quoted

PREFIX = "c_"
LOG_POSITION = listed((SOURCE, POSITION))
"""The columns of prepared rows that say where a row stands in the log; null for a table that does not have them."""


def internal(name: str) -> str:
    """Return the internal name of a column, as SQL."""
    return quoted(f"{PREFIX}{name}")


def internal_list(names: Iterable[str]) -> str:
    """Return a SELECT list of internal names."""
    return ", ".join(map(internal, names))


def to_internal(names: Iterable[str]) -> str:
    """Return a SELECT list that renames columns of the user to their internal names."""
    return ", ".join(f"{quoted(name)} as {internal(name)}" for name in names)


def from_internal(names: Iterable[str]) -> str:
    """Return a SELECT list that renames columns from their internal names to their own."""
    return ", ".join(f"{internal(name)} as {quoted(name)}" for name in names)


def internal_struct(names: Iterable[str], of: str = "") -> str:
    """Return the internal columns of a relation as one struct with the columns' own names."""
    qualifier = f"{of}." if of else ""
    return f"struct_pack({', '.join(f'{quoted(name)} := {qualifier}{internal(name)}' for name in names)})"


def in_log_order(names: Iterable[str], *, descending: bool = False) -> str:
    """Return the keys of ORDER BY for prepared rows: by event time, then by their place in the log, then by value."""
    how = "desc nulls last" if descending else "nulls first"
    return ", ".join(f"{key} {how}" for key in ("_at", quoted(SOURCE), quoted(POSITION), internal_struct(names)))


def struct(names: Iterable[str]) -> str:
    """Return columns of the user as one struct; two are equal where GROUP BY puts their rows into one group."""
    return f"struct_pack({', '.join(f'{quoted(name)} := {quoted(name)}' for name in names)})"
