"""Doing a step: the work as tasks, here or on Ray, and one outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add
from typing import Any, cast

import pyarrow as pa
from fsspec import AbstractFileSystem
from sqlglot import exp

from pipeline.batch.makers import FromArrow, FromFunction, FromSource, FromSql
from pipeline.batch.task import SPLIT_BYTES, Maker, Outcome, Split, Work, across, run_task
from pipeline.core.definitions import Source, Stored, Table
from pipeline.core.functions import FunctionTransform
from pipeline.core.reading import Piece
from pipeline.core.schema import Schema
from pipeline.core.settings import Settings
from pipeline.kernel.aggregates import STATES, take_apart
from pipeline.kernel.checks import key_expectations
from pipeline.kernel.engine import Limits, arrow, connect
from pipeline.kernel.provenance import carrying
from pipeline.kernel.scan import Scan, register
from pipeline.lake import DeltaStager, Lake, Version
from pipeline.run.planning import Route, tree_of

Tell = Callable[[float], None]


@dataclass(frozen=True)
class Order:
    """One step to do: a definition, its inputs as they are read now, and the run it belongs to."""

    definition: Stored
    route: Route
    scans: Mapping[str, Scan]
    run_id: str
    at: str
    pieces: tuple[Piece, ...] = ()
    schema: Schema | None = None
    """For a source: the contract."""
    existing: Version | None = None
    """For an append: the rows that are there already."""


def execute(order: Order, lake: Lake, settings: Settings, tell: Tell = lambda _: None) -> Outcome:
    """Do a step and return what was staged; nothing is committed yet. `tell` hears which share of it is done."""
    work = work_of(order, lake, settings)
    if order.route.executor == "inline" or order.route.strategy == "gather":
        return _inline(order, work, tell)
    if order.route.strategy == "partial":
        return _partial(order, work, tell)
    outcome = cast("Outcome", reduce(add, _on_ray(order, partial(run_task, work), tell)))
    if across(work, outcome, lake.table(order.definition.layer, work.table).storage.uri):
        # duplicates in different splits: judged again with all rows in one place
        return _inline(order, work, tell)
    return outcome


def _on_ray(order: Order, task: Callable[[Split], Any], tell: Tell) -> Iterator[Any]:
    from pipeline.batch.on_ray import run_tasks  # noqa: PLC0415 - importing Ray takes seconds

    splits = _splits(order)
    for done, outcome in enumerate(run_tasks(order.definition.name, task, splits, order.route.size_bytes), start=1):
        tell(done / len(splits))
        yield outcome


def _inline(order: Order, work: Work, tell: Tell) -> Outcome:
    transform = order.definition.transform if isinstance(order.definition, Table) else None
    if isinstance(transform, FunctionTransform) and transform.language == "dataset":
        from pipeline.batch.on_ray import dataset_rows  # noqa: PLC0415 - importing Ray takes seconds

        inputs = {name: order.scans[name] for name in transform.inputs}
        for reader in dataset_rows(transform.function, inputs):
            maker = FromArrow(reader, order.route.rows, order.route.size_bytes)
            return run_task(replace(work, maker=maker), Split(0))
    return run_task(work, Split(0, order.scans.get(order.route.driving), order.pieces), tell)


def _partial(order: Order, work: Work, tell: Tell) -> Outcome:
    """States per split on Ray, merged here, and the finished rows judged and staged as one split."""
    transform = cast("Table", order.definition).transform
    apart = take_apart(cast("exp.Select", tree_of(transform)))
    driving = order.route.driving
    others = {name: scan for name, scan in order.scans.items() if name != driving}
    task = partial(_states, apart.partial(), others, driving, work.filesystem)
    states = pa.concat_tables(_on_ray(order, task, tell))
    with connect(work.limits, filesystem=work.filesystem) as con:
        register(con, {**others, driving: replace(order.scans[driving], files=())})
        answer = apart.answer(apart.types(con))
    maker = FromArrow(states, order.route.rows, order.route.size_bytes, {STATES: states}, answer)
    return run_task(replace(work, maker=maker), Split(0))


def _states(
    statement: str, others: Mapping[str, Scan], driving: str, filesystem: AbstractFileSystem | None, split: Split
) -> pa.Table:
    with connect(Limits(threads=1), filesystem=filesystem) as con:
        register(con, {**others, driving: cast("Scan", split.scan)})
        return arrow(con, statement)


def _splits(order: Order) -> list[Split]:
    if order.pieces:
        return [Split(number, pieces=(piece,)) for number, piece in enumerate(order.pieces)]
    parts = order.scans[order.route.driving].splits(SPLIT_BYTES)
    return [Split(number, scan) for number, scan in enumerate(parts)]


def work_of(order: Order, lake: Lake, settings: Settings, maker: Maker | None = None) -> Work:
    """Return what a task needs to know for a step; rows come from `maker`, else as the definition says."""
    definition = order.definition
    table = lake.table(definition.layer, definition.name, partition_by=definition.partition_by)
    aside = lake.quarantine(definition.name)
    expectations = (*definition.expect, *key_expectations(definition.key))
    return Work(
        table=definition.name,
        place=definition.place,
        maker=_maker(order) if maker is None else maker,
        stager=table.stager(order.run_id),
        aside=DeltaStager(aside.storage, order.run_id),
        run_id=order.run_id,
        at=order.at,
        expectations=expectations,
        key=definition.key,
        existing=None if order.existing is None else order.existing.scan(),
        limits=_limits(order, settings),
        filesystem=lake.storage.filesystem(),
    )


def _limits(order: Order, settings: Settings) -> Limits:
    threads = 1 if order.route.executor == "ray" else None
    return Limits(memory_bytes=settings.memory_bytes, threads=threads)


def _maker(order: Order) -> Maker:
    definition = order.definition
    if isinstance(definition, Source):
        return FromSource(definition.reader, cast("Schema", order.schema), order.at)
    transform = cast("Table", definition).transform
    others = {name: scan for name, scan in order.scans.items() if name != order.route.driving}
    if isinstance(transform, FunctionTransform):
        return FromFunction(transform, others, definition.place)
    tree = tree_of(transform)
    text = tree.sql("duckdb", comments=False)
    hidden: tuple[str, ...] = ()
    if order.route.splits_alone:
        columns = order.scans[order.route.driving].schema.names
        text, hidden = carrying(tree, order.route.driving, columns)
    return FromSql(text, order.route.driving, others, hidden)
