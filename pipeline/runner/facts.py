"""The facts for decisions, read from the project and the lake without changing either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from pipeline.batch.kept_states import KeptStates
from pipeline.batch.planning import ExecutionPlan, carries_provenance, execution_plan, source_execution_plan, strategy
from pipeline.batch.ray_cluster import nodes
from pipeline.commit.commit_plan import key_passed_on
from pipeline.core.cursors import UNBOUNDED, Bound, ReadPlan
from pipeline.core.definitions import Definition, Feed, Source, StoredDefinition, Table
from pipeline.core.execution import ExecutionLimits
from pipeline.core.fingerprint import fingerprint
from pipeline.core.sources import PROVENANCE, SOURCE
from pipeline.core.splits import SourceSplit
from pipeline.core.staging import Manifest
from pipeline.kernel.budget import budget_here
from pipeline.kernel.scan import DataFile, Scan
from pipeline.kernel.sql import statement_of
from pipeline.lake import Version, scan_for
from pipeline.project.readers import reader_of
from pipeline.project.workspace import Workspace
from pipeline.runner.decide import (
    Decision,
    DecisionKind,
    InputFacts,
    RunOptions,
    TableFacts,
    decide_reading,
    decide_source,
    decide_table,
    reread,
)


def decide(
    workspace: Workspace,
    options: RunOptions,
    definition: Source | Table,
    version: Version | None,
    inputs: Mapping[str, Version],
) -> Decision:
    """Decide what to do with a table at `version`, given the current versions of its inputs."""
    manifest = None if version is None else version.manifest
    is_current = (
        version is not None
        and manifest is not None
        and is_computed_by(workspace, definition, version, manifest.fingerprint)
    )
    stays = isinstance(definition, Table) and definition.is_computed_once and version is not None and version.rows > 0
    table = TableFacts(manifest, is_current=is_current, exists=version is not None, stays=stays)
    if isinstance(definition, Source):
        since = _read_since(workspace, options, definition, manifest)
        decision = decide_source(table, since, options)
        return _planned(workspace, definition, decision, _first_bound(definition, options, since))
    execution_plan = execution_plan_of(workspace, definition, {})
    feed = feed_of(workspace, definition)
    change, kept, driving = None, False, inputs.get(execution_plan.driving)
    if manifest is not None and driving is not None and _has_new(manifest, execution_plan.driving, driving):
        kept = execution_plan.strategy == "partial" and has_states(workspace, definition, manifest)
        if execution_plan.splits_alone or kept:
            number, manifest_id = (of.get(execution_plan.driving) for of in (manifest.inputs, manifest.manifest_ids))
            log = workspace.table(execution_plan.driving)
            change = None if number is None else log.change_since(number, manifest_id, driving)
    if change is not None and change.removed and key_passed_on(workspace, definition, execution_plan.driving) is None:
        change = None
    if kept and change is not None:
        kept = refresh_plan(workspace, definition, scans_of(workspace, definition, inputs), change.added) is not None
    stored = stored_inputs(workspace, definition)
    known = InputFacts(
        versions={name: inputs[name].number if name in inputs else -1 for name in stored},
        manifest_ids={name: inputs[name].manifest_id if name in inputs else None for name in stored},
        driving=execution_plan.driving,
        added=None if change is None else change.added,
        splits_alone=execution_plan.splits_alone,
        merges=definition.merge is not None,
        removed=() if change is None else change.removed,
        rows=inputs[execution_plan.driving].rows if execution_plan.driving in inputs else 0,
        is_later=_is_later(
            workspace, definition, inputs.get(execution_plan.driving), () if change is None else change.added
        ),
        has_states=kept,
    )
    if feed is None:
        return decide_table(table, known, options)
    since = _read_since(workspace, options, feed, manifest)
    decision = decide_reading(table, since, known, options)
    return _planned(workspace, feed, decision, _first_bound(feed, options, since))


def _has_new(manifest: Manifest, name: str, version: Version) -> bool:
    """Return whether an input may have other rows than those consumed; otherwise, its log need not be read."""
    return version.manifest_id is None or version.manifest_id != manifest.manifest_ids.get(name)


def has_states(workspace: Workspace, definition: Table, manifest: Manifest | None) -> bool:
    """Return whether the aggregate states of a table's version are kept."""
    if manifest is None or manifest.backfill:  # several commits of a backfill have the same run
        return False
    return KeptStates.of(workspace.table(definition.name).storage).has(manifest.run_id)


def rebuild_decision(
    workspace: Workspace, definition: Source | Table, version: Version | None, decision: Decision, reason: str
) -> Decision:
    """Return the decision for a table whose new rows turned out to sort before existing ones.

    Raises `SourceError` if its source must be read again and some of its data no longer exists.
    """
    source = definition if isinstance(definition, Source) else feed_of(workspace, definition)
    if source is None or decision.plan is None or version is None or version.manifest is None:
        return Decision(DecisionKind.REBUILD, reason)
    return _planned(workspace, source, reread(version.manifest, decision.plan, reason), UNBOUNDED)


