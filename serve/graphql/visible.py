"""What a caller sees of a project: the tables and models that its schema is made from."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.errors import StorageError
from pipeline.core.schema import Schema
from serve.access.authorization import CallerColumns
from serve.access.caller import Caller
from serve.backend import Backend
from serve.http_errors import DeniedError
from serve.metric_queries import VisibleMetric
from serve.related import Relationship


@dataclass(frozen=True)
class VisibleTable:
    """A table as a caller sees it."""

    name: str
    description: str
    schema: Schema
    key: tuple[str, ...]
    relationships: tuple[Relationship, ...]


@dataclass(frozen=True)
class Visible:
    """The tables that a caller may read, the models that it may use, and the metrics that it may ask for, in the order of the definitions."""

    tables: tuple[VisibleTable, ...]
    models: tuple[tuple[str, str], ...]
    """The name and description of each."""
    metrics: tuple[VisibleMetric, ...] = ()


def visible(backend: Backend, caller: Caller, seen: dict[str, CallerColumns]) -> Visible:
    """Return what a caller sees, and note the columns of its tables in `seen`.

    Tables that are not computed yet have no columns, and are left out. One that cannot be read now has the columns that were seen last.
    """
    reading, tables = backend.reading, []
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
    for name, grant in grants.items():
        if name in seen:
            known, mine = reading.related.between(name, columns), seen[name]
            tables.append(VisibleTable(name, grant.definition.description, mine.schema, mine.key, known))
    models = [(each.name, each.description) for each in backend.models.definitions if caller.may("predict", each.name)]
    return Visible(tuple(tables), tuple(models), tuple(reading.metrics.readable(caller)))
