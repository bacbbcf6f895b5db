"""The specification of a step: a definition, the current state of its inputs, and its run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import cast

import pyarrow as pa

from pipeline.batch.planning import ExecutionPlan, carries_provenance
from pipeline.batch.row_producers import FunctionProducer, SourceProducer, SqlProducer, WholeInputProducer
from pipeline.batch.type_changes import type_rule
from pipeline.batch.work import RowProducer, SharedRead, TaskSpec
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
from pipeline.kernel.scan import DataFile, Scan
from pipeline.kernel.sql import SqlTransform
from pipeline.lake import DeltaStager, Lake, Version


@dataclass(frozen=True)
class Refresh:
    """New rows of the driving input, which are added to the aggregate states of all rows that were consumed before."""

    states: pa.Table
    added: tuple[DataFile, ...]


@dataclass(frozen=True)
class StepSpec:
    """The input of `execute`."""

    definition: StoredDefinition
    execution_plan: ExecutionPlan
    scans: Mapping[str, Scan]
    """The inputs to compute from. For a refresh they are complete: only the code that merges states reads less."""
    run_id: str
    at: str
    source_splits: tuple[SourceSplit, ...] = ()
    reader: Reader | None = None
    """The reader of `source_splits`."""
    schema: Schema | None = None
    """The contract of the source of `source_splits`."""
    feed: Feed | None = None
    """The source of `source_splits`, if it is not the definition itself."""
    shared: SharedRead | None = None
    """Rows of `source_splits` that this run has already read for several tables."""
    existing: Version | None = None
    """For an append: the existing rows."""
    refresh: Refresh | None = None
    """For a refresh: what is read instead of the driving input, and what it is added to."""
    states_fit: bool = True
    """Whether the aggregate states of a grouped table are computed; not if those of its last version exceeded the limit."""
    existing_first: bool = True
    """Whether existing rows precede the new rows, so that they are kept if a key occurs in both."""

    @property
    def reads(self) -> Source | Feed | None:
        """The source that is read, if any."""
        return self.definition if isinstance(self.definition, Source) else self.feed

    @property
    def size_bytes(self) -> int:
        """The bytes of all rows that are read."""
        split_bytes = sum(source_split.size_bytes for source_split in self.source_splits)
        return split_bytes + sum(scan.size_bytes for scan in self.scans_read.values())

    @property
    def scans_read(self) -> Mapping[str, Scan]:
        """The inputs, with only the new rows of the driving input for a refresh."""
        if self.refresh is None:
            return self.scans
        driving = self.execution_plan.driving
        return {**self.scans, driving: replace(self.scans[driving], files=self.refresh.added)}

    @property
    def is_dataset(self) -> bool:
        """Whether the definition is a function of Ray datasets."""
        return self.definition.is_dataset_function

    @property
    def driving_schema(self) -> Schema:
        """The columns of the driving input; none if the definition reads no table, as a calendar."""
        if self.feed is not None:
            return SourceProducer(cast("Reader", self.reader), cast("Schema", self.schema), self.at).all_columns
        driving = self.execution_plan.driving
        return self.scans[driving].schema if driving else Schema(())


def task_spec_of(
    spec: StepSpec,
    lake: Lake,
    settings: Settings,
    producer: RowProducer | None = None,
    memory_bytes: int | None = None,
) -> TaskSpec:
    """Return the task of a step for this process; rows come from `producer`, by default from that of the definition."""
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
        merge=definition.merge,
        existing=None if spec.existing is None else spec.existing.scan(),
        existing_first=spec.existing_first,
        are_splits_ranked=_are_splits_ranked(spec),
        limits=budget_here(memory_bytes or settings.memory_bytes).whole(),
        filesystem=lake.storage.filesystem(),
    )


def columns_read(table: Table, name: str, schema: Schema) -> frozenset[str]:
    """Return the columns of an input that a table may use: those that its statement names, or all for a function."""
    transform = table.transform
    return frozenset(
        used_columns(transform.tree, name, schema) if isinstance(transform, SqlTransform) else schema.names
    )


def _relaxed(schema: Schema, named: Collection[str]) -> Schema:
    """Return a contract that accepts any text in the columns that a statement does not use."""
    return Schema(tuple(c if c.name in named else Column(c.name, "VARCHAR") for c in schema.columns))


def _are_splits_ranked(spec: StepSpec) -> bool:
    """Return whether the step's splits are in the order of the source positions of their rows."""
    places = [(source_split.source_object.uri, source_split.begin) for source_split in spec.source_splits]
    if spec.reads is None or places != sorted(places):
        return False
    if spec.reads is spec.definition:
        return True
    return spec.execution_plan.splits_alone and carries_provenance(
        spec.definition, spec.execution_plan.driving, spec.driving_schema.names
    )


def _producer_of(spec: StepSpec) -> RowProducer:
    definition = spec.definition
    reads = spec.reads
    source = None
    if reads is not None:
        may_skip = reads.unreadable == "quarantine"
        source = SourceProducer(
            cast("Reader", spec.reader),
            cast("Schema", spec.schema),
            spec.at,
            may_skip,
            reads.event_time,
            spec.shared,
            type_rule(reads.new_types, cast("Reader", spec.reader)),
        )
    if source is not None and reads is definition:
        return source
    transform = cast("Table", definition).transform
    if source is not None:
        named = columns_read(cast("Table", definition), spec.execution_plan.driving, source.schema)
        source = replace(source, schema=_relaxed(source.schema, named))
    others = {name: scan for name, scan in spec.scans.items() if name != spec.execution_plan.driving}
    if isinstance(transform, FunctionTransform):
        return FunctionProducer(transform, others, definition.place, source)
    if not isinstance(transform, SqlTransform):
        return WholeInputProducer(transform, others, source)
    columns = {name: scan.schema.names for name, scan in spec.scans.items()}
    tree = transform.tree_over({**columns, spec.execution_plan.driving: spec.driving_schema.names})
    tree = tree if spec.feed is None else without_provenance(tree, spec.execution_plan.driving)
    text = tree.sql("duckdb", comments=False)
    hidden: tuple[str, ...] = ()
    if spec.execution_plan.splits_alone:
        text, hidden = with_provenance(tree, spec.execution_plan.driving, spec.driving_schema.names)
    return SqlProducer(text, spec.execution_plan.driving, others, hidden, source)
