"""Predicts what a run does with a table whose inputs the same run changes first: their new rows are not known yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.commit.commit_plan import key_passed_on
from pipeline.core.definitions import Table
from pipeline.lake import Version
from pipeline.project.workspace import Workspace
from pipeline.runner.decide import Changing, Decision, DecisionKind, RunOptions
from pipeline.runner.facts import decide, execution_plan_of, feed_of, has_states, rebuild_decision


@dataclass(frozen=True)
class TakesChanges:
    """How a table can take changes of its driving input, without reading the rest of it."""

    driving: str
    splits_alone: bool
    """Whether new rows can be processed without the existing ones."""
    merges: bool
    """Whether new rows are merged by their key."""
    by_key: bool
    """Whether rows that are replaced in the input can be replaced in the table."""
    has_states: bool
    """Whether new rows can be added to aggregate states."""


def decide_after(table: TakesChanges, changing: Changing) -> Decision:
    """Decide for a table that would otherwise be up to date, or take new rows of its driving input.

    An append is certain, unless a new row sorts before an existing row of its key. What follows a merge depends on its
    rows: if it replaces none, they are appended; if it replaces most, the table is rebuilt.
    """
    others = [name for name in changing if name != table.driving]
    kind, words = changing.get(table.driving), f"new rows in {table.driving!r}"
    if not others and kind is DecisionKind.APPEND:
        if table.splits_alone:
            return Decision(DecisionKind.MERGE if table.merges else DecisionKind.APPEND, words)
        if table.has_states:
            return Decision(DecisionKind.REFRESH, f"{words}, added to the aggregates")
    if not others and kind is DecisionKind.MERGE:
        takes = table.splits_alone and table.by_key
        reason = f"{table.driving!r} would be merged; the work depends on how many rows that replaces"
        return Decision(DecisionKind.MERGE if takes else DecisionKind.REBUILD, reason)
    return Decision(DecisionKind.REBUILD, f"{', '.join(map(repr, changing))} would change")


def predict(
    workspace: Workspace,
    options: RunOptions,
    definition: Table,
    inputs: Mapping[str, Version],
    changing: Changing,
) -> Decision:
    """Decide what a run does with a table, after what it does with the inputs in `changing`.

    Raises the errors of `decide`.
    """
    version = workspace.version(definition.name)
    decision = decide(workspace, options, definition, version, inputs)
    if not changing or decision.takes_all or version is None:
        return decision
    plan, feed = execution_plan_of(workspace, definition, {}), feed_of(workspace, definition)
    takes = TakesChanges(
        driving="" if feed is not None else plan.driving,
        splits_alone=plan.splits_alone,
        merges=definition.merge is not None,
        by_key=feed is None and key_passed_on(workspace, definition, plan.driving) is not None,
        has_states=plan.strategy == "partial" and has_states(workspace, definition, version.manifest),
    )
    after = decide_after(takes, changing)
    if after.kind is DecisionKind.REBUILD:
        return rebuild_decision(workspace, definition, version, decision, after.reason)
    return after
