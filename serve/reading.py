"""The parts that reading rows needs, whatever interface asks."""

from __future__ import annotations

from dataclasses import dataclass

from serve.access.authorization import Authorizer
from serve.queries.engine import Engine
from serve.related import RelatedTables
from serve.tables import Tables


@dataclass(frozen=True)
class Reading:
    """The parts that reading rows needs."""

    tables: Tables
    engine: Engine
    authorizer: Authorizer
    related: RelatedTables
