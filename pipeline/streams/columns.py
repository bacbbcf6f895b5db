"""Names inside a shard: a column of the user is `c_` and its name there, ours begin with `_`, so none can be another.

Rows get these names where they are made ready, and their own again where they come out.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.kernel.engine import quoted

PREFIX = "c_"


def held(name: str) -> str:
    """Return what a column is called in a shard, as SQL."""
    return quoted(f"{PREFIX}{name}")


def held_list(names: Iterable[str]) -> str:
    """Return a SELECT list of columns as they are called in a shard."""
    return ", ".join(map(held, names))


def taken_in(names: Iterable[str]) -> str:
    """Return a SELECT list that gives columns of the user the names that they have in a shard."""
    return ", ".join(f"{quoted(name)} as {held(name)}" for name in names)


def given_out(names: Iterable[str]) -> str:
    """Return a SELECT list that gives columns in a shard their own names again."""
    return ", ".join(f"{held(name)} as {quoted(name)}" for name in names)


def held_struct(names: Iterable[str], of: str = "") -> str:
    """Return columns in a shard, of a relation, as one value with their own names; it orders by the first, then the next."""
    qualifier = f"{of}." if of else ""
    return f"struct_pack({', '.join(f'{quoted(name)} := {qualifier}{held(name)}' for name in names)})"


def struct(names: Iterable[str]) -> str:
    """Return columns of the user as one value; equal where nulls stand in the same places, as in GROUP BY."""
    return f"struct_pack({', '.join(f'{quoted(name)} := {quoted(name)}' for name in names)})"
