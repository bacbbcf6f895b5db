"""Schema contracts: the columns of a table with their SQL types, and the differences between two contracts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipeline.core.errors import few


@dataclass(frozen=True)
class Column:
    """A column: its name and its DuckDB type, for example `BIGINT` or `TIMESTAMPTZ`."""

    name: str
    type: str
    is_inferred: bool = field(default=False, compare=False)
    """Whether the type was inferred from data. A text then matches only if the type formats its value identically."""
    key: str = field(default="", compare=False)
    """The name in the data, if it differs."""
    note: str = field(default="", compare=False)
    """A notice for the user about how the type was inferred."""
    is_added: bool = field(default=False, compare=False)
    """Whether the column was added to its table later, so that older files do not contain it."""
    other_key: str = field(default="", compare=False)
    """Another name in the data, which records have in place of the first; empty if there is none."""

    @property
    def data_name(self) -> str:
        """The name in the data."""
        return self.key or self.name

    @property
    def data_names(self) -> tuple[str, ...]:
        """The names that the column can have in the data."""
        return (self.data_name, self.other_key) if self.other_key else (self.data_name,)


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in order."""

    columns: tuple[Column, ...]

    @classmethod
    def of(cls, columns: Mapping[str, str]) -> Schema:
        """Return the schema of a `{name: type}` mapping. Types are converted to upper case, except names inside them."""
        return cls(tuple(Column(name, _in_upper_case(kind)) for name, kind in columns.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """The column names, in order."""
        return tuple(column.name for column in self.columns)

    def as_dict(self) -> dict[str, str]:
        """Return the schema as a `{name: type}` mapping."""
        return {column.name: column.type for column in self.columns}

    def select(self, names: tuple[str, ...]) -> Schema:
        """Return the schema with only these columns, in this order."""
        columns = {column.name: column for column in self.columns}
        return Schema(tuple(columns[name] for name in names))

    def inferred(self) -> Schema:
        """Return the schema with all columns marked as inferred."""
        return Schema(tuple(replace(column, is_inferred=True) for column in self.columns))


@dataclass(frozen=True)
class SchemaChange:
    """The difference between a schema and its contract; `str()` describes it."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    retyped: tuple[tuple[str, str, str], ...]
    """Columns as `(name, type before, type now)`."""

    def __bool__(self) -> bool:
        """Return whether anything changed."""
        return bool(self.added or self.removed or self.retyped)

    def __str__(self) -> str:
        """Return the change as one clause, for example `new column 'x', column 'y' is missing`."""
        folded = {name.lower(): name for name in self.removed}
        recased = {name: folded[name.lower()] for name in self.added if name.lower() in folded}
        parts = [f"column {old!r} is now {new!r}, which differs only in case" for new, old in recased.items()]
        parts += [f"new column {name!r}" for name in self.added if name not in recased]
        parts += [f"column {name!r} is missing" for name in self.removed if name not in recased.values()]
        parts += [f"column {name!r} was {before}, now {now}" for name, before, now in self.retyped]
        return few(parts)


def compare(contract: Schema, current: Schema) -> SchemaChange:
    """Return how `current` differs from `contract`, ignoring the order of columns."""
    before, now = contract.as_dict(), current.as_dict()
    return SchemaChange(
        added=tuple(name for name in now if name not in before),
        removed=tuple(name for name in before if name not in now),
        retyped=tuple((n, before[n], now[n]) for n in before if n in now and before[n] != now[n]),
    )


_PIECES = re.compile(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'|\w+|\s+|.')


def _in_upper_case(kind: str) -> str:
    """Return a DuckDB type in upper case; field names and enum members are unchanged."""
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
