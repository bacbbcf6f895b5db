"""How the rows of a step come to their table: as they are, merged by their key, or in the place of others."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.batch.work import Outcome
from pipeline.commit.quarantine import in_json, json_text, stage_quarantine
from pipeline.core.definitions import Merge, StoredDefinition, Table
from pipeline.core.staging import Mode, RowCounts, StagedFile
from pipeline.kernel.budget import budget_here
from pipeline.kernel.checks import merge_expectations, unless_deleted
from pipeline.kernel.planner.provenance import passed_through
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql import SqlTransform, parse
from pipeline.kernel.sql_text import quoted
from pipeline.lake import MergeSpec, Version, merge, replace_keys
from pipeline.project.workspace import Workspace
from pipeline.warehouse.modelling import FactTransform


@dataclass(frozen=True)
class StagedRows:
    """The staged rows of a step, of which definition and run they are, and the version they come to, if to any."""

    definition: StoredDefinition
    outcome: Outcome
    run_id: str
    seen: Version | None


@dataclass(frozen=True)
class CommitPlan:
    """What to commit of a step: files that come, URIs of files that go, what is set aside, and how rows flowed."""

    files: tuple[StagedFile, ...]
    flow: RowCounts
    quarantined: tuple[StagedFile, ...]
    quarantine_mode: Mode
    removed: frozenset[str] = frozenset()
    tombstones: tuple[StagedFile, ...] = ()


def merge_of(definition: StoredDefinition) -> Merge | None:
    """Return how a definition's table is merged, or `None` when it is not."""
    return definition.merge if isinstance(definition, Table) else None


def definition_to_validate(definition: StoredDefinition) -> StoredDefinition:
    """Return the definition as its new rows are judged: those of a merged table may share a key."""
    how = merge_of(definition)
    if how is None:
        return definition
    expect = (*unless_deleted(definition.expect, how), *merge_expectations(definition.key, how))
    return replace(definition, key=(), expect=expect)


def key_passed_on(workspace: Workspace, definition: StoredDefinition, driving: str) -> tuple[str, ...] | None:
    """Return the columns in which a table, and its key if it has one, have its driving input's key, or `None`.

    Then all rows of one such key come from one row of the input, and changes of the input can be followed by key. A
    merged table has its own order of events and follows none.
    """
    key = workspace.stored(driving).key
    transform = definition.transform if isinstance(definition, Table) else None
    if not key or not isinstance(transform, SqlTransform) or merge_of(definition) is not None:
        return None
    tree = parse(transform.text) if isinstance(transform, FactTransform) else transform.tree
    passed = passed_through(tree, driving, key)
    # a key of its own that leaves out the input's may be shared by rows of several: one going would bring another back
    return passed if passed is not None and (not definition.key or set(passed) <= set(definition.key)) else None


def plan_commit(workspace: Workspace, staged: StagedRows) -> CommitPlan:
    """Return what to commit of new rows: for a merged table, after merging them."""
    how, outcome, seen = merge_of(staged.definition), staged.outcome, staged.seen
    quarantine_mode: Mode = "overwrite" if seen is None else "append"
    if how is None:
        return CommitPlan(outcome.files, outcome.flow, outcome.quarantined, quarantine_mode)
    merged = merge(_work(workspace, staged, staged.definition.key, how))
    flow = replace(outcome.flow, rows_out=merged.rows_out, superseded=merged.superseded, deletes=merged.deletes)
    return CommitPlan(merged.files, flow, outcome.quarantined, quarantine_mode, merged.removed, merged.tombstones)


def replace_by_key(workspace: Workspace, staged: StagedRows, driving: str, changed: Scan) -> CommitPlan:
    """Return what to commit of rows made again: they replace all rows of the keys that `changed` rows of the input have.

    Rows of these keys leave the quarantine too, and those set aside now come in.
    """
    outcome, definition = staged.outcome, staged.definition
    theirs, ours = workspace.stored(driving).key, key_passed_on(workspace, definition, driving)
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
