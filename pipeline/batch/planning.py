"""The execution plan of a table: strategy, splits and executor, from its definition and its inputs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from sqlglot import exp

from pipeline.batch.costs import gathered_s, in_buckets_s
from pipeline.core.definitions import Source, StoredDefinition, Table
from pipeline.core.execution import Execution, ExecutionLimits, NodeResources
from pipeline.core.functions import FunctionTransform
from pipeline.core.refusal import Refusal
from pipeline.core.splits import SourceSplit
from pipeline.kernel.aggregates.decomposition import Decomposition, decompose
from pipeline.kernel.planner import provenance
from pipeline.kernel.planner.exchange import Exchange, exchange
from pipeline.kernel.planner.strategy import StrategyChoice, choose_strategy
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql import SqlTransform, statement_of
from pipeline.warehouse.modelling.facts import FactTransform

DEFAULT_LIMITS = ExecutionLimits()
BROADCAST_BYTES = 128 << 20
"""Inputs of at least this size are not broadcast."""
EXPANSION = 6
"""The size of rows and their hash table in memory, relative to their size in the lake's files."""


@dataclass(frozen=True)
class ExecutionPlan:
    """How a definition is computed: the strategy, the executor, and the reasons."""

    strategy: str
    driving: str
    reason: str
    executor: Execution
    why: str
    rows: int = 0
    size_bytes: int = 0
    exchange: Exchange | None = None
    """For the strategy `exchange`: how the inputs are partitioned."""

    @property
    def splits_alone(self) -> bool:
        """Whether new rows of the driving input only add rows to the output, and change no existing rows."""
        return self.strategy in {"blockwise", "broadcast", "files"}


def execution_plan(
    definition: StoredDefinition,
    scans: Mapping[str, Scan],
    source_splits: Sequence[SourceSplit] = (),
    limits: ExecutionLimits = DEFAULT_LIMITS,
) -> ExecutionPlan:
    """Choose the strategy and the executor for a table; `scans` and `source_splits` are its inputs.

    Statements that combine rows by key run in this process if all inputs fit in memory, or if there is no cluster, in which
    case DuckDB works out of core. Otherwise they run on Ray: in one worker or in buckets, whichever is estimated to be
    faster.
    """
    chosen = strategy(definition)
    if definition.is_dataset_function:
        size, rows = (sum(getattr(scan, name) for scan in scans.values()) for name in ("size_bytes", "rows"))
        return ExecutionPlan(chosen.strategy, chosen.driving, chosen.reason, "ray", "datasets require Ray", rows, size)
    driving = scans.get(chosen.driving)
    size = sum(source_split.size_bytes for source_split in source_splits) if driving is None else driving.size_bytes
    rows = 0 if driving is None else driving.rows
    executor, why = choose_executor(chosen.strategy, size, limits)
    direct = ExecutionPlan(chosen.strategy, chosen.driving, chosen.reason, executor, why, rows, size)
    total_bytes = sum(scan.size_bytes for scan in scans.values())
    fits = limits.memory_bytes is None or total_bytes * EXPANSION <= limits.memory_bytes
    here = limits.execution == "inline" or (limits.execution == "auto" and (fits or not limits.has_cluster))
    if source_splits or here or not _combines_large(direct, scans):
        return direct
    why = "execution is set to ray" if limits.execution == "ray" else _too_large(total_bytes, limits)
    return _on_cluster(definition, replace(direct, executor="ray", why=why), scans, limits.nodes())


def _combines_large(direct: ExecutionPlan, scans: Mapping[str, Scan]) -> bool:
    """Return whether the plan gathers all rows, or broadcasts inputs that are too large."""
    others = (scan.size_bytes for name, scan in scans.items() if name != direct.driving)
    return direct.strategy == "gather" or any(size >= BROADCAST_BYTES for size in others)


def _on_cluster(
    definition: StoredDefinition, direct: ExecutionPlan, scans: Mapping[str, Scan], nodes: Sequence[NodeResources]
) -> ExecutionPlan:
    """Return the faster plan: all rows in one worker, if they fit in its memory, or in buckets, if that is possible."""
    size_bytes, node = sum(scan.size_bytes for scan in scans.values()), max(nodes)
    alone = replace(direct, strategy="gather", reason=f"{direct.reason}; all rows in one worker")
    fits = size_bytes * EXPANSION <= node.memory_bytes
    if fits and len(nodes) == 1:
        return alone
    chosen = exchanged(definition, scans)
    if isinstance(chosen, Refusal):
        return replace(alone if fits else direct, reason=f"{direct.reason}; {chosen}")
    buckets = replace(direct, strategy="exchange", reason=chosen.reason, exchange=chosen)
    if not fits:
        return buckets
    cut_bytes = sum(scans[name].size_bytes for name in chosen.keys)
    one_s, many_s = gathered_s(size_bytes, node), in_buckets_s(size_bytes, cut_bytes, nodes)
    plan, words = (alone, "one worker") if one_s <= many_s else (buckets, "buckets")
    return replace(plan, why=f"{plan.why}; {words}: {one_s:.1f} s in one worker, {many_s:.1f} s in buckets (estimated)")