def _is_later(workspace: Workspace, definition: Table, driving: Version | None, added: Sequence[DataFile]) -> bool:
    """Return whether all rows of new files of the driving input sort after existing rows, by their origin.

    Without the origin columns, rows are ordered by value, and the answer is unknown.
    """
    if not definition.key or definition.merge is not None:
        return True
    name = strategy(definition).driving
    if driving is None:
        return carries_provenance(definition, name, PROVENANCE)
    if not added or not carries_provenance(definition, name, driving.schema.names):
        return not added
    bounds = workspace.table(name).bounds(driving, (SOURCE,))
    new = {file.uri for file in added}
    ends = list(zip(*(bounds.column(n).to_pylist() for n in ("uri", "min_0", "max_0")), strict=True))
    lows, highs = [low for uri, low, _ in ends if uri in new], [high for uri, _, high in ends if uri not in new]
    return None not in (*lows, *highs) and (not highs or min(lows) > max(highs))


def _read_since(
    workspace: Workspace, options: RunOptions, source: Source | Feed, manifest: Manifest | None
) -> ReadPlan | None:
    """Return the new data of a source since a manifest, or `None` if it must be read from the beginning."""
    if options.full or manifest is None or manifest.cursor is None:
        return None
    return reader_of(workspace, source).plan(manifest.cursor, _bound(source, options))


def _planned(workspace: Workspace, source: Source | Feed, decision: Decision, bound: Bound) -> Decision:
    """Return a decision with the data to read: to compute everything, all existing data up to a limit."""
    if not decision.takes_all:
        return decision
    return replace(decision, plan=reader_of(workspace, source).plan(None, bound))


def _first_bound(source: Source | Feed, options: RunOptions, since: ReadPlan | None) -> Bound:
    """Return the limit for reading a source from its beginning.

    A limit applies only the first time: rows of the table must not disappear temporarily because they are read again.
    """
    return _bound(source, options) if since is None and not options.full else UNBOUNDED


def _bound(source: Source | Feed, options: RunOptions) -> Bound:
    return replace(source.bound, until=options.until)


def feed_of(workspace: Workspace, definition: Definition) -> Feed | None:
    """Return the unstored source that a table reads, if any."""
    inputs = (workspace.definition(name) for name in definition.inputs)
    return next((source for source in inputs if isinstance(source, Feed)), None)


def stored_inputs(workspace: Workspace, definition: Definition) -> tuple[str, ...]:
    """Return the inputs that are tables in the lake."""
    return tuple(name for name in definition.inputs if isinstance(workspace.definition(name), StoredDefinition))


def keeps_rows(workspace: Workspace, name: str) -> bool:
    """Return whether an input retains all rows that it ever had, except for corrections.

    This holds for sources, and for tables computed row by row from such inputs; not for merged tables and aggregates.
    """
    definition = workspace.definition(name)
    if not isinstance(definition, Table):
        return True
    is_by_row = strategy(definition).strategy in {"blockwise", "broadcast"}
    return is_by_row and definition.merge is None and all(keeps_rows(workspace, above) for above in definition.inputs)


def fingerprint_of(workspace: Workspace, definition: Definition) -> str:
    """Return a definition's fingerprint, which includes that of an unstored source it reads."""
    feed = feed_of(workspace, definition)
    return definition.fingerprint if feed is None else fingerprint(definition.fingerprint, feed.fingerprint)


def is_computed_by(workspace: Workspace, definition: StoredDefinition, version: Version, fingerprint: str) -> bool:
    """Return whether a fingerprint of a version of a table is that of its definition.

    Until the partitioning of a table could change, its partition columns were part of the fingerprint.
    """
    before = replace(definition, partitioned_before=version.partitioned_before)
    return fingerprint in {fingerprint_of(workspace, each) for each in (definition, before)}


def scans_of(workspace: Workspace, definition: Table, inputs: Mapping[str, Version]) -> dict[str, Scan]:
    """Return scans of a table's inputs, without the files that its statement does not need."""
    statement = statement_of(definition)
    if statement is None:
        return {name: version.scan() for name, version in inputs.items()}
    return {name: scan_for(workspace.table(name), version, statement.tree) for name, version in inputs.items()}


def execution_plan_of(
    workspace: Workspace, definition: Table, scans: Mapping[str, Scan], source_splits: Sequence[SourceSplit] = ()
) -> ExecutionPlan:
    """Choose how a table is computed from its inputs, or from splits of an unstored source."""
    return execution_plan(definition, scans, source_splits, _execution_limits(workspace))


def refresh_plan(
    workspace: Workspace, definition: Table, scans: Mapping[str, Scan], added: tuple[DataFile, ...]
) -> ExecutionPlan | None:
    """Return how the aggregate states of new files are computed and merged, or `None` if all rows must be read.

    The strategy depends on the sizes of the inputs and on the cluster, so it may differ from that of the last run.
    """
    driving = strategy(definition).driving
    new = {**scans, driving: replace(scans[driving], files=added)}
    chosen = execution_plan_of(workspace, definition, new)
    return chosen if chosen.strategy == "partial" else None


def source_execution_plan_of(
    workspace: Workspace, definition: Source, source_splits: Sequence[SourceSplit]
) -> ExecutionPlan:
    """Choose how a source's splits are read."""
    return source_execution_plan(definition, source_splits, _execution_limits(workspace))


def _execution_limits(workspace: Workspace) -> ExecutionLimits:
    settings = workspace.settings
    memory_bytes = budget_here(settings.memory_bytes).memory_bytes
    return ExecutionLimits(
        settings.execution,
        settings.inline_bytes,
        memory_bytes,
        has_cluster=bool(settings.ray_address),
        nodes=partial(nodes, settings.cluster),
    )
