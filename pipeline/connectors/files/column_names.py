"""The names of a file's columns in its table: the file's own names, given names, or renamed ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.errors import Place, SourceError


@dataclass(frozen=True)
class ColumnNames:
    """The options of a definition that name the columns of its files."""

    names: tuple[str, ...] = ()
    """Names by position; empty: the names in the file."""
    rename: tuple[tuple[str, str], ...] = ()
    """Pairs of a name in the file (or in `names`) and the name in the table."""

    @classmethod
    def of(cls, names: Sequence[str], rename: Sequence[tuple[str, str]]) -> ColumnNames:
        """Return the options; raise `SourceError` for names that are equal in SQL."""
        for option, new_names in (("names=", names), ("rename=", [new for _, new in rename])):
            twice = same_name(new_names)
            if twice is not None:
                problem = f"{option} gives {twice[0]!r} and {twice[1]!r} to two columns"
                raise SourceError(problem, do="use a different name for each column; names are case-insensitive")
            if not all(new_names):
                raise SourceError(f"{option} contains an empty name", do="give each column a name")
        return cls(tuple(names), tuple(rename))

    def named(self, file_names: Sequence[str], place: Place) -> tuple[str, ...]:
        """Return the table's names of the columns of a file; raise `SourceError` for two that are equal in SQL."""
        renamed = dict(self.rename)
        names = tuple(renamed.get(name, name) for name in file_names)
        twice = same_name(names)
        if twice is None:
            return names
        before, name = twice
        if name in renamed.values() and name in file_names:
            problem = f"rename= gives a column the name {name!r}, which is also in the file"
            raise SourceError(problem, do="use a name that is not in the file", place=place)
        if before == name:
            problem = f"the file has two columns named {name!r}"
            raise SourceError(problem, do="name all columns by position: files(…, header=True, names=[…])", place=place)
        raise SourceError(
            f"the file has columns {before!r} and {name!r}, which differ only in case",
            do=f"rename one of them: files(…, rename={{{name!r}: '…'}})",
            place=place,
        )


def numbered(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names with empty ones replaced by `column0`, `column1`, ... by position, as in DuckDB."""
    taken = {name.lower() for name in names if name}
    numbered_names = []
    for number, name in enumerate(names):
        chosen = name or f"column{number}"
        while not name and chosen in taken:
            chosen += "_1"
        numbered_names.append(chosen)
    return tuple(numbered_names)


def same_name(names: Sequence[str]) -> tuple[str, str] | None:
    """Return the first two names that are equal ignoring case."""
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:
            return seen[name.lower()], name
        seen[name.lower()] = name
    return None
