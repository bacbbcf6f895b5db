"""Under which names the columns of a file come to its table: its own, those that are given, or others in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.errors import Place, SourceError


@dataclass(frozen=True)
class ColumnNames:
    """Names that a definition gives to the columns of its files."""

    names: tuple[str, ...] = ()
    """By position; empty: as the file says."""
    rename: tuple[tuple[str, str], ...] = ()
    """Pairs of a name in the file, which may be one of `names`, and the name in the table."""

    @classmethod
    def of(cls, names: Sequence[str], rename: Sequence[tuple[str, str]]) -> ColumnNames:
        """Return a naming; raise `SourceError` for names that SQL cannot tell apart."""
        for option, new_names in (("names=", names), ("rename=", [new for _, new in rename])):
            twice = same_name(new_names)
            if twice is not None:
                problem = f"{option} gives {twice[0]!r} and {twice[1]!r} to two columns"
                raise SourceError(problem, do="give each column its own name; case does not tell names apart")
            if not all(new_names):
                raise SourceError(f"{option} gives an empty name", do="give each column a name")
        return cls(tuple(names), tuple(rename))

    def named(self, file_names: Sequence[str], place: Place) -> tuple[str, ...]:
        """Return the table's names of the columns in a file; raise `SourceError` for two that SQL cannot tell apart."""
        renamed = dict(self.rename)
        names = tuple(renamed.get(name, name) for name in file_names)
        twice = same_name(names)
        if twice is None:
            return names
        before, name = twice
        if name in renamed.values() and name in file_names:
            problem = f"rename= gives a column the name {name!r}, which the file has too"
            raise SourceError(problem, do="give it a name that the file does not have", place=place)
        if before == name:
            problem = f"the file names {name!r} twice"
            raise SourceError(problem, do="name all columns by position: files(…, header=True, names=[…])", place=place)
        raise SourceError(
            f"the file names {before!r} and {name!r}, which differ in case only",
            do=f"give one another name: files(…, rename={{{name!r}: '…'}})",
            place=place,
        )


def numbered(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names with `column0`, `column1`, ... by position in place of empty ones, as DuckDB does."""
    taken = {name.lower() for name in names if name}
    numbered_names = []
    for number, name in enumerate(names):
        chosen = name or f"column{number}"
        while not name and chosen in taken:
            chosen += "_1"
        numbered_names.append(chosen)
    return tuple(numbered_names)


def same_name(names: Sequence[str]) -> tuple[str, str] | None:
    """Return the first two names that are equal but for case."""
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in seen:
            return seen[name.lower()], name
        seen[name.lower()] = name
    return None
