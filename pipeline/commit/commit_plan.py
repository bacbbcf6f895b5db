"""How the rows of a step are committed to their table: appended, merged by key, or replacing other rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.batch.work import Outcome
from pipeline.commit.quarantine import in_json, json_text, stage_quarantine
from pipeline.core.definitions import StoredDefinition
from pipeline.core.errors import DefinitionError
from pipeline.core.merge_options import START_AT, Merge
from pipeline.core.schema import Schema
from pipeline.core.staging import Mode, RowCounts, StagedFile
from pipeline.kernel.budget import budget_here
from pipeline.kernel.checks import merge_expectations, unless_deleted
from pipeline.kernel.planner.provenance import passed_through
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql import parse, statement_of
from pipeline.kernel.sql_text import quoted
from pipeline.lake import DeltaStager, MergeSpec, Version, merge, merge_events, replace_keys, target_schema
from pipeline.project.workspace import Workspace
from pipeline.warehouse.modelling.facts import FactTransform


@dataclass(frozen=True)
class StagedRows:
    """The staged rows of a step, their definition and run, and the version they are committed on top of, if any."""

    definition: StoredDefinition
    outcome: Outcome
    run_id: str
    seen: Version | None


@dataclass(frozen=True)
class CommitPlan:
    """What to commit for a step: added files, URIs of removed files, quarantined rows, and row counts."""

    files: tuple[StagedFile, ...]
    flow: RowCounts
    quarantined: tuple[StagedFile, ...]
    quarantine_mode: Mode
    removed: frozenset[str] = frozenset()
    tombstones: tuple[StagedFile, ...] = ()
    schema: Schema | None = None
    """The columns of the table, if they are other than those of the rows."""


def definition_to_validate(definition: StoredDefinition) -> StoredDefinition:
    """Return the definition for the validation of new rows: rows of a merged table may share a key."""
    how = definition.merge
    if how is None:
        return definition
    expect = (*unless_deleted(definition.expect, how), *merge_expectations(definition.key, how))
    return replace(definition, key=(), expect=expect)


def key_passed_on(workspace: Workspace, definition: StoredDefinition, driving: str) -> tuple[str, ...] | None:
    """Return the columns in which a table, and its key if it has one, contain its driving input's key, or `None`.

    If they exist, all rows with one such key are computed from one row of the input, and changes of the input can be
    applied by key. A merged table has its own order of events, so this does not apply to it.
    """
    key = row_key(workspace.stored(driving))
    transform = statement_of(definition)
    if not key or transform is None or definition.merge is not None:
        return None
    tree = parse(transform.text) if isinstance(transform, FactTransform) else transform.tree
    passed = passed_through(tree, driving, key)
    # rows of several input keys can share a key without the input's key: deleting one would require restoring another
    return passed if passed is not None and (not definition.key or set(passed) <= set(definition.key)) else None


def plan_commit(workspace: Workspace, staged: StagedRows) -> CommitPlan:
    """Return what to commit for new rows; for a merged table, after merging them."""
    how, outcome, seen = staged.definition.merge, staged.outcome, staged.seen
    quarantine_mode: Mode = "overwrite" if seen is None else "append"
    if how is None:
        return CommitPlan(outcome.files, outcome.flow, outcome.quarantined, quarantine_mode)
    work = _work(workspace, staged, staged.definition.key, how)
    conflicts = DeltaStager(workspace.lake.quarantine(staged.definition.name).storage, f"{staged.run_id}-conflicts")
    schema = None
    try:
        if how.needs_events:
            result = merge_events(work, conflicts)
            merged, schema = result.merged, result.schema
        else:
            merged = merge(work, conflicts)
    except DefinitionError as error:  # raised by the lake, which does not know the definition
        error.place = error.place or staged.definition.place
        raise
    flow = replace(
        outcome.flow,
        rows_out=merged.rows_out,
        superseded=merged.superseded,
        deletes=merged.deletes,
        quarantined=outcome.flow.quarantined + merged.conflicts,
    )
    quarantined = (*outcome.quarantined, *merged.quarantined)
    return CommitPlan(merged.files, flow, quarantined, quarantine_mode, merged.removed, merged.tombstones, schema)


def schema_of_rows(definition: StoredDefinition, rows: Schema) -> Schema:
    """Return the columns of a table for those of the rows that are committed to it, which a merge may change."""
    return target_schema(definition.merge, definition.key, rows)


def row_key(definition: StoredDefinition) -> tuple[str, ...]:
    """Return the columns that are unique in a table: its key, and the begin of a version if it has history."""
    how = definition.merge
    return (*definition.key, START_AT) if how is not None and how.scd_type == 2 else definition.key  # noqa: PLR2004 - the standard number of the type


def replace_by_key(workspace: Workspace, staged: StagedRows, driving: str, changed: Scan) -> CommitPlan:
    """Return what to commit for recomputed rows, which replace all rows with the keys of the `changed` input rows.

    Quarantined rows with these keys are removed from the quarantine, and newly quarantined rows are added.
    """
    outcome, definition = staged.outcome, staged.definition
    theirs, ours = row_key(workspace.stored(driving)), key_passed_on(workspace, definition, driving)
    if ours is None:
        raise AssertionError(f"{definition.name!r} does not have the key of {driving!r}")
    keys = replace(changed, schema=changed.schema.select(theirs))
    replaced = replace_keys(_work(workspace, staged, ours, None), keys, theirs)
    texts = ", ".join(f"{json_text(quoted(name))} as k{n}" for n, name in enumerate(theirs))
    same = " and ".join(f"{in_json(name)} = k.k{n}" for n, name in enumerate(ours))
    those = f"anti join (select distinct {texts} from ({keys.query()})) as k on {same}"
    quarantined = stage_quarantine(workspace, definition.name, f"{staged.run_id}-all", outcome.quarantined, those)
    return CommitPlan(replaced.files, outcome.flow, quarantined, "overwrite", replaced.removed)


def _work(workspace: Workspace, staged: StagedRows, key: tuple[str, ...], how: Merge | None) -> MergeSpec:
    limits = budget_here(workspace.settings.memory_bytes).whole()
    table, outcome = workspace.table(staged.definition.name), staged.outcome
    return MergeSpec(table, key, how, staged.run_id, outcome.files, outcome.schema, staged.seen, limits)
