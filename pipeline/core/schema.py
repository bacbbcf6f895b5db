"""Schema contracts: the columns a table promises, in SQL's type names, and how two contracts differ."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.core.errors import few


@dataclass(frozen=True)
class Column:
    """One column: its name and its DuckDB type, for example `BIGINT` or `TIMESTAMPTZ`."""

    name: str
    type: str
    is_inferred: bool = field(default=False, compare=False)
    """Whether its type was found in data and not declared: a text that it would write in another way is none of its."""
    key: str = field(default="", compare=False)
    """Its name in the data, where that is another."""
    note: str = field(default="", compare=False)
    """What the user should know of how it was inferred."""
    is_added: bool = field(default=False, compare=False)
    """Whether it came to its table later than some of the files, which do not have it."""

    @property
    def data_name(self) -> str:
        """The name in the data."""
        return self.key or self.name


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in order."""

    columns: tuple[Column, ...]

    @classmethod
    def of(cls, columns: Mapping[str, str]) -> Schema:
        """Return the schema of a `{name: type}` mapping; types in upper case, but not the names inside them."""
        return cls(tuple(Column(name, _in_upper_case(kind)) for name, kind in columns.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """The column names, in order."""
        return tuple(column.name for column in self.columns)

    def as_dict(self) -> dict[str, str]:
        """Return the schema as a `{name: type}` mapping."""
        return {column.name: column.type for column in self.columns}

    def select(self, names: tuple[str, ...]) -> Schema:
        """Return the columns of `names`, in that order."""
        columns = {column.name: column for column in self.columns}
        return Schema(tuple(columns[name] for name in names))

    def inferred(self) -> Schema:
        """Return the same columns as ones whose types were found in data."""
        return Schema(tuple(replace(column, is_inferred=True) for column in self.columns))


@dataclass(frozen=True)
class SchemaChange:
    """How a schema differs from its contract; `str()` says it in words."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    retyped: tuple[tuple[str, str, str], ...]
    """Columns as `(name, type before, type now)`."""

    def __bool__(self) -> bool:
        """Return whether anything changed."""
        return bool(self.added or self.removed or self.retyped)

    def __str__(self) -> str:
        """Return the change as one clause, for example `new column 'x', 'y' is gone`."""
        folded = {name.lower(): name for name in self.removed}
        recased = {name: folded[name.lower()] for name in self.added if name.lower() in folded}
        parts = [f"{old!r} is written {new!r}, which differs in case only" for new, old in recased.items()]
        parts += [f"new column {name!r}" for name in self.added if name not in recased]
        parts += [f"{name!r} is gone" for name in self.removed if name not in recased.values()]
        parts += [f"{name!r} was {before}, is {now}" for name, before, now in self.retyped]
        return few(parts)


def compare(contract: Schema, current: Schema) -> SchemaChange:
    """Return how `found` differs from `contract`; the order of the columns does not matter."""
    before, now = contract.as_dict(), current.as_dict()
    return SchemaChange(
        added=tuple(name for name in now if name not in before),
        removed=tuple(name for name in before if name not in now),
        retyped=tuple((n, before[n], now[n]) for n in before if n in now and before[n] != now[n]),
    )


_PIECES = re.compile(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'|\w+|\s+|.')


def _in_upper_case(kind: str) -> str:
    """Return a DuckDB type in upper case; names of fields and members of enums stay as they are."""
    words: list[str] = []
    names_fields: list[bool] = []
    awaits_name = False
    for piece in _PIECES.findall(kind):
        if piece == "(":
            names_fields.append("".join(words).rstrip().endswith(("STRUCT", "ROW", "UNION")))
        elif piece == ")" and names_fields:
            names_fields.pop()
        is_word = piece[0] not in "\"'"
        words.append(piece.upper() if is_word and not awaits_name else piece)
        if not piece.isspace():
            awaits_name = piece in "(," and bool(names_fields) and names_fields[-1]
    return "".join(words)
