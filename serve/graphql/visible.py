"""What a caller sees of a project: the tables and models that its schema is made from."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.errors import StorageError
from pipeline.core.schema import Schema
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


def visible(backend: Backend, caller: Caller) -> Visible:
    """Return what a caller sees. Tables that are not computed yet or cannot be read have no columns, and are left out."""
    reading, tables = backend.reading, []
    grants = {grant.definition.name: grant for grant in reading.authorizer.readable(caller)}
    seen = {}
    for name, grant in grants.items():
        try:
            version = reading.tables.newest(name)
            if version is not None:
                seen[name] = reading.authorizer.columns(grant, caller, version)
        except (StorageError, DeniedError):
            continue
    columns = {name: each.unmasked for name, each in seen.items()}
    for name, each in seen.items():
        definition = grants[name].definition
        known = reading.related.between(name, columns)
        tables.append(VisibleTable(name, definition.description, each.schema, each.key, known))
    models = [(each.name, each.description) for each in backend.models.definitions if caller.may("predict", each.name)]
    return Visible(tuple(tables), tuple(models), tuple(reading.metrics.readable(caller)))