def exchanged(definition: StoredDefinition, scans: Mapping[str, Scan]) -> Exchange | Refusal:
    """Return how a table's statement runs in buckets, or why it cannot."""
    transform = statement_of(definition)
    if transform is None:
        return Refusal("it is not a SQL statement")
    schemas = {name: scan.schema for name, scan in scans.items()}
    tree = transform.tree_over({name: schema.names for name, schema in schemas.items()})
    sizes = {name: scan.size_bytes for name, scan in scans.items()}
    return exchange(tree, schemas, sizes, BROADCAST_BYTES)


def _too_large(size_bytes: int, limits: ExecutionLimits) -> str:
    memory = (limits.memory_bytes or 0) / 1e6
    return f"{size_bytes / 1e6:,.0f} MB of files do not fit in {memory:,.0f} MB of memory"


def source_execution_plan(
    definition: Source, source_splits: Sequence[SourceSplit], limits: ExecutionLimits = DEFAULT_LIMITS
) -> ExecutionPlan:
    """Choose the executor for reading a source."""
    size = sum(source_split.size_bytes for source_split in source_splits)
    executor, why = choose_executor("files", size, limits)
    return ExecutionPlan("files", "", f"{definition.name!r} is read split by split", executor, why, 0, size)


def strategy(definition: StoredDefinition) -> StrategyChoice:
    """Choose the strategy from the definition alone."""
    if isinstance(definition, Source):
        return StrategyChoice("blockwise", "", "file by file")
    if not isinstance(definition, Table):
        raise TypeError(type(definition).__name__)
    transform = definition.transform
    if isinstance(transform, FunctionTransform):
        return _of_function(transform)
    if isinstance(transform, FactTransform):
        return _of_fact(transform)
    if isinstance(transform, SqlTransform):
        return _planned(transform)
    return StrategyChoice("gather", transform.inputs[0], "it is stateful and processes all rows in order")


def carries_provenance(definition: StoredDefinition, driving: str, columns: tuple[str, ...]) -> bool:
    """Return whether the rows of a table are validated with their position in the source, which defines their order."""
    transform = statement_of(definition)
    return transform is not None and provenance.carries_provenance(transform.tree, driving, columns)


def _of_function(transform: FunctionTransform) -> StrategyChoice:
    driving = transform.inputs[0]
    if transform.language == "dataset":
        return StrategyChoice("gather", driving, "a function of datasets")
    others = [repr(name) for name in transform.inputs[1:]]
    if others:
        return StrategyChoice("broadcast", driving, f"a function of blocks, with all rows of {', '.join(others)}")
    return StrategyChoice("blockwise", driving, "a function of blocks")


@functools.lru_cache(maxsize=1024)
def _planned(transform: SqlTransform) -> StrategyChoice:
    """Return the strategy of a statement, cached because it is used several times in a run."""
    return choose_strategy(transform.tree)


@functools.lru_cache(maxsize=1024)
def decomposed(transform: SqlTransform) -> Decomposition:
    """Return the decomposition of a grouped SELECT whose strategy is `partial`, cached likewise."""
    return decompose(cast("exp.Select", transform.tree))


def tree_of(transform: object) -> exp.Query:
    """Return the statement of a SQL transform."""
    if not isinstance(transform, SqlTransform):
        raise TypeError(type(transform).__name__)
    return transform.tree


def choose_executor(chosen: str, size_bytes: int, limits: ExecutionLimits) -> tuple[Execution, str]:
    """Choose between this process and Ray by the settings, the strategy and the size of the input."""
    size = f"{size_bytes / 1e6:,.1f} MB"
    if chosen == "gather" and limits.execution == "auto":
        return "inline", "gather runs in one process"
    if limits.execution != "auto":
        return limits.execution, f"execution is set to {limits.execution}"
    if not limits.has_cluster:
        return "inline", "RAY_ADDRESS is not set"
    if size_bytes < limits.inline_bytes:
        return "inline", f"{size} is below {limits.inline_bytes / 1e6:,.0f} MB"
    return "ray", f"{size} is {limits.inline_bytes / 1e6:,.0f} MB or more"


def _of_fact(transform: FactTransform) -> StrategyChoice:
    """Choose the strategy of a fact from its complete statement: its SELECT joined with the dimensions."""
    choice = _planned(transform)
    if choice.strategy == "broadcast" and transform.lookups:
        dimensions = ", ".join(dict.fromkeys(repr(look.dimension) for _, look in transform.lookups))
        return replace(choice, reason=f"{dimensions} joined to each split of {choice.driving!r}")
    return choice
