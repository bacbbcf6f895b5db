"""What a caller sees of a project: the tables and models that its schema is made from."""

from __future__ import annotations

from dataclasses import dataclass

from serve.access.authorization import CallerColumns
from serve.access.caller import Caller
from serve.backend import Backend
from serve.metrics.queries import VisibleMetric
from serve.visible_tables import VisibleTable, visible_tables


@dataclass(frozen=True)
class Visible:
    """The tables that a caller may read, the models that it may use, and the metrics that it may ask for, in the order of the definitions."""

    tables: tuple[VisibleTable, ...]
    models: tuple[tuple[str, str], ...]
    """The name and description of each."""
    metrics: tuple[VisibleMetric, ...] = ()


def visible(backend: Backend, caller: Caller, seen: dict[str, CallerColumns]) -> Visible:
    """Return what a caller sees, and note the columns of its tables in `seen`; see `visible_tables`."""
    models = [(each.name, each.description) for each in backend.models.definitions if caller.may("predict", each.name)]
    tables = visible_tables(backend.reading, caller, seen)
    return Visible(tables, tuple(models), tuple(backend.reading.metrics.readable(caller)))
