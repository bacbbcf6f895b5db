"""What a caller sees of the tables that it may read, for interfaces that describe all of them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.errors import StorageError
from pipeline.core.schema import Schema
from serve.access.authorization import CallerColumns
from serve.access.caller import Caller
from serve.http_errors import DeniedError
from serve.reading import Reading
from serve.related import Relationship


@dataclass(frozen=True)
class VisibleTable:
    """A table as a caller sees it."""

    name: str
    description: str
    schema: Schema
    key: tuple[str, ...]
    relationships: tuple[Relationship, ...]


def visible_tables(
    reading: Reading, caller: Caller, seen: dict[str, CallerColumns] | None = None
) -> tuple[VisibleTable, ...]:
    """Return the tables that a caller may read, in the order of the definitions, and note their columns in `seen`.

    Tables that are not computed yet have no columns, and are left out. One that cannot be read now has the columns that `seen` has.
    """
    seen = {} if seen is None else seen
    grants = {grant.definition.name: grant for grant in reading.authorizer.readable(caller)}
    for name, grant in grants.items():
        try:
            version = reading.tables.newest(name)
            if version is None:
                seen.pop(name, None)
            else:
                seen[name] = reading.authorizer.columns(grant, caller, version)
        except StorageError:
            continue
        except DeniedError:
            seen.pop(name, None)
    columns = {name: each.unmasked for name, each in seen.items()}
    return tuple(
        VisibleTable(
            name,
            grant.definition.description,
            seen[name].schema,
            seen[name].key,
            reading.related.between(name, columns),
        )
        for name, grant in grants.items()
        if name in seen
    )
