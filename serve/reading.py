"""The parts that reading rows needs, whatever interface asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import to_thread

from serve.access.authorization import Authorizer
from serve.access.caller import Caller
from serve.access.fair_queue import FairQueue
from serve.metrics.queries import MetricQueries
from serve.queries.engine import Engine
from serve.queries.processor_time import timed
from serve.queries.query import Query
from serve.queries.select import VisibleRelation, count
from serve.related import RelatedTables
from serve.tables import Tables

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """The parts that reading rows needs."""

    tables: Tables
    engine: Engine
    authorizer: Authorizer
    related: RelatedTables
    queue: FairQueue
    metrics: MetricQueries

    def count(self, relation: VisibleRelation, query: Query) -> int:
        """Return how many rows a query has on all its pages; raise as `Engine.rows` does."""
        return int(self.engine.tuples(count(relation, query))[0][0])

    async def run(self, caller: Caller, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Run what asks the engine when it is the caller's turn, in a thread; raise `BusyError` if too many wait."""
        async with self.queue.turn(caller.id):
            return await to_thread.run_sync(partial(timed, function, *args, **options))
