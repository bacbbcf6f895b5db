"""Internal names of columns in a shard: user columns have the prefix `c_`, internal columns begin with `_`.

Therefore they cannot collide. Columns are renamed when rows are prepared, and renamed back in the output.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.core.sources import POSITION, SOURCE
from pipeline.kernel.sql_text import listed, quoted

PREFIX = "c_"
LOG_POSITION = listed((SOURCE, POSITION))
"""The columns of prepared rows with their position in the log; null if the table does not have them."""


def internal(name: str) -> str:
    """Return the internal name of a column, as SQL."""
    return quoted(f"{PREFIX}{name}")


def internal_list(names: Iterable[str]) -> str:
    """Return a SELECT list of internal names."""
    return ", ".join(map(internal, names))


def to_internal(names: Iterable[str]) -> str:
    """Return a SELECT list that renames user columns to their internal names."""
    return ", ".join(f"{quoted(name)} as {internal(name)}" for name in names)


def from_internal(names: Iterable[str]) -> str:
    """Return a SELECT list that renames columns from their internal names back to the user's names."""
    return ", ".join(f"{internal(name)} as {quoted(name)}" for name in names)


def internal_struct(names: Iterable[str], of: str = "") -> str:
    """Return the internal columns of a relation as one struct with the user's names."""
    qualifier = f"{of}." if of else ""
    return f"struct_pack({', '.join(f'{quoted(name)} := {qualifier}{internal(name)}' for name in names)})"


def in_log_order(names: Iterable[str], *, descending: bool = False) -> str:
    """Return the ORDER BY keys for prepared rows: by event time, then by log position, then by value."""
    how = "desc nulls last" if descending else "nulls first"
    return ", ".join(f"{key} {how}" for key in ("_at", quoted(SOURCE), quoted(POSITION), internal_struct(names)))


def struct(names: Iterable[str]) -> str:
    """Return user columns as one struct. Two structs are equal if and only if GROUP BY treats them as equal."""
    return f"struct_pack({', '.join(f'{quoted(name)} := {quoted(name)}' for name in names)})"
