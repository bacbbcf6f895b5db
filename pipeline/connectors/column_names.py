"""The names of columns in a table: those in the data, given names, or renamed ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.core.errors import DefinitionError, Place, SchemaError, SourceError
from pipeline.core.schema import Column, Schema


@dataclass(frozen=True)
class ColumnNames:
    """The options of a definition that name the columns of its data."""

    names: tuple[str, ...] = ()
    """Names by position; empty: the names in the file."""
    rename: tuple[tuple[str, str], ...] = ()
    """Pairs of a name in the data (or in `names`) and the name in the table."""

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

    @classmethod
    def renaming(cls, rename: Mapping[str, str] | None, reserved: Iterable[str]) -> ColumnNames:
        """Return the option `rename=` of messages.

        Raises `DefinitionError` for a new name that is reserved, and `SourceError` for names that are equal in SQL.
        """
        given, taken = dict(rename or {}), set(reserved)
        wrong = next((new for new in given.values() if new.lower() in taken), None)
        if wrong is not None:
            problem, do = f"rename= gives a field the name {wrong!r} of message metadata", "use another name"
            raise DefinitionError(problem, do=do)
        return cls.of((), tuple(given.items()))

    @property
    def renamed_part(self) -> tuple[object, ...]:
        """The part of a fingerprint that the renamed fields are; empty if there are none."""
        return ("rename", *sorted(self.rename)) if self.rename else ()

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
            f"there are columns {before!r} and {name!r}, which differ only in case",
            do=f"rename one of them where the data is read: rename={{{name!r}: '…'}}",
            place=place,
        )

    def of_fields(self, fields: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        """Return the table's names of the fields of records, each with its fields.

        These are two if some records have the old name of a field, and others its new name.
        """
        renamed, fields_of = dict(self.rename), dict[str, tuple[str, ...]]()
        for field in fields:
            name = renamed.get(field, field)
            fields_of[name] = (*fields_of.get(name, ()), field)
        return fields_of

    def of_distinct_fields(self, fields: Iterable[str], place: Place) -> Mapping[str, tuple[str, ...]]:
        """Return `of_fields`; raise `SourceError` for names of the table that are equal in SQL."""
        fields_of = self.of_fields(fields)
        ColumnNames().named(tuple(fields_of), place)
        return fields_of

    def keyed(self, schema: Schema) -> Schema:
        """Return columns of the table with their names in the data; raise `SchemaError` for one that was renamed."""
        if not self.rename:
            return schema
        renamed, old_names = dict(self.rename), {new: old for old, new in self.rename}
        gone = next((name for name in schema.names if name in renamed and name not in old_names), None)
        if gone is not None:
            problem = f"the contract has the column {gone!r}, to which rename= gives the name {renamed[gone]!r}"
            raise SchemaError(problem, do="remove the column from schema=, or its name from rename=")

        def keyed(column: Column) -> Column:
            key = old_names.get(column.name, "")
            return replace(column, key=key, other_key=column.name if key and column.name not in renamed else "")

        return Schema(tuple(keyed(column) for column in schema.columns))


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
