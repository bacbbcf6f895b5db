"""Rebuilds state from the log, with the current definition.

    log      ●●●●●●●●●●●●|●●●●●●     read again from the begin of the stream to the committed offsets,
    state    ════════════╡           without quarantined rows, then advanced to the committed watermark

The rows that are emitted meanwhile are already in the table, so they are discarded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.core.epochs import BEGINNING, Epoch, InputProgress
from pipeline.core.errors import RequestError, SourceError
from pipeline.core.sources import Extent
from pipeline.kernel.budget import budget_here
from pipeline.kernel.engine import connect
from pipeline.kernel.sql_text import quoted
from pipeline.project.workspace import Workspace
from pipeline.streaming.operators.operator import WatermarkAdvance
from pipeline.streaming.operators.shard import rows_by_shard
from pipeline.streaming.planning.plan import StreamPlan
from pipeline.streaming.runtime.shard_group import ShardGroup
from pipeline.streaming.runtime.verify import load_quarantined, read_again


@dataclass(frozen=True)
class RebuildSource:
    """What state is rebuilt from: the commit up to which the logs are read, and the current extents of the logs."""

    epoch: Epoch
    extents: Mapping[str, Mapping[str, Extent]]
    """By input."""
    accept_gaps: bool = False
    """Whether to ignore rows that the logs no longer contain."""


def rebuild(workspace: Workspace, plan: StreamPlan, how: RebuildSource, shards: ShardGroup) -> None:
    """Compute the state at a commit in shards that have empty state. Nothing is committed.

    Raises `RequestError` for state that does not depend on the log alone, and `SourceError` if the log no longer
    contains all rows that were read, unless `accept_gaps` is set.
    """
    if plan.operator is None:
        return
    _require_from_log(plan)
    limits = budget_here(workspace.settings.memory_bytes).whole()
    rows = 0
    with connect(limits, filesystem=workspace.lake.storage.filesystem()) as con:
        load_quarantined(con, workspace, plan)
        for name in plan.lookups:
            con.execute(f"create temp view {quoted(name)} as {workspace.require(name).scan().query()}")
        for stream_input in plan.inputs:
            reached = _from_log_begin(how.epoch.inputs[stream_input.name], how.extents[stream_input.name])
            for select, rows_in in read_again(con, stream_input, reached):
                con.execute(f"create or replace temp table {quoted(stream_input.name)} as {select}")
                parts = rows_by_shard(con, plan.operator.prepare(stream_input.name, BEGINNING), len(shards.tasks))
                shards.process([{stream_input.name: [part]} for part in parts], WatermarkAdvance(BEGINNING, BEGINNING))
                rows += rows_in
    lost = how.epoch.totals.get("rows_in", rows) - rows
    if lost > 0 and not how.accept_gaps:
        raise SourceError(
            f"the state of stream {plan.name!r} cannot be rebuilt: its log no longer contains all rows that were read",
            got=f"{rows:,} of {rows + lost:,} rows",
            do="ignore the missing rows with --accept-gaps, revert the change, define a table with another name, or "
            f"rebuild the table from the remaining rows: headwater stream {plan.name} --from earliest",
        )
    shards.process([{} for _ in shards.tasks], WatermarkAdvance(BEGINNING, how.epoch.watermark))


def _from_log_begin(reached: InputProgress, extents: Mapping[str, Extent]) -> InputProgress:
    """Return the progress with the begin of each partition moved to the current begin of the log if that is later."""
    began = {uri: max(o, extents[uri].begin) if uri in extents else o for uri, o in reached.began.items()}
    return replace(reached, began=began)


def _require_from_log(plan: StreamPlan) -> None:
    if plan.identity is not None and plan.identity.kind == "group" and plan.identity.rules["ttl"] != "for ever":
        raise RequestError(
            f"the state of stream {plan.name!r} cannot be rebuilt: expiry by ttl= depends on arrival order",
            do="revert the change, define a table with another name, or rebuild the table: "
            f"headwater stream {plan.name} --from earliest",
        )
