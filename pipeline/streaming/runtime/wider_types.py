"""Changes of a source's columns in a stream: recorded, and applied to the table and the state when the stream opens.

    1  a value needs a wider type    the stream ends its micro-batch without a commit, and is planned with that type
    2  it opens again                its table is rewritten with the wider type, in a commit that keeps the epoch
    3  a stream that reads the table  meets the wider type in the next version, and does 1 and 2; its state is computed
                                     again from the rows that it has read

Delivery: offsets, watermark and rows are those of the last commit, so a stream that is killed at any of these points
resumes as if it had not been. State with narrower types is recognized by its identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.commit.column_changes import column_changes
from pipeline.commit.commit_plan import schema_of_rows
from pipeline.commit.post_commit import update_quarantine
from pipeline.commit.widening import Widening, widen_table
from pipeline.core.definitions import Source
from pipeline.core.logs import logger
from pipeline.core.schema import Schema, compare
from pipeline.governance import ColumnChange
from pipeline.kernel.budget import budget_here
from pipeline.kernel.type_widening import is_wider
from pipeline.lake import Version
from pipeline.project.contracts import own_columns
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.plan import StreamPlan
from pipeline.streaming.runtime.options import StreamOptions

log = logger(__name__)


def apply_column_changes(
    workspace: Workspace, plan: StreamPlan, options: StreamOptions, run_id: str, at: str
) -> StreamOptions:
    """Record new columns and wider types of a source, and widen the table of a stream that resumes from its last commit.

    Returns the options with which its state is computed again if the types of columns that the state contains are wider
    now. Raises `SchemaError` if a wider type would change a value of the table, and `ConflictError` if another process
    has committed.
    """
    version = workspace.version(plan.name) if options.begin == "committed" else None
    if version is None or version.manifest is None or version.manifest.epoch is None:
        return options
    changes = changes_of(workspace, plan, version.schema)
    if changes:
        workspace.catalog.record_column_changes(run_id, at, changes)
    if not plan.may_widen:
        return options
    retyped = compare(version.schema, schema_of_rows(plan.definition, plan.schema)).retyped
    if retyped and all(is_wider(before, now) for _, before, now in retyped):
        types = {name: now for name, _, now in retyped}
        _widen(workspace, Widening(plan.definition, version, types, run_id, at))
    is_same = version.manifest.fingerprint == plan.definition.fingerprint
    before = version.manifest.epoch.identity if is_same else None
    if plan.identity is not None and before is not None and plan.identity.widens(before, is_wider):
        return replace(options, state="rebuild")
    return options


def changes_of(workspace: Workspace, plan: StreamPlan, before: Schema) -> Sequence[ColumnChange]:
    """Return how the columns of an evolving source differ from those before, with the definitions that they reach."""
    if not isinstance(plan.definition, Source) or not plan.definition.evolves:
        return ()
    before = own_columns(before)
    return column_changes(workspace.project.graph, plan.definition, before, own_columns(plan.schema))


def _widen(workspace: Workspace, widening: Widening) -> Version:
    definition, version = widening.definition, widening.version
    if version.manifest is not None:  # after the next commit, its rejected rows would not be found any more
        update_quarantine(workspace, definition, version.manifest, version.manifest_id)
    log.info("types widen", table=definition.name, types=dict(widening.types), rows=version.rows)
    limits = replace(budget_here(workspace.settings.memory_bytes).whole(), threads=1)
    try:
        with workspace.lake.staging(workspace.table(definition.name), widening.run_id, version):
            return widen_table(workspace, widening, limits)
    finally:
        workspace.lake.end_run(widening.run_id)
