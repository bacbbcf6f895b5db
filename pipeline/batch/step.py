"""One step to do: a definition, its inputs as they are read now, and the run it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from pipeline.batch.planning import ExecutionPlan, carries_provenance
from pipeline.batch.row_producers import FunctionProducer, SourceProducer, SqlProducer, WholeInputProducer
from pipeline.batch.work import RowProducer, TaskSpec
from pipeline.core.definitions import Feed, Source, StoredDefinition, Table
from pipeline.core.functions import FunctionTransform
from pipeline.core.schema import Column, Schema
from pipeline.core.settings import Settings
from pipeline.core.sources import Reader
from pipeline.core.splits import SourceSplit
from pipeline.kernel.budget import budget_here
from pipeline.kernel.checks import key_expectations
from pipeline.kernel.planner.projection import used_columns
from pipeline.kernel.planner.provenance import with_provenance, without_provenance
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql import SqlTransform
from pipeline.lake import DeltaStager, Lake, Version


@dataclass(frozen=True)
class StepSpec:
    """What `execute` does."""

    definition: StoredDefinition
    route: ExecutionPlan
    scans: Mapping[str, Scan]
    run_id: str
    at: str
    parts: tuple[SourceSplit, ...] = ()
    reader: Reader | None = None
    """For parts: what reads them."""
    schema: Schema | None = None
    """For parts: the contract of their source."""
    feed: Feed | None = None
    """The source that the parts belong to, where it is not the definition itself."""
    existing: Version | None = None
    """For an append: the rows that are there already."""
    existing_first: bool = True
    """Whether new rows come after those, so that of rows of one key the one that is there stays."""

    @property
    def reads(self) -> Source | Feed | None:
        """The source whose parts are read, if any are."""
        return self.definition if isinstance(self.definition, Source) else self.feed

    @property
    def is_dataset(self) -> bool:
        """Whether the definition is a function of whole datasets."""
        transform = self.definition.transform if isinstance(self.definition, Table) else None
        return isinstance(transform, FunctionTransform) and transform.language == "dataset"

    @property
    def driving_schema(self) -> Schema:
        """The columns of the driving input."""
        if self.feed is not None:
            return SourceProducer(cast("Reader", self.reader), cast("Schema", self.schema), self.at).all_columns
        return self.scans[self.route.driving].schema


def work_of(spec: StepSpec, lake: Lake, settings: Settings, producer: RowProducer | None = None) -> TaskSpec:
    """Return what a task needs to know for a step; rows come from `producer`, else as the definition says."""
    definition = spec.definition
    table = lake.table(definition.layer, definition.name, partition_by=definition.partition_by)
    quarantined = lake.quarantine(definition.name)
    return TaskSpec(
        table=definition.name,
        place=definition.place,
        producer=_producer_of(spec) if producer is None else producer,
        stager=table.stager(spec.run_id),
        quarantined=DeltaStager(quarantined.storage, spec.run_id),
        run_id=spec.run_id,
        at=spec.at,
        expectations=(*definition.expect, *key_expectations(definition.key)),
        key=definition.key,
        existing=None if spec.existing is None else spec.existing.scan(),
        existing_first=spec.existing_first,
        are_splits_ranked=_are_splits_ranked(spec),
        limits=budget_here(settings.memory_bytes).whole(),
        filesystem=lake.storage.filesystem(),
    )


def _relaxed(schema: Schema, named: set[str]) -> Schema:
    """Return a contract that takes any text in the columns that a statement does not name: nobody looks at them."""
    return Schema(tuple(c if c.name in named else Column(c.name, "VARCHAR") for c in schema.columns))


def _are_splits_ranked(spec: StepSpec) -> bool:
    """Return whether the step's splits are in the order of the places in the source that their rows carry."""
    places = [(part.piece.uri, part.begin) for part in spec.parts]
    if spec.reads is None or places != sorted(places):
        return False
    if spec.reads is spec.definition:
        return True
    return spec.route.splits_alone and carries_provenance(
        spec.definition, spec.route.driving, spec.driving_schema.names
    )


def _producer_of(spec: StepSpec) -> RowProducer:
    definition = spec.definition
    reads = spec.reads
    source = None
    if reads is not None:
        may_skip = reads.unreadable == "quarantine"
        source = SourceProducer(
            cast("Reader", spec.reader), cast("Schema", spec.schema), spec.at, may_skip, reads.event_time
        )
    if source is not None and reads is definition:
        return source
    transform = cast("Table", definition).transform
    if source is not None and isinstance(transform, SqlTransform):
        named = set(used_columns(transform.tree, spec.route.driving, source.schema))
        source = replace(source, schema=_relaxed(source.schema, named))
    others = {name: scan for name, scan in spec.scans.items() if name != spec.route.driving}
    if isinstance(transform, FunctionTransform):
        return FunctionProducer(transform, others, definition.place, source)
    if not isinstance(transform, SqlTransform):
        return WholeInputProducer(transform, others, source)
    columns = {name: scan.schema.names for name, scan in spec.scans.items()}
    tree = transform.tree_over({**columns, spec.route.driving: spec.driving_schema.names})
    tree = tree if spec.feed is None else without_provenance(tree, spec.route.driving)
    text = tree.sql("duckdb", comments=False)
    hidden: tuple[str, ...] = ()
    if spec.route.splits_alone:
        text, hidden = with_provenance(tree, spec.route.driving, spec.driving_schema.names)
    return SqlProducer(text, spec.route.driving, others, hidden, source)
